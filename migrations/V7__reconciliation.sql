-- Statements as the banks told them, the runs that compare them with our books, what differs, and what people decide.
--
-- What a bank said and what a person decided are facts and never change. What is still open, how far a run is and how an
-- exception stands are progress.

-- ---------------------------------------------------------------------------------------------------------------------
-- Statements

-- Where a bank's statement comes from, how far it has been read, and the account that mirrors our reserve. One intake of
-- a bank at a time: whoever takes in locks this row.
create table statement_source (
    bank_code    text primary key references bank,
    kind         text not null check (kind in ('file', 'connector')),
    "cursor"     bigint not null default 0,          -- the connector's last number
    reserve_accounts jsonb not null default '{}'     -- currency to the account that holds our reserve
);

create table statement (
    id                 uuid primary key,
    bank_code          text not null references bank,
    channel            text not null check (channel in ('api', 'folder', 'connector')),
    file_sha256        bytea not null,
    place              integer not null,             -- which statement of the file
    format             text not null,
    name               text not null,                -- of the file
    bank_statement_id  text not null,
    account            text not null,
    currency           text not null,
    sequence           bigint,
    opening            bigint,
    closing            bigint,
    closes_on          date,
    as_of              timestamptz,                   -- the instant, where the bank says it
    entries            integer not null,
    repeated           integer not null,              -- lines that equal an earlier one
    gap                bigint,                        -- what its opening differs by from the last closing
    received_by        text not null,
    received_at        timestamptz not null,
    unique (bank_code, file_sha256, place)
);
create index statement_account on statement (bank_code, account, currency, id);
-- Some banks call every statement alike, so number and day belong to the name.
create unique index statement_named on statement (bank_code, account, currency, bank_statement_id, coalesce(sequence, -1),
    coalesce(closes_on, 'epoch')) where bank_statement_id <> '';

create table statement_entry (
    id                uuid primary key,
    statement_id      uuid not null references statement,
    place             integer not null,
    bank_code         text not null,
    account           text not null,
    currency          text not null,
    amount            bigint not null,               -- credits positive
    booked_on         date,
    value_on          date,
    booked_at         timestamptz,
    bank_sequence     bigint,
    operation_key     text,
    reference         text not null,
    bank_reference    text not null,
    batch             text not null,
    counterparty      text not null,
    counterparty_iban text not null,
    "text"            text not null,
    code              text not null,
    is_return         boolean not null,
    is_pending        boolean not null,
    occurrence        integer not null,
    unique (statement_id, place)
);
create unique index statement_entry_once on statement_entry (bank_code, bank_sequence) where bank_sequence is not null;

create trigger statement_is_immutable before update or delete on statement
    for each row execute function refuse_change();
create trigger statement_entry_is_immutable before update or delete on statement_entry
    for each row execute function refuse_change();
create trigger statements_are_kept before truncate on statement for each statement execute function refuse_change();
create trigger statement_entries_are_kept before truncate on statement_entry
    for each statement execute function refuse_change();

-- ---------------------------------------------------------------------------------------------------------------------
-- Runs

-- Runs read a range of time of the journal: its newest blocks.
create index journal_entry_posted on journal_entry using brin (posted_at);

create table reconciliation (
    id               uuid primary key,
    scope            text not null,                  -- a bank's code, or chain:EUR
    kind             text not null check (kind in ('nightly', 'asked')),
    day              date not null,
    state            text not null default 'asked' check (state in ('asked', 'running', 'done', 'failed')),
    asked_by         text not null,
    asked_at         timestamptz not null,
    next_attempt_at  timestamptz not null,
    attempts         integer not null default 0,
    lease_owner      text,
    lease_until      timestamptz,
    fence            bigint not null default 0,
    stage            text not null default 'waiting', -- what it is at, for people
    started_at       timestamptz,
    finished_at      timestamptz,
    cause            text,
    as_of            timestamptz,                    -- the statement's instant
    ledger_until     timestamptz,                    -- entries posted until then were looked at
    manifest_sha256  text,
    summary          jsonb
);
create unique index reconciliation_nightly on reconciliation (scope, day) where kind = 'nightly';
create index reconciliation_due on reconciliation (next_attempt_at) where state in ('asked', 'running');
create index reconciliation_of on reconciliation (scope, id);

create table reconciliation_report (
    reconciliation_id  uuid not null references reconciliation,
    format             text not null check (format in ('html', 'json', 'matches_csv', 'breaks_csv')),
    body               bytea not null,
    primary key (reconciliation_id, format)
);

