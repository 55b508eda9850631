-- Why a person dropped a dead letter. Those that were retried need none.
alter table dead_letter add column reason text;
