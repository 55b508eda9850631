-- What people's decisions allow, kind of match by kind of match; what earlier nights looked like; and two more forms of the report.
--
-- A judgement and a stage are facts and never change: the last stage of a segment is how it stands. The memory is progress.

alter table reconciliation_report drop constraint reconciliation_report_format_check;
alter table reconciliation_report add constraint reconciliation_report_format_check
    check (format in ('html', 'json', 'matches_csv', 'breaks_csv', 'pdf', 'camt'));

-- Where a match went that was only likely, if people will say something about it. People's decisions on its records are counted for or against its segment.
create table recon_judged (
    scope      text not null,
    subject    text not null,                        -- its records, as its exception names them
    route      text not null check (route in ('shadow', 'person', 'audited')),
    account    text not null,
    rail       text not null,
    how        text not null,
    records    text[] not null,
    judged_in  uuid not null references reconciliation,
    judged_at  timestamptz not null,
    primary key (scope, subject, route)
);
create trigger recon_judged_is_immutable before update or delete on recon_judged
    for each row execute function refuse_change();
create trigger recon_judged_are_kept before truncate on recon_judged
    for each statement execute function refuse_change();

-- How a segment stands since when, and what people's decisions about it were then.
create table recon_stage (
    seq                bigint generated always as identity primary key,
    scope              text not null,
    account            text not null,
    rail               text not null,
    how                text not null,
    stage              text not null check (stage in ('shadow', 'suggest', 'auto')),
    decided            bigint not null,
    errors             bigint not null,
    audited            bigint not null,
    audit_errors       bigint not null,
    reconciliation_id  uuid not null references reconciliation,
    since              timestamptz not null
);
create index recon_stage_of on recon_stage (scope, account, rail, how, seq);
create trigger recon_stage_is_immutable before update or delete on recon_stage
    for each row execute function refuse_change();
create trigger recon_stages_are_kept before truncate on recon_stage
    for each statement execute function refuse_change();

-- What the nights of a scope looked like, for seeing what is unusual. Debtors are in it as hashes.
create table recon_memory (
    scope  text primary key,
    body   bytea not null
);
