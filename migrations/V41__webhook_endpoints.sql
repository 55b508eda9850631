-- What is known about a webhook endpoint, and what no longer is.
alter table webhook_endpoint
    -- The receiver itself asked for nothing before this instant. paused_until, which counts, is also the breaker's.
    add column asked_until timestamptz,
    -- Counts its addresses, and whenever somebody disables or enables it: an answer to what was sent before says nothing about it.
    add column address_version integer not null default 0,
    -- By then all that was put off for it is due.
    add column put_off_until timestamptz,
    -- Of a deleted one: nothing is open any more, and nobody looks for it.
    add column drained_at timestamptz;
create index webhook_endpoint_to_drain on webhook_endpoint (id) where status = 'deleted' and drained_at is null;

-- What was put off before waits for a day at most, and up to a fifth of that by chance.
update webhook_endpoint set put_off_until = now() + interval '29 hours' where status <> 'deleted';
