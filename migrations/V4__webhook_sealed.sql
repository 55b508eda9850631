-- The keys of webhook endpoints are sealed with a key that is not in the database. Expand: rows from before keep their plain keys
-- until the webhooks role has sealed them, and then hold empty ones; a later migration drops the plain columns. A process of
-- the version before finds no keys in a sealed row, fails that delivery alone, and leaves it to the next attempt.

alter table webhook_endpoint
    add column sealed_keys            bytea,     -- valid while hmac_key is empty
    add column sealed_with            text,      -- which key opens it
    add column previous_sealed_keys   bytea,
    add column previous_sealed_with   text,
    alter column hmac_key set default '',
    alter column ed25519_seed set default '';

-- History that has served its time goes a day at a time. What lies in no day of its own is for the caller to delete.
create function drop_daily_partitions(parent text, before date) returns integer language plpgsql as $$
declare
    dropped integer := 0;
    old text;
begin
    for old in
        select child.relname from pg_inherits
            join pg_class child on child.oid = pg_inherits.inhrelid
            where pg_inherits.inhparent = to_regclass(format('%I', parent))
                and child.relname ~ ('^' || parent || '_[0-9]{8}$')
                and to_date(right(child.relname, 8), 'YYYYMMDD') < before
            order by child.relname
    loop
        execute format('drop table %I', old);
        dropped := dropped + 1;
    end loop;
    return dropped;
end $$;
