-- How far a group has ever been. What lies up to there it has taken in or set aside, wherever it is set back to.
alter table consumer_offset
    add column seen_xid bigint not null default 0,
    add column seen_seq bigint not null default 0;
update consumer_offset set seen_xid = xid, seen_seq = seq;
