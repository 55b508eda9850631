-- The spine: participants and their accounts, payments, ledger, event log, effects.
--
-- History is partitioned by day through its UUIDv7 key: the first 48 bits of such a key are milliseconds, so a range of
-- keys is a range of time, a primary key stays unique over all partitions, and a look-up by id touches one of them.
-- Migrations only expand; what a release no longer needs is contracted in a later one.

-- The smallest UUIDv7 of an instant: the lower bound of a day's partition.
create function uuid_floor(at timestamptz) returns uuid
    language sql immutable parallel safe
    return (lpad(to_hex((extract(epoch from at) * 1000)::bigint), 12, '0') || '00000000000000000000')::uuid;

-- What was chosen once for this database.
create table installation (
    only_one        boolean primary key default true check (only_one),
    log_partitions  smallint not null check (log_partitions between 1 and 256)
);
insert into installation (log_partitions) values (4);

-- ---------------------------------------------------------------------------------------------------------------------
-- Who takes part

create table bank (
    code        text primary key check (code ~ '^[a-z0-9-]{1,32}$'),
    name        text not null,
    bic         text,
    hold_mode   text not null check (hold_mode in ('native', 'escrow', 'confirm_only')),
    created_at  timestamptz not null
);

create table participant (
    id                uuid primary key,
    name              text not null,
    lei               text unique,
    status            text not null default 'active' check (status in ('active', 'suspended')),
    status_reason     text,
    fee_basis_points  smallint not null default 0 check (fee_basis_points between 0 and 10000),
    created_at        timestamptz not null
);

create table oauth_client (
    client_id       text primary key,
    participant_id  uuid references participant, -- null: an operator of ours
    name            text not null,
    scopes          text[] not null,
    jwks            jsonb not null,              -- public keys only
    status          text not null default 'active' check (status in ('active', 'disabled')),
    created_at      timestamptz not null
);

-- Ids of client assertions already used. Rebuilt empty after a crash of the server: assertions live for minutes.
create unlogged table used_assertion (
    jti_hash    bytea primary key,
    expires_at  timestamptz not null
);
create index used_assertion_expiry on used_assertion (expires_at);

create table account (
    id              uuid primary key,
    participant_id  uuid not null references participant,
    bank_code       text not null references bank,
    currency        text not null,
    iban            text not null,
    wallet          bytea not null check (length(wallet) = 20),
    name            text not null,
    status          text not null default 'active' check (status in ('active', 'closed')),
    created_at      timestamptz not null,
    unique (iban, currency),
    unique (wallet, currency)
);
create index account_participant on account (participant_id, id);

-- ---------------------------------------------------------------------------------------------------------------------
-- Payments

create sequence payment_number;

create table payment (
    id                      uuid primary key,
    number                  bigint not null unique,
    participant_id          uuid not null,       -- whose client asked for it
    kind                    text not null check (kind in ('transfer', 'refund', 'issuance', 'redemption')),
    refund_of               uuid check ((refund_of is not null) = (kind = 'refund')),
    funding                 text not null check (funding in ('bank', 'token')),
    payout                  text not null check (payout in ('bank', 'token')),
    currency                text not null,
    amount                  bigint not null check (amount > 0),
    fee                     bigint not null check (fee >= 0 and fee < amount),
    debtor_account          uuid not null,
    debtor_participant      uuid not null,
    debtor_bank             text not null,
    creditor_account        uuid not null,
    creditor_participant    uuid not null,
    creditor_bank           text not null,
    hold_mode               text not null,
    end_to_end_id           text,
    uetr                    uuid not null,
    remittance_information  text,
    "authorization"         jsonb,               -- an ERC-3009 signature that came with the request
    execute_at              timestamptz not null,
    initiate_before         timestamptz not null,
    settle_before           timestamptz not null,
    expires_at              timestamptz not null,
    hold_until              timestamptz not null,
    accepted_at             timestamptz not null,
    traceparent             text not null,
    -- progress
    state                   text not null,
    reason                  text,
    state_since             timestamptz not null,
    chain_leg               text not null,
    hold_leg                text not null,
    payout_leg              text not null,
    round                   smallint not null default 0,
    refunded                bigint not null default 0 check (refunded between 0 and amount)
) with (fillfactor = 85);
create index payment_debtor on payment (debtor_participant, id);
create index payment_creditor on payment (creditor_participant, id);
create index payment_open on payment (state, state_since) where state not in ('completed', 'failed');
create index payment_refund on payment (refund_of) where refund_of is not null;
-- The timers: what is due is found here, and leaves these indexes by its own state.
create index payment_settle_due on payment (settle_before)
    where state in ('accepted', 'initiated', 'held') or (state = 'under_review' and reason = 'creditor_blocked');
create index payment_initiate_due on payment (initiate_before)
    where chain_leg = 'unused' and state in ('accepted', 'cancelling');
