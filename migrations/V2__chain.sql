-- The chain: what we send, what we have seen, and how far we have looked.

-- Our contracts, one set per currency; written from the deployment record when a role starts.
create table chain_contract (
    currency        text primary key,
    token           bytea not null unique,
    token_decimals  smallint not null,
    router          bytea not null,
    manager         bytea not null,
    house           bytea not null
);

-- A transaction from the intention to send it to its finality. The intention is durable before a nonce is taken, the
-- signed bytes are durable before they are broadcast.
create table chain_tx (
    id                uuid primary key,
    lane              text not null check (lane in ('initiator', 'settler', 'canceller')),
    purpose           text not null check (purpose in ('initiate', 'settle', 'cancel', 'burn', 'release_redemption')),
    currency          text not null,
    state             text not null check (state in
                          ('intended', 'signed', 'broadcast', 'included', 'finalized', 'reverted', 'abandoned')),
    calldata          bytea not null,
    contract          bytea not null,
    nonce             bigint,
    raw               bytea,                    -- the newest signed version
    tx_hash           bytea,
    fee_per_gas       bigint,                   -- wei
    priority_fee      bigint,
    gas_limit         bigint,
    versions          integer not null default 0,
    valid_before      timestamptz,              -- the contract refuses it from this block time on
    included_number   bigint,
    included_hash     bytea,
    outcome           text,
    traceparent       text not null,
    created_at        timestamptz not null,
    state_since       timestamptz not null
);
create index chain_tx_open on chain_tx (lane, nonce) where state in ('intended', 'signed', 'broadcast', 'included');
create unique index chain_tx_nonce on chain_tx (lane, nonce) where state not in ('abandoned');

-- Every version of a transaction that was ever signed: whichever is included counts.
create table chain_tx_version (
    tx_hash     bytea primary key,
    chain_tx    uuid not null references chain_tx,
    raw         bytea not null,
    signed_at   timestamptz not null
);
create index chain_tx_version_of on chain_tx_version (chain_tx);

-- Which payments a transaction carries, in which place. Written with the intention.
create table chain_tx_item (
    payment_id  uuid not null,
    chain_tx    uuid not null references chain_tx,
    place       integer not null,
    primary key (payment_id, chain_tx)
);
create index chain_tx_item_of on chain_tx_item (chain_tx, place);

-- A batch that was, or is to be, committed to by one root; its leaves are needed whole whenever it is settled.
create table chain_batch (
    root        bytea primary key,
    currency    text not null,
    chain_tx    uuid not null references chain_tx,
    size        integer not null,
    created_at  timestamptz not null
);

create table chain_leaf (
    payment_id   uuid primary key,
    number       bigint not null,
    root         bytea not null,
    place        integer not null,
    debtor       bytea not null,
    creditor     bytea not null,
    amount       bigint not null,                -- token units
    fee          bigint not null,
    expires_at   bigint not null,               -- block time, seconds
    terms        smallint not null
);
create index chain_leaf_root on chain_leaf (root, place);

create table chain_lane (
    lane         text primary key,
    next_nonce   bigint not null,
    owner        text,
    epoch        bigint not null default 0,
    lease_until  timestamptz not null default '-infinity'
);

-- The watcher: the last block that it has taken in, under a lease.
create table chain_cursor (
    only_one          boolean primary key default true check (only_one),
    block_number      bigint not null,
    block_hash        bytea not null,
    announced_number  bigint not null,           -- logs up to here are final enough for policy and have been announced
    owner             text,
    epoch             bigint not null default 0,
    lease_until       timestamptz not null default '-infinity'
);

create table chain_block (
    number      bigint primary key,
    hash        bytea not null,
    block_time  timestamptz not null
);

-- Logs of our contracts on the canonical chain. Taken out again when a reorganisation takes their block.
create table chain_log (
    block_number  bigint not null,
    log_index     integer not null,
    block_hash    bytea not null,
    tx_hash       bytea not null,
    currency      text not null,
    kind          text not null,
    payment_id    uuid,
    data          jsonb not null,
    announced     boolean not null default false,
    primary key (block_number, log_index)
);
create index chain_log_payment on chain_log (payment_id) where payment_id is not null;
create index chain_log_waiting on chain_log (block_number) where not announced;

-- Who holds how many tokens, and the running totals of each manager, as of the announced block.
create table chain_wallet (
    currency  text not null,
    wallet    bytea not null,
    units     bigint not null,
    primary key (currency, wallet)
);

create table chain_totals (
    currency    text primary key,
    sequence    bigint not null,
    minted      bigint not null,
    burned      bigint not null,
    escrowed    bigint not null,
    redemption  bigint not null,
    gaps        bigint not null default 0        -- how often the sequence jumped: logs that we have missed
);
