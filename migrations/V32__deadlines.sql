-- What is open past a deadline is read a page at a time. Payments of one day have one deadline, and are told apart by their ids.
create index payment_settle_by on payment (settle_before, id) where is_open;
create index payment_initiate_by on payment (initiate_before, id) where is_open;
