-- The transaction that last told of a payment. The log is in the order of transactions, so whoever moves a payment has to be a
-- later one than whoever moved it before.
alter table payment add column log_xid bigint;
alter table payment alter column log_xid set default pg_current_xact_id()::text::bigint;
