-- The audit log: what people and FlowBridge itself did, as leaves of a Merkle tree (RFC 6962) that only grows.
create table audit_entry (
    -- The leaf's place in the tree: 0, 1, 2, … without a gap.
    sequence bigint primary key check (sequence >= 0),
    -- The event of the log that it was made of; each is entered once, however often it is read.
    event_id uuid not null unique,
    recorded_at timestamptz not null,
    action text not null,
    actor text,
    object text not null,
    -- What is hashed, and published.
    leaf bytea not null check (octet_length(leaf) between 1 and 65535)
);
create index audit_entry_object on audit_entry (object, sequence);

-- Every hash of the tree that never changes again, by its number.
create table audit_hash (
    position bigint primary key check (position >= 0),
    hash bytea not null check (octet_length(hash) = 32)
);

-- What opens a leaf's commitment to the event's data. Deleted, the data cannot be told from the leaf any more, and all proofs still hold.
create table audit_salt (
    sequence bigint primary key references audit_entry,
    salt bytea not null check (octet_length(salt) = 32)
);

-- What was signed, and when it came into the archive.
create table audit_checkpoint (
    size bigint primary key check (size > 0),
    note text not null,
    signed_at timestamptz not null,
    published_at timestamptz
);

create trigger audit_checkpoint_is_immutable before update of size, note, signed_at or delete on audit_checkpoint
    for each row execute function refuse_change();
create trigger audit_checkpoints_are_kept before truncate on audit_checkpoint
    for each statement execute function refuse_change();
create trigger audit_entry_is_immutable before update or delete on audit_entry
    for each row execute function refuse_change();
create trigger audit_entries_are_kept before truncate on audit_entry
    for each statement execute function refuse_change();
create trigger audit_hash_is_immutable before update or delete on audit_hash
    for each row execute function refuse_change();
create trigger audit_hashes_are_kept before truncate on audit_hash
    for each statement execute function refuse_change();

-- Whose reports have to come into the archive, and when they did.
create table reconciliation_archive (
    reconciliation_id uuid primary key references reconciliation,
    archived_at timestamptz
);
create index reconciliation_archive_waits on reconciliation_archive (reconciliation_id) where archived_at is null;
insert into reconciliation_archive (reconciliation_id) select id from reconciliation where state = 'done';

-- By a trigger: a process of the version before this one, which knows nothing of an archive, may finish a run as well.
create function reports_wait_for_the_archive() returns trigger language plpgsql as $$
begin
    insert into reconciliation_archive (reconciliation_id) values (new.id) on conflict do nothing;
    return null;
end $$;
create trigger reconciliation_is_archived after update of state on reconciliation
    for each row when (new.state = 'done' and old.state is distinct from 'done')
    execute function reports_wait_for_the_archive();
