-- Motions that are put to the owners of the vault, and the owners' approvals. Facts, like the journal's: nothing is changed, and
-- what is approved once stays so until the motion is void. What became of a motion stands on chain; it is copied here once
-- the chain cannot take it back.

create table vault_proposal (
    id           uuid primary key,
    chain_id     bigint not null,
    vault        bytea not null check (length(vault) = 20),
    nonce        bigint not null check (nonce >= 0),
    deadline     bigint not null check (deadline > 0),          -- block time, seconds
    calls        jsonb,                                         -- none: the nonce is used up and nothing done
    digest       bytea not null unique check (length(digest) = 32),
    note         text not null check (length(note) between 1 and 500),
    from_block   bigint not null,                               -- the newest block when it was proposed
    proposed_by  text not null,
    proposed_at  timestamptz not null
);
create index vault_proposal_of on vault_proposal (chain_id, vault, id);

-- One an owner. The signature was found to be the owner's before it was stored.
create table vault_approval (
    proposal_id  uuid not null references vault_proposal (id),
    owner        bytea not null check (length(owner) = 20),
    signature    bytea not null check (length(signature) = 65),
    given_by     text not null,
    given_at     timestamptz not null,
    primary key (proposal_id, owner)
);

create table vault_outcome (
    proposal_id  uuid primary key references vault_proposal (id),
    outcome      text not null check (outcome in ('executed', 'cancelled', 'overtaken')),
    seen_at      timestamptz not null
);

create trigger vault_proposal_is_immutable before update or delete on vault_proposal
    for each row execute function refuse_change();
create trigger vault_approval_is_immutable before update or delete on vault_approval
    for each row execute function refuse_change();
create trigger vault_outcome_is_immutable before update or delete on vault_outcome
    for each row execute function refuse_change();
create trigger vault_proposals_are_kept before truncate on vault_proposal
    for each statement execute function refuse_change();
create trigger vault_approvals_are_kept before truncate on vault_approval
    for each statement execute function refuse_change();
create trigger vault_outcomes_are_kept before truncate on vault_outcome
    for each statement execute function refuse_change();
