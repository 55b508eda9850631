-- What reconciliation said before there could be an endpoint that hears of it is old news: the operator's group begins here.
insert into consumer_offset (consumer_group, topic, partition, xid, seq, seen_xid, seen_seq)
    select 'webhooks_operator', 'reconciliation', partition, here.xid, 0, here.xid, 0
        from installation, generate_series(0, log_partitions - 1) as partition,
            (select pg_current_xact_id()::text::bigint as xid) here
    on conflict do nothing;