-- Records that belong together. A record is in one match only, for ever.
create table recon_match (
    id                 uuid primary key,
    reconciliation_id  uuid references reconciliation,
    exception_id       uuid,                         -- where a person decided
    scope              text not null,
    how                text not null,
    difference         bigint not null,
    explanation        text not null,
    matched_at         timestamptz not null
);
create table recon_match_item (
    side       text not null check (side in ('ledger', 'bank')),
    source_id  uuid not null,                        -- of the journal entry, or the statement's line
    moment     text not null,
    round      smallint not null,
    match_id   uuid not null references recon_match,
    primary key (side, source_id, moment, round)
);
create index recon_match_items on recon_match_item (match_id);
create trigger recon_match_is_immutable before update or delete on recon_match
    for each row execute function refuse_change();
create trigger recon_match_item_is_immutable before update or delete on recon_match_item
    for each row execute function refuse_change();

-- Records without a partner yet.
create table recon_open (
    side       text not null check (side in ('ledger', 'bank')),
    source_id  uuid not null,
    moment     text not null,
    round      smallint not null,
    scope      text not null,
    since      timestamptz not null,
    primary key (side, source_id, moment, round)
);
create index recon_open_of on recon_open (scope, side, source_id);

-- ---------------------------------------------------------------------------------------------------------------------
-- Exceptions

create table recon_exception (
    id              uuid primary key,
    scope           text not null,
    kind            text not null,
    subject         text not null,
    currency        text not null,
    amount          bigint not null,
    owner           text not null,
    advice          text not null,
    about           jsonb not null,                  -- evidence: references, days, explanation, the records
    contra          text,                            -- the account that a correcting entry would use; none: no entry proposed
    correction      bigint not null default 0,       -- what that entry would add to the reserve
    is_lasting      boolean not null default false,  -- its records are matched: only a decision closes it
    state           text not null default 'open' check (state in ('open', 'explained', 'decided')),
    assigned_to     text,
    since           timestamptz not null,            -- of the record: for the ageing
    opened_in       uuid not null references reconciliation,
    opened_at       timestamptz not null,
    seen_in         uuid not null references reconciliation,
    closed_at       timestamptz,
    unique (scope, kind, subject)
);
create index recon_exception_open on recon_exception (scope, id) where state = 'open';

create table recon_comment (
    id            uuid primary key,
    exception_id  uuid not null references recon_exception,
    written_by    text not null,
    written_at    timestamptz not null,
    "text"        text not null check (length("text") between 1 and 2000)
);
create index recon_comment_of on recon_comment (exception_id, id);

create table recon_decision (
    id            uuid primary key,
    exception_id  uuid not null references recon_exception,
    decision      text not null check (decision in ('accept', 'reject', 'rematch', 'write_off')),
    partner       text,                              -- of a rematch: the record that it belongs to
    reason        text not null check (length(reason) between 1 and 500),
    proposed_by   text not null,
    proposed_at   timestamptz not null,
    unique (id, proposed_by)
);
create index recon_decision_of on recon_decision (exception_id, id);

-- At most one a proposal. Four eyes are the database's affair, too.
create table recon_verdict (
    decision_id  uuid primary key,
    proposed_by  text not null,
    verdict      text not null check (verdict in ('confirmed', 'rejected')),
    given_by     text not null,
    given_at     timestamptz not null,
    foreign key (decision_id, proposed_by) references recon_decision (id, proposed_by),
    check (verdict = 'rejected' or given_by <> proposed_by)
);

create trigger recon_comment_is_immutable before update or delete on recon_comment
    for each row execute function refuse_change();
create trigger recon_decision_is_immutable before update or delete on recon_decision
    for each row execute function refuse_change();
create trigger recon_verdict_is_immutable before update or delete on recon_verdict
    for each row execute function refuse_change();
create trigger recon_decisions_are_kept before truncate on recon_decision
    for each statement execute function refuse_change();

-- ---------------------------------------------------------------------------------------------------------------------
-- The breaker: stops minting and payouts when the proof fails. Its last row says how it stands.

create table breaker_event (
    seq          bigint generated always as identity primary key,
    kind         text not null check (kind in ('tripped', 'reset_proposed', 'reset_rejected', 'reset')),
    cause        text not null,
    by           text not null,
    proposed_by  text,
    at           timestamptz not null,
    check (kind <> 'reset' or proposed_by is not null and proposed_by <> by)
);
create trigger breaker_event_is_immutable before update or delete on breaker_event
    for each row execute function refuse_change();
create trigger breaker_events_are_kept before truncate on breaker_event
    for each statement execute function refuse_change();