create index payment_escrowed on payment (debtor_account) where chain_leg = 'open' and funding = 'token';
-- A reference is used once for ever, so that a retry that comes after its idempotency key has expired cannot pay twice.
create unique index payment_reference on payment (participant_id, end_to_end_id) where end_to_end_id is not null;

-- An answer that was given under a client's key, written with what it answers.
create table idempotency_key (
    client_id    text not null,
    route        text not null,
    key          text not null,
    fingerprint  bytea not null,
    status       smallint not null,
    body         bytea not null,
    created_at   timestamptz not null,
    primary key (client_id, route, key)
);
create index idempotency_age on idempotency_key (created_at);

-- ---------------------------------------------------------------------------------------------------------------------
-- Ledger: entries are facts, balances follow from them, and the database itself sees to both.

create table ledger_account (
    id              bigint generated always as identity primary key,
    kind            text not null,
    owner           text not null default '',
    currency        text not null,
    normal_side     text not null check (normal_side in ('debit', 'credit')),
    posted_debits   bigint not null default 0 check (posted_debits >= 0),
    posted_credits  bigint not null default 0 check (posted_credits >= 0),
    held            bigint not null default 0 check (held >= 0),
    unique (kind, owner, currency)
) with (fillfactor = 70);

create table journal_entry (
    source_id       uuid not null,     -- the payment, or what else moved money
    moment          text not null,
    round           smallint not null,
    debit_account   bigint not null,
    credit_account  bigint not null check (credit_account <> debit_account),
    currency        text not null,
    amount          bigint not null check (amount > 0),
    posted_at       timestamptz not null,
    primary key (source_id, moment, round)
) partition by range (source_id);

-- Each two-legged entry as its two postings.
create view posting as
    select source_id, moment, round, debit_account as account, 'debit' as side, currency, amount, posted_at from journal_entry
    union all
    select source_id, moment, round, credit_account, 'credit', currency, amount, posted_at from journal_entry;

-- Funds reserved and what became of them: placed once and resolved at most once in each round.
create table hold_movement (
    source_id  uuid not null,
    round      smallint not null,
    resolves   boolean generated always as (movement <> 'place') stored,
    movement   text not null check (movement in ('place', 'capture', 'release')),
    account    bigint not null,
    amount     bigint not null check (amount > 0),
    made_at    timestamptz not null,
    primary key (source_id, round, resolves)
) partition by range (source_id);

create function post_journal_entries() returns trigger language plpgsql as $$
begin
    -- Always in the order of ids, so that two slices never wait for each other in a circle.
    perform from ledger_account
        where id in (select debit_account from posted union select credit_account from posted)
        order by id for no key update;
    if exists (
        select from posted
            left join ledger_account debit on debit.id = posted.debit_account
            left join ledger_account credit on credit.id = posted.credit_account
            where debit.currency is distinct from posted.currency or credit.currency is distinct from posted.currency
    ) then
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
create trigger journal_entry_posts after insert on journal_entry
    referencing new table as posted for each statement execute function post_journal_entries();

create function move_holds() returns trigger language plpgsql as $$
begin
    perform from ledger_account where id in (select account from moved) order by id for no key update;
    update ledger_account account
        set held = account.held + change.amount
        from (
            select account, sum(case when movement = 'place' then amount else -amount end)::bigint as amount
                from moved group by account
        ) change
        where account.id = change.account;
    return null;
end $$;
create trigger hold_movement_moves after insert on hold_movement
    referencing new table as moved for each statement execute function move_holds();

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only: put a mistake right by a further row', tg_table_name
        using errcode = 'restrict_violation';
end $$;
create trigger journal_entry_is_immutable before update or delete on journal_entry
    for each row execute function refuse_change();
create trigger hold_movement_is_immutable before update or delete on hold_movement
    for each row execute function refuse_change();
create trigger journal_is_kept before truncate on journal_entry for each statement execute function refuse_change();
create trigger holds_are_kept before truncate on hold_movement for each statement execute function refuse_change();

-- Balances move with entries and by no other hand.
create function balances_follow_entries() returns trigger language plpgsql as $$
begin
    if pg_trigger_depth() < 2 then
        raise exception 'balances follow from journal entries and hold movements'
            using errcode = 'restrict_violation';
    end if;
    return new;
end $$;
create trigger ledger_account_follows before update of posted_debits, posted_credits, held on ledger_account
    for each row execute function balances_follow_entries();

-- ---------------------------------------------------------------------------------------------------------------------
-- The event log. A reader pages by (xid, seq) below the oldest transaction still running, so that nothing appears
-- behind it: a bare sequence would show gaps that fill up later.

create sequence event_seq;

