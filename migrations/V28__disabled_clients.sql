-- Every gateway asks once a second whom to refuse.
create index oauth_client_disabled on oauth_client (client_id) where status = 'disabled';
