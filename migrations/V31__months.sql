-- History that is kept goes by the month: a day each of events, effects, entries and holds, none of which is ever dropped, has every
-- statement that does not go by id lock and look at more tables each day, until there is no room for its locks.
alter table daily_partitioned add column span text not null default 'day' check (span in ('day', 'month'));
update daily_partitioned set span = 'month' where parent in ('event', 'effect', 'journal_entry', 'hold_movement');

-- Prepares one partition. Where its time has begun without it, what came meanwhile lies with the other days, and so does what follows;
-- and where the table is in use for longer than others should wait behind us, there is a next time. Neither keeps the others from it.
create function ensure_partition(parent text, name text, first_day date, end_day date, fill_percent integer) returns integer
    language plpgsql set lock_timeout = '250ms' as $$
begin
    if to_regclass(format('%I', name)) is not null then
        return 0;
    end if;
    execute format('create table %I partition of %I for values from (%L) to (%L) with (fillfactor = %s)', name, parent,
        uuid_floor(first_day::timestamp at time zone 'UTC'), uuid_floor(end_day::timestamp at time zone 'UTC'), fill_percent);
    return 1;
exception
    when duplicate_table or unique_violation then
        return 0; -- another process was faster
    when check_violation or lock_not_available then
        raise warning 'partition % was not prepared: %', name, sqlerrm;
        return 0;
end $$;

-- The partitions of these days: of days, or of their months and the next. A month of which a day was prepared goes on in days.
create or replace function ensure_daily_partitions(first_day date, last_day date) returns integer language plpgsql as $$
declare
    made integer := 0;
    wanted record;
begin
    for wanted in
        with day as (
            select parent, fill_percent, span, day::date as day
                from daily_partitioned, generate_series(first_day, last_day, interval '1 day') as day
            union
            select parent, fill_percent, span, (last_day + interval '1 month')::date from daily_partitioned where span = 'month'
        ), spanned as (
            select parent, fill_percent, day, span = 'month' and not exists (
                    select from pg_inherits join pg_class child on child.oid = pg_inherits.inhrelid
                        where pg_inherits.inhparent = to_regclass(format('%I', parent))
                            and child.relname ~ ('^' || parent || to_char(day, '_YYYYMM') || '[0-9]{2}$')) as is_month
                from day
        )
        select distinct parent, fill_percent,
                parent || to_char(day, case when is_month then '_YYYYMM' else '_YYYYMMDD' end) as name,
                case when is_month then date_trunc('month', day)::date else day end as first,
                case when is_month then (date_trunc('month', day) + interval '1 month')::date else day + 1 end as beyond
            from spanned where is_month or day <= last_day order by parent, first
    loop
        made := made
            + ensure_partition(wanted.parent, wanted.name, wanted.first, wanted.beyond, wanted.fill_percent);
    end loop;
    return made;
end $$;

-- As before, but whoever uses the table waits no longer for a day to go than for one to come.
create or replace function drop_daily_partitions(parent text, before date) returns integer language plpgsql
    set lock_timeout = '250ms' as $$
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
        begin
            execute format('drop table %I', old);
            dropped := dropped + 1;
        exception when lock_not_available then
            raise warning 'partition % was not dropped: %', old, sqlerrm;
        end;
    end loop;
    return dropped;
end $$;
