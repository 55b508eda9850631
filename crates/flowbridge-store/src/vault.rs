//! Motions that are put to the owners of the vault, and their approvals. One row a proposal; approvals are only added.
//!
//! Whoever stores an approval has made sure that it is an owner's over this very digest. Approvals that come at the same
//! time do not get in each other's way: an owner's first one counts, a second changes nothing.

use crate::db::{Db, StoreError, Tx};
use crate::sql::{At, statements};
use flowbridge_domain::id::VaultProposalId;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::time::Timestamp;
use serde_json::Value;
use std::collections::HashMap;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    PROPOSE = "insert into vault_proposal (id, chain_id, vault, nonce, deadline, calls, digest, note, from_block,
            proposed_by, proposed_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        on conflict (digest) do nothing";

    LIST = "select proposal.id, proposal.nonce, proposal.deadline, proposal.calls, proposal.digest, proposal.note,
            proposal.from_block, proposal.proposed_by, proposal.proposed_at, outcome.outcome
        from vault_proposal proposal left join vault_outcome outcome on outcome.proposal_id = proposal.id
        where proposal.chain_id = $1 and proposal.vault = $2 and ($3::uuid is null or proposal.id = $3)
        order by proposal.id desc limit $4";

    APPROVALS = "select proposal_id, owner, signature, given_by, given_at from vault_approval
        where proposal_id = any($1) order by given_at, owner";

    APPROVE = "insert into vault_approval (proposal_id, owner, signature, given_by, given_at)
        values ($1, $2, $3, $4, $5)
        on conflict (proposal_id, owner) do nothing";

    END = "insert into vault_outcome (proposal_id, outcome, seen_at)
        select id, outcome, $3 from unnest($1::uuid[], $2::text[]) as ended (id, outcome)
        on conflict (proposal_id) do nothing";
}

/// Which vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfVault {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Where it is.
    pub vault: EvmAddress,
}

/// A motion, as it was put to the owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultProposal {
    /// Its id.
    pub id: VaultProposalId,
    /// The vault's nonce for it.
    pub nonce: u64,
    /// Void from this block time on, in seconds.
    pub deadline: u64,
    /// The calls to make; `None`: the nonce is used up and nothing done.
    pub calls: Option<Value>,
    /// What owners sign.
    pub digest: [u8; 32],
    /// Why.
    pub note: String,
    /// The newest block when it was proposed: what became of it stands later.
    pub from_block: u64,
    /// The client who proposed it.
    pub proposed_by: String,
    /// When.
    pub proposed_at: Timestamp,
    /// What became of it, once the chain cannot take it back.
    pub outcome: Option<String>,
    /// The owners' approvals, oldest first.
    pub approvals: Vec<VaultApproval>,
}

/// An owner's approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultApproval {
    /// Whose.
    pub owner: EvmAddress,
    /// The signature: r, s, v.
    pub signature: [u8; 65],
    /// The client who brought it.
    pub given_by: String,
    /// When.
    pub given_at: Timestamp,
}

/// Stores a proposal; false if the very same motion is there already.
pub async fn propose(tx: &Tx, of: &OfVault, proposal: &VaultProposal) -> Result<bool, StoreError> {
    let (chain_id, nonce) = (signed(of.chain_id)?, signed(proposal.nonce)?);
    let (deadline, from_block) = (signed(proposal.deadline)?, signed(proposal.from_block)?);
    let (vault, digest) = (&of.vault.as_bytes()[..], &proposal.digest[..]);
    let stored = tx
        .execute(
            PROPOSE,
            &[
                &proposal.id.as_uuid(),
                &chain_id,
                &vault,
                &nonce,
                &deadline,
                &proposal.calls,
                &digest,
                &proposal.note,
                &from_block,
                &proposal.proposed_by,
                &At(proposal.proposed_at),
            ],
        )
        .await?;
    Ok(stored == 1)
}

