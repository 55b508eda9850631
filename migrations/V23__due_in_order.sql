-- What is due on the chain is found by its kind, at a bank by its bank, each in the order in which it is due. One index for both could
-- not be read in that order on chain, where there is no bank: everything that was due was read, sorted and joined for each claim.
create index effect_due_on_chain on effect (kind, next_attempt_at) where is_waiting and lane = 'chain';
create index effect_due_at_bank on effect (bank_code, next_attempt_at) where is_waiting and lane = 'bank';
