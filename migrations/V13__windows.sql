-- Transactions of ours that are in a block and not beyond every reorganisation yet: followed by that block, which is remembered for as
-- long as one of them is in it.
create index chain_tx_followed on chain_tx (included_number) where state in ('included', 'confirmed');
