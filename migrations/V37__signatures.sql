-- What a lane has signed is its call, its nonce and its fees, which stand beside it, and sixty-five bytes more. Those are kept; the call
-- was kept twice before. Versions that an older release signed have the signed bytes whole, and no signature of their own.
alter table chain_tx_version add column signature bytea;
alter table chain_tx_version alter column raw drop not null;

-- What is followed is asked for by its lane with each turn, and not among what other lanes follow.
create index chain_tx_followed_by on chain_tx (lane, included_number) where state in ('included', 'confirmed');
