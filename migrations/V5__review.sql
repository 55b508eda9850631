-- What people decide on payments under review: one proposes, another confirms. Facts, like the journal's.

create table payment_review (
    id           uuid primary key,
    payment_id   uuid not null references payment (id),
    decision     text not null check (decision in ('resume', 'cancel', 'close_completed', 'close_failed')),
    note         text not null check (length(note) between 1 and 500),
    proposed_by  text not null,
    proposed_at  timestamptz not null,
    unique (id, proposed_by)
);
create index payment_review_payment on payment_review (payment_id, id);

-- At most one a proposal. Four eyes are the database's affair, too.
create table payment_review_verdict (
    review_id    uuid primary key,
    proposed_by  text not null,
    verdict      text not null check (verdict in ('confirmed', 'rejected')),
    given_by     text not null,
    given_at     timestamptz not null,
    foreign key (review_id, proposed_by) references payment_review (id, proposed_by),
    check (verdict = 'rejected' or given_by <> proposed_by)
);

create trigger payment_review_is_immutable before update or delete on payment_review
    for each row execute function refuse_change();
create trigger payment_review_verdict_is_immutable before update or delete on payment_review_verdict
    for each row execute function refuse_change();
create trigger payment_reviews_are_kept before truncate on payment_review
    for each statement execute function refuse_change();
create trigger payment_review_verdicts_are_kept before truncate on payment_review_verdict
    for each statement execute function refuse_change();
