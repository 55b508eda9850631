-- Which model of reconciliation judges: one person proposes it, another confirms, and the last that was confirmed is in force. Facts, like
-- the journal's. Models are files; here they are known by the SHA-256 of their bytes.

create table recon_model_promotion (
    id           uuid primary key,
    model        text not null check (model ~ '^[0-9a-f]{64}$'),
    champion     text not null check (champion ~ '^[0-9a-f]{64}$'),  -- in force when it was proposed
    comparison   jsonb,                              -- of both, on decisions that neither had learned from; none: the model was in force before
    reason       text not null check (length(reason) between 1 and 500),
    proposed_by  text not null,
    proposed_at  timestamptz not null,
    unique (id, proposed_by),
    check (model <> champion)
);

-- At most one a proposal, in the order of their numbers. Four eyes are the database's affair, too.
create table recon_model_verdict (
    seq           bigint generated always as identity unique,
    promotion_id  uuid primary key,
    proposed_by   text not null,
    verdict       text not null check (verdict in ('confirmed', 'rejected')),
    given_by      text not null,
    given_at      timestamptz not null,
    foreign key (promotion_id, proposed_by) references recon_model_promotion (id, proposed_by),
    check (verdict = 'rejected' or given_by <> proposed_by)
);

create trigger recon_model_promotion_is_immutable before update or delete on recon_model_promotion
    for each row execute function refuse_change();
create trigger recon_model_verdict_is_immutable before update or delete on recon_model_verdict
    for each row execute function refuse_change();
create trigger recon_model_promotions_are_kept before truncate on recon_model_promotion
    for each statement execute function refuse_change();
create trigger recon_model_verdicts_are_kept before truncate on recon_model_verdict
    for each statement execute function refuse_change();
