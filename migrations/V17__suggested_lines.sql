-- The statement lines that an exception's ledger entry may be, likeliest first, as the last run that found it says:
-- [{"line": uuid, "probability": 0 to 1}].
alter table recon_exception add column suggestions jsonb not null default '[]' check (jsonb_array_length(suggestions) <= 3);
