-- In a migration of its own: whoever reads payments meanwhile and writes one then would wait for us, and we for them.
drop index payment_settle_due, payment_initiate_due;
