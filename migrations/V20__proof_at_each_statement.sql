-- Statements with a closing balance on the account of our reserve at whose instant no run has proven it yet: put here with the statement,
-- taken out by the run that has.
create table statement_to_prove (
    statement_id  uuid primary key references statement,
    bank_code     text not null
);
create index statement_to_prove_of on statement_to_prove (bank_code);
