-- Several keys for one duty, signatures by keys that are not ours to hold, and each state of a transaction by its name.

-- A lane is a key's line of transactions: 'settler' is a settler's first key, 'settler-2' its second.
alter table chain_tx drop constraint chain_tx_lane_check;
alter table chain_tx add constraint chain_tx_lane_check check (lane ~ '^(initiator|settler|canceller)(-[2-8])?$');

-- numbered: it has its nonce; a signer may take its time. dropped: the node has forgotten it, and is told again.
-- confirmed: final by policy. finalized: final for the chain, and beyond any reorganisation that we would follow.
alter table chain_tx drop constraint chain_tx_state_check;
alter table chain_tx add constraint chain_tx_state_check check (state in
    ('intended', 'numbered', 'signed', 'broadcast', 'dropped', 'included', 'confirmed', 'finalized', 'reverted', 'abandoned'));

-- Whose nonce it is; a lane's key can be exchanged.
alter table chain_tx add column sender bytea;
-- When its newest version was signed: what waits for too long after that is replaced.
alter table chain_tx add column signed_at timestamptz;
drop index chain_tx_open;
create index chain_tx_open on chain_tx (lane, nonce)
    where state in ('intended', 'numbered', 'signed', 'broadcast', 'dropped', 'included', 'confirmed');
drop index chain_tx_nonce;
create unique index chain_tx_nonce on chain_tx (sender, nonce) where sender is not null;

-- A version that a newer one replaced, or whose nonce went to somebody else.
alter table chain_tx_version add column replaced_at timestamptz;

alter table chain_lane add column sender bytea;

-- How far the blocks that carry our transactions are on L1, on chains that tell (zks_*).
create table chain_l1_block (
    block_number  bigint primary key,
    batch_number  bigint,
    commit_tx     bytea,
    prove_tx      bytea,
    execute_tx    bytea
);
create index chain_l1_block_open on chain_l1_block (block_number) where execute_tx is null;
