-- A policy is drawn from the newest judgements of its scope.
create index recon_judged_newest on recon_judged (scope, judged_at desc, subject);

-- What is rare among payments is found without looking at all the others.
create index payment_failed on payment (id) where state = 'failed';
create index payment_other_kind on payment (kind, id) where kind <> 'transfer';

-- Accounts of a slice are looked up once each, however many of its entries name them, and locked as late as can be: what is locked is
-- what slices wait for.
create or replace function post_journal_entries() returns trigger language plpgsql as $$
declare
    named bigint;
    locked bigint;
begin
    select count(*) into named from (
        select debit_account, currency from posted union select credit_account, currency from posted) leg;
    -- Always in the order of ids, so that two slices never wait for each other in a circle.
    perform from (
            select debit_account as account, currency from posted union select credit_account, currency from posted) leg
        join ledger_account account on account.id = leg.account and account.currency = leg.currency
        order by account.id for no key update of account;
    get diagnostics locked = row_count;
    if locked <> named then
        raise exception 'a journal entry names an account that does not exist or is of another currency'
            using errcode = 'check_violation';
    end if;
    update ledger_account account
        set posted_debits = account.posted_debits + change.debits,
            posted_credits = account.posted_credits + change.credits
        from (
            select leg.account, sum(leg.debits)::bigint as debits, sum(leg.credits)::bigint as credits
                from (
                    select debit_account as account, amount as debits, 0 as credits from posted
                    union all
                    select credit_account, 0, amount from posted
                ) leg
                group by leg.account
        ) change
        where account.id = change.account;
    return null;
end $$;

-- Told apart before the function is called, which it then never is for the updates of whole slices.
drop trigger ledger_account_follows on ledger_account;
create trigger ledger_account_follows before update of posted_debits, posted_credits, held on ledger_account
    for each row when (pg_trigger_depth() < 1) execute function balances_follow_entries();

-- Completed, and a reorganisation has taken its settlement back: it is sent again, and until then the proof counts it. A column of its
-- own, which no step of an ordinary payment changes, so that rows go on changing in place.
alter table payment add column is_taken_back boolean not null
    generated always as (state = 'completed' and chain_leg in ('unused', 'open')) stored;
create index payment_taken_back on payment (id) where is_taken_back;