create table event (
    id                    uuid not null primary key,   -- of the instant of writing, hence of its partition
    xid                   bigint not null default pg_current_xact_id()::text::bigint,
    seq                   bigint not null default nextval('event_seq'),
    topic                 text not null,
    partition             smallint not null,
    key                   uuid not null,               -- the payment
    kind                  text not null,
    debtor_participant    uuid,                        -- who may see it
    creditor_participant  uuid,
    traceparent           text not null,
    schema_version        smallint not null default 1,
    data                  jsonb not null,
    recorded_at           timestamptz not null
) partition by range (id);
create index event_page on event (topic, partition, xid, seq);
create index event_key on event (key, xid, seq);
create index event_debtor on event (debtor_participant, xid, seq) where topic = 'payments';
create index event_creditor on event (creditor_participant, xid, seq) where topic = 'payments';

-- All events of a key are in one partition, in order. The last bits of a UUIDv7 are random.
create function log_partition(key uuid) returns smallint language sql stable as $$
    select (('x' || right(key::text, 4))::bit(16)::integer % log_partitions)::smallint from installation
$$;

-- Who reads for a group at present; partitions are shared among them.
create table consumer_member (
    consumer_group  text not null,
    owner           text not null,
    alive_until     timestamptz not null,
    primary key (consumer_group, owner)
);

create table consumer_offset (
    consumer_group  text not null,
    topic           text not null,
    partition       smallint not null,
    xid             bigint not null default 0,
    seq             bigint not null default 0,
    owner           text,
    epoch           bigint not null default 0,
    lease_until     timestamptz not null default '-infinity',
    primary key (consumer_group, topic, partition)
);

-- Events that a group could not take in, and those of the same key behind them, until a person has dealt with the cause.
create table dead_letter (
    id              uuid primary key,
    consumer_group  text not null,
    topic           text not null,
    partition       smallint not null,
    key             uuid not null,
    event_id        uuid not null,
    xid             bigint not null,
    seq             bigint not null,
    cause           text not null,
    attempts        integer not null,
    parked_at       timestamptz not null,
    resolved_at     timestamptz,
    resolution      text check (resolution in ('retried', 'dropped')),
    unique (consumer_group, event_id)
);
create index dead_letter_open on dead_letter (consumer_group, key, xid, seq) where resolved_at is null;

-- ---------------------------------------------------------------------------------------------------------------------
-- Effects: what a step asked the outside for, until it is done.

create table effect (
    payment_id       uuid not null,
    kind             text not null,
    lane             text not null check (lane in ('chain', 'bank')),
    bank_code        text check ((bank_code is not null) = (lane = 'bank')),
    state            text not null default 'ready' check (state in
                         ('ready', 'claimed', 'sent', 'unknown', 'done', 'refused', 'revoked', 'escalated')),
    attempts         integer not null default 0,
    next_attempt_at  timestamptz not null,
    lease_owner      text,
    lease_until      timestamptz,
    fence            bigint not null default 0,
    sent_at          timestamptz,                 -- noted before each call that may have an effect
    reference        text,
    outcome          text,
    booked_at        timestamptz,
    state_since      timestamptz not null,
    traceparent      text not null,
    primary key (payment_id, kind)
) partition by range (payment_id);
create index effect_due on effect (lane, bank_code, next_attempt_at)
    where state in ('ready', 'claimed', 'unknown');
create index effect_sent on effect (lane, state_since) where state = 'sent';
-- Bank operations booked after a statement's instant: the newest rows of the newest days.
create index effect_booked on effect using brin (booked_at);

-- How far the chain is, as the watcher last saw it: the clock of everything that the contracts time.
create table chain_head (
    only_one          boolean primary key default true check (only_one),
    chain_id          bigint not null,
    latest_number     bigint not null,
    latest_time       timestamptz not null,
    safe_number       bigint not null,
    safe_time         timestamptz not null,
    finalized_number  bigint not null,
    finalized_time    timestamptz not null,
    seen_at           timestamptz not null
);

-- ---------------------------------------------------------------------------------------------------------------------
-- Partitions by day

create table daily_partitioned (parent text primary key);
insert into daily_partitioned values ('journal_entry'), ('hold_movement'), ('event'), ('effect');

create function ensure_daily_partitions(first_day date, last_day date) returns integer language plpgsql as $$
declare
    made integer := 0;
    table_name text;
    day date;
begin
    for table_name in select parent from daily_partitioned order by parent loop
        for day in select generate_series(first_day, last_day, interval '1 day')::date loop
            if to_regclass(format('%I', table_name || to_char(day, '_YYYYMMDD'))) is null then
                execute format('create table %I partition of %I for values from (%L) to (%L)',
                    table_name || to_char(day, '_YYYYMMDD'), table_name,
                    uuid_floor(day::timestamp at time zone 'UTC'),
                    uuid_floor((day + 1)::timestamp at time zone 'UTC'));
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end $$;

-- What is older or newer than every day that has been prepared still has a place.
create table journal_entry_other_days partition of journal_entry default;
create table hold_movement_other_days partition of hold_movement default;
create table event_other_days partition of event default;
create table effect_other_days partition of effect default;