/// Stores an approval that was found to be an owner's; false if this owner has approved already.
pub async fn approve(tx: &Tx, id: VaultProposalId, approval: &VaultApproval) -> Result<bool, StoreError> {
    let (owner, signature) = (&approval.owner.as_bytes()[..], &approval.signature[..]);
    let stored = tx
        .execute(APPROVE, &[&id.as_uuid(), &owner, &signature, &approval.given_by, &At(approval.given_at)])
        .await?;
    Ok(stored == 1)
}

/// One proposal with its approvals.
pub async fn find(db: &Db, of: &OfVault, id: VaultProposalId) -> Result<Option<VaultProposal>, StoreError> {
    Ok(read_some(db, of, Some(id.as_uuid()), 1).await?.pop())
}

/// The newest proposals with their approvals, newest first.
pub async fn newest(db: &Db, of: &OfVault, limit: i64) -> Result<Vec<VaultProposal>, StoreError> {
    read_some(db, of, None, limit).await
}

/// Notes what became of proposals. What is noted stays.
pub async fn end(db: &Db, ended: &[(VaultProposalId, &str)], now: Timestamp) -> Result<(), StoreError> {
    if ended.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = ended.iter().map(|(id, _)| id.as_uuid()).collect();
    let outcomes: Vec<&str> = ended.iter().map(|(_, outcome)| *outcome).collect();
    let tx = db.begin().await?;
    tx.execute(END, &[&ids, &outcomes, &At(now)]).await?;
    tx.commit().await
}

async fn read_some(
    db: &Db,
    of: &OfVault,
    id: Option<Uuid>,
    limit: i64,
) -> Result<Vec<VaultProposal>, StoreError> {
    let (chain_id, vault) = (signed(of.chain_id)?, &of.vault.as_bytes()[..]);
    let rows = db.query(LIST, &[&chain_id, &vault, &id, &limit]).await?;
    let mut proposals: Vec<VaultProposal> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let ids: Vec<Uuid> = proposals.iter().map(|proposal| proposal.id.as_uuid()).collect();
    let mut approvals: HashMap<Uuid, Vec<VaultApproval>> = HashMap::new();
    for row in db.query(APPROVALS, &[&ids]).await? {
        approvals.entry(row.try_get("proposal_id")?).or_default().push(read_approval(&row)?);
    }
    for proposal in &mut proposals {
        proposal.approvals = approvals.remove(&proposal.id.as_uuid()).unwrap_or_default();
    }
    Ok(proposals)
}

fn read(row: &Row) -> Result<VaultProposal, StoreError> {
    let id = VaultProposalId::from_uuid(row.try_get("id")?);
    Ok(VaultProposal {
        id,
        nonce: unsigned(row.try_get("nonce")?, id)?,
        deadline: unsigned(row.try_get("deadline")?, id)?,
        calls: row.try_get("calls")?,
        digest: bytes(row.try_get("digest")?, "digest of a vault proposal")?,
        note: row.try_get("note")?,
        from_block: unsigned(row.try_get("from_block")?, id)?,
        proposed_by: row.try_get("proposed_by")?,
        proposed_at: row.try_get::<_, At>("proposed_at")?.0,
        outcome: row.try_get("outcome")?,
        approvals: vec![],
    })
}

fn read_approval(row: &Row) -> Result<VaultApproval, StoreError> {
    Ok(VaultApproval {
        owner: EvmAddress::from_bytes(bytes(row.try_get("owner")?, "owner of an approval")?),
        signature: bytes(row.try_get("signature")?, "signature of an approval")?,
        given_by: row.try_get("given_by")?,
        given_at: row.try_get::<_, At>("given_at")?.0,
    })
}

fn signed(number: u64) -> Result<i64, StoreError> {
    i64::try_from(number).map_err(|_| StoreError::Corrupt(format!("{number} of a vault proposal")))
}

fn unsigned(number: i64, id: VaultProposalId) -> Result<u64, StoreError> {
    u64::try_from(number).map_err(|_| StoreError::Corrupt(format!("{number} of {id}")))
}

fn bytes<const N: usize>(stored: &[u8], what: &str) -> Result<[u8; N], StoreError> {
    stored.try_into().map_err(|_| StoreError::Corrupt(format!("the {what} has another length")))
}
