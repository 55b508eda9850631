-- The index of failed payments named the state, so that each step of every payment was written into all of its indexes. A reason they
-- have too, and of the others only those that are being undone or looked at by a person.
create index payment_with_reason on payment (id) where reason is not null;
