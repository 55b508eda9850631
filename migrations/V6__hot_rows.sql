-- Rows that change several times within seconds change where they are. PostgreSQL can leave all indexes of a row alone when an
-- update changes no indexed value and finds room on the row's page. What indexes ask for is therefore whether a row is still
-- open, in a column of its own that changes once, and no longer the state that changes with every step; and pages of young
-- rows keep room.

-- Payments: four changes of state, of which only the last touches an index.
alter table payment add column is_open boolean not null
    generated always as (state not in ('completed', 'failed')) stored;
alter table payment set (fillfactor = 50);
drop index payment_open;
drop index payment_settle_due;
drop index payment_initiate_due;
drop index payment_escrowed;
create index payment_settle_due on payment (settle_before) where is_open;
create index payment_initiate_due on payment (initiate_before) where is_open;
create index payment_escrowed on payment (debtor_account) where is_open and funding = 'token';

-- Effects: one waits for a worker, or for a person, until it is done, or sent to the chain, which answers by itself. A claim
-- changes nothing that is indexed; what waits for a person is due never.
alter table effect add column is_waiting boolean not null
    generated always as (state in ('ready', 'claimed', 'unknown', 'escalated')) stored;
update effect set next_attempt_at = 'infinity' where state = 'escalated';
drop index effect_due;
drop index effect_sent;
create index effect_due on effect (lane, bank_code, next_attempt_at) where is_waiting;

-- Deliveries: the lease of a claim has a column of its own, so that the instant of the next attempt, which is indexed, stays.
alter table webhook_delivery
    add column lease_until timestamptz,
    add column is_open boolean not null generated always as (state in ('pending', 'claimed')) stored,
    add column is_given_up boolean not null generated always as (state in ('exhausted', 'cancelled')) stored;
update webhook_delivery set lease_until = next_attempt_at where state = 'claimed';
drop index webhook_delivery_listed;
drop index webhook_delivery_due;
drop index webhook_delivery_order;
create index webhook_delivery_listed on webhook_delivery (endpoint_id, id);
create index webhook_delivery_given_up on webhook_delivery (endpoint_id, id) where is_given_up;
create index webhook_delivery_due on webhook_delivery (endpoint_id, next_attempt_at) where is_open;
create index webhook_delivery_order on webhook_delivery (endpoint_id, subject_id, xid, seq) where is_open;

-- Logs of the chain are announced up to the cursor's place, which says it for all of them at once.
drop index chain_log_waiting;
alter table chain_log drop column announced;

-- The coming days' partitions of what changes keep room on their pages, too.
alter table daily_partitioned add column fill_percent smallint not null default 100;
update daily_partitioned set fill_percent = 60 where parent in ('effect', 'webhook_delivery');
alter table effect_other_days set (fillfactor = 60);
alter table webhook_delivery_other_days set (fillfactor = 60);

create or replace function ensure_daily_partitions(first_day date, last_day date) returns integer language plpgsql as $$
declare
    made integer := 0;
    wanted record;
    day date;
begin
    for wanted in select parent, fill_percent from daily_partitioned order by parent loop
        for day in select generate_series(first_day, last_day, interval '1 day')::date loop
            if to_regclass(format('%I', wanted.parent || to_char(day, '_YYYYMMDD'))) is null then
                execute format('create table %I partition of %I for values from (%L) to (%L) with (fillfactor = %s)',
                    wanted.parent || to_char(day, '_YYYYMMDD'), wanted.parent,
                    uuid_floor(day::timestamp at time zone 'UTC'),
                    uuid_floor((day + 1)::timestamp at time zone 'UTC'), wanted.fill_percent);
                made := made + 1;
            end if;
        end loop;
    end loop;
    return made;
end $$;

-- Calls and signed transactions are some kilobytes of addresses and hashes: compressing them cost more than writing them. The
-- signed bytes are kept once, with their version.
alter table chain_tx alter column calldata set storage external, drop column raw;
alter table chain_tx_version alter column raw set storage external;
-- An item is written with its transaction, in one statement after the other.
alter table chain_tx_item drop constraint chain_tx_item_chain_tx_fkey;

-- Answers are forgotten by age, and lie in the order of their age.
drop index idempotency_age;
create index idempotency_age on idempotency_key using brin (created_at);
