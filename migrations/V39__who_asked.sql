-- Which client asked for a payment: idempotency keys, which say so too, are forgotten after a while. Of older payments nobody knows.
alter table payment add column client_id text;
