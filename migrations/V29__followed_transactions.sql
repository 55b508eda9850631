-- A transaction is followed until its block is final, which on some chains takes hours. What is in no block yet, and what policy does
-- not count yet, are each found without passing over those that wait for that.
create index chain_tx_unincluded on chain_tx (lane, nonce, created_at, id)
    where state in ('intended', 'numbered', 'signed', 'broadcast', 'dropped');
create index chain_tx_unconfirmed on chain_tx (lane, included_number) where state = 'included';
drop index chain_tx_open;
