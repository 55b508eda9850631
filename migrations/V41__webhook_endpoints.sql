-- What is known about a webhook endpoint, and what no longer is.
alter table webhook_endpoint
    -- The receiver itself asked for nothing before this instant. paused_until, which counts, is also the breaker's.
    add column asked_until timestamptz,
    -- Counts its addresses, and whenever somebody disables or enables it: an answer to what was sent before says nothing about it.
    add column address_version integer not null default 0;
