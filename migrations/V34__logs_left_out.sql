-- What no node has shown us. The contracts count: each call that moves money (`totals`), and each initiation (`batch_initiated`). Where
-- such a count jumps, logs were left out between the block of the last number that we know and that of the next.

-- First of all, in the order in which the watcher writes.
create index chain_log_counted on chain_log (currency, kind, block_number, log_index) where kind in ('totals', 'batch_initiated');

create table chain_hole (
    currency       text not null,
    kind           text not null,               -- of the logs that count
    first_number   bigint not null,             -- of the count: the first that is missing
    last_number    bigint not null,             -- the last that is missing
    from_block     bigint not null,
    to_block       bigint not null,
    next_block     bigint not null,             -- to be read again from here on
    found_at       timestamptz not null,
    primary key (currency, kind, first_number)
);

-- How far a router has counted. Null is not known: its count then goes on from wherever it is. `gaps`, how often a count jumped that
-- the version before has read, becomes a hole.
alter table chain_totals add column batches bigint;

-- Those that have initiated before and moved nothing yet.
insert into chain_totals (currency, sequence, minted, burned, escrowed, redemption)
select currency, 0, 0, 0, 0, 0 from chain_contract
on conflict do nothing;
