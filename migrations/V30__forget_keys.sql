-- Answers are forgotten by age. Ranges of blocks found them only as long as the table lay in the order of their age: once the pages
-- of the first ones forgotten are used again, nearly every range holds something old, and forgetting reads the whole table.
drop index idempotency_age;
create index idempotency_age on idempotency_key (created_at);
