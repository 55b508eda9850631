drop index payment_failed;
