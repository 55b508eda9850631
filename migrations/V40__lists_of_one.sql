-- What is rare among a participant's payments is found without passing over everybody else's.
create index payment_debtor_with_reason on payment (debtor_participant, id) where reason is not null;
create index payment_creditor_with_reason on payment (creditor_participant, id) where reason is not null;
create index payment_debtor_other_kind on payment (debtor_participant, id) where kind <> 'transfer';
create index payment_creditor_other_kind on payment (creditor_participant, id) where kind <> 'transfer';
