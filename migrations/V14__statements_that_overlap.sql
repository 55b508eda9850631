-- Statements without a closing balance, and lines that two statements tell.

-- The line of another statement that tells the same booking: what a bank told during the day, and again at its end.
alter table statement_entry add column same_as uuid references statement_entry;
create index statement_entry_same_as on statement_entry (same_as) where same_as is not null;
create index statement_entry_of_day on statement_entry (bank_code, account, currency, booked_on);

alter table statement add column already_held integer not null default 0; -- lines that another statement had told

-- A report is what auditors were shown.
create trigger reconciliation_report_is_immutable before update or delete on reconciliation_report
    for each row execute function refuse_change();
create trigger reconciliation_reports_are_kept before truncate on reconciliation_report
    for each statement execute function refuse_change();
