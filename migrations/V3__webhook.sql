-- Webhooks: where partners want to hear, and one row per event and endpoint until it was heard or given up.

create table webhook_endpoint (
    id                  uuid primary key,
    participant_id      uuid not null references participant,
    url                 text not null check (length(url) <= 2000),
    event_kinds         text[] not null default '{}',   -- empty: every kind
    status              text not null default 'active' check (status in ('active', 'disabled', 'deleted')),
    disabled_reason     text check ((disabled_reason is not null) = (status = 'disabled')),
    -- What deliveries are signed with; after a rotation also with what came before, for a while.
    hmac_key            bytea not null,
    ed25519_seed        bytea not null,
    previous_hmac_key   bytea,
    previous_seed       bytea,
    previous_until      timestamptz,
    -- Health. An endpoint that does not answer is left alone until paused_until, then tried with one delivery at a time.
    failure_streak      integer not null default 0,     -- attempts since the last that succeeded
    unanswered_streak   integer not null default 0,     -- attempts since the last that was answered
    exhausted_streak    integer not null default 0,     -- deliveries given up since the last that succeeded
    failing_since       timestamptz,
    paused_until        timestamptz,
    created_at          timestamptz not null,
    updated_at          timestamptz not null
) with (fillfactor = 70);
create index webhook_endpoint_participant on webhook_endpoint (participant_id, id) where status <> 'deleted';

-- A delivery has its event's instant and a digest of event and endpoint: the same pair always makes the same id, so an
-- event that is taken in again finds its delivery there, in the same partition.
create function webhook_delivery_id(event_id uuid, endpoint_id uuid) returns uuid
    language sql immutable parallel safe
    return (left(replace(event_id::text, '-', ''), 12) || '7' || left(md5(event_id::text || endpoint_id::text), 3)
        || '8' || right(md5(event_id::text || endpoint_id::text), 15))::uuid;

create table webhook_delivery (
    id               uuid not null primary key,
    endpoint_id      uuid not null,
    event_id         uuid not null,
    event_kind       text not null,
    subject_id       uuid not null,             -- the payment; its events arrive in the order of (xid, seq)
    xid              bigint not null,
    seq              bigint not null,
    state            text not null default 'pending' check (state in
                         ('pending', 'claimed', 'delivered', 'exhausted', 'cancelled')),
    attempts         integer not null default 0,
    next_attempt_at  timestamptz not null,      -- while claimed: when the lease ends
    fence            bigint not null default 0,
    attempt_log      jsonb not null default '[]', -- the latest attempts: at, status or error, latency_ms
    created_at       timestamptz not null,
    state_since      timestamptz not null
) partition by range (id);
create index webhook_delivery_listed on webhook_delivery (endpoint_id, state, id);
create index webhook_delivery_due on webhook_delivery (endpoint_id, next_attempt_at)
    where state in ('pending', 'claimed');
create index webhook_delivery_order on webhook_delivery (endpoint_id, subject_id, xid, seq)
    where state in ('pending', 'claimed');

insert into daily_partitioned values ('webhook_delivery');
create table webhook_delivery_other_days partition of webhook_delivery default;
