-- What the proof counts beside what wallets hold.

-- Failed, and a reorganisation has opened it on chain again: what it escrows is with the manager until it is closed again. A column of
-- its own, which no step of an ordinary payment changes, so that rows go on changing in place.
alter table payment add column is_open_again boolean not null
    generated always as (state = 'failed' and chain_leg = 'open') stored;
create index payment_open_again on payment (id) where is_open_again;

-- Tokens that a wallet cannot receive and that wait for it with the manager, as of the announced block.
create table chain_quarantine (
    currency  text not null,
    wallet    bytea not null,
    units     bigint not null,
    primary key (currency, wallet)
);
