-- What a hole in a key's nonces was filled with, written down before any node hears of it: whoever finds the nonce used later, this
-- process or the next, knows that nobody else did it.
create table chain_filler (
    sender   bytea not null,
    nonce    bigint not null,
    tx_hash  bytea not null,
    sent_at  timestamptz not null,
    primary key (sender, nonce, tx_hash)
);
