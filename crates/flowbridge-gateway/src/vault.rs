//! The owners of the vault at work: motions put to them, their approvals, and where each motion stands.
//!
//! Only operators of ours use this. A signature is stored when it was found to be an owner's over the very digest, so whoever
//! brings it need not be trusted: an owner may sign with a wallet that FlowBridge never sees. Nothing here executes a motion;
//! that takes a key that pays for it (`flowbridge vault execute`). [`VaultDesk`] is also what the command line works with.

use crate::answer::{Answer, Refusal, json, random};
use crate::caller::{Caller, JsonBody};
use crate::{Gateway, keyed};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use flowbridge_api::payment::show_instant;
use flowbridge_api::problem::ErrorCode;
use flowbridge_api::vault::{
    ApprovalBody, ApproveMotion, CallBody, MintingBody, ProposeMotion, VaultBody, VaultProposalBody,
    hexadecimal, to_hexadecimal,
};
use flowbridge_chain::vault::{
    self as chain, Act, CALLDATA_BYTES_MAX, CALLS_MAX, Call, Motion, Names, NoApproval, Standing, Vault,
};
use flowbridge_chain::{ChainError, ContractSet, deploy};
use flowbridge_domain::id::VaultProposalId;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::time::Timestamp;
use flowbridge_security::scope::Scope;
use flowbridge_store::vault::{self as rows, OfVault, VaultApproval, VaultProposal};
use flowbridge_store::{Db, StoreError, Tx};
use serde::Serialize;
use serde_json::{Value, json as value};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use utoipa::ToSchema;

const PROPOSALS: &str = "/v1/vault/proposals";
const ONE: &str = "/v1/vault/proposals/{id}";
const APPROVALS: &str = "/v1/vault/proposals/{id}/approvals";

/// Proposals that are shown at most.
const SHOWN_MAX: i64 = 50;
/// Seconds after the vault's delay until a motion is void that names no deadline: a week.
const DEADLINE_SECS: u64 = 7 * 24 * 3_600;
/// What is this deep in the chain is taken to stay.
const SETTLED_DEPTH_BLOCKS: u64 = 64;

/// The vault, and what its calls are called.
#[derive(Debug, Clone)]
pub struct VaultDesk {
    vault: Vault,
    names: Names,
    contracts: Vec<ContractSet>,
}

/// Why a motion or an approval is not taken.
#[derive(Debug, thiserror::Error)]
pub enum VaultRefusal {
    /// It could never be carried out.
    #[error("{0}")]
    Proposal(String),
    /// It is no approval.
    #[error("{0}")]
    Approval(String),
    /// The motion has come to its end.
    #[error("the motion is {}: it cannot be approved any more", .0.as_str())]
    NotOpen(Standing),
    /// The owner has approved already.
    #[error("{0} has approved this motion already")]
    Approved(EvmAddress),
    /// The very same motion is there.
    #[error("the very same motion has been proposed already")]
    Proposed,
    /// The chain could not be asked.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A motion that somebody wants to put to the owners.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it does.
    pub act: Act,
    /// Under which nonce; `None`: the next that no open motion has.
    pub nonce: Option<u64>,
    /// Void from this block time on; `None`: a week after the vault's delay.
    pub deadline: Option<u64>,
    /// Why.
    pub note: String,
    /// Who proposes it.
    pub by: String,
}

/// A proposal and where it stands.
#[derive(Debug, Clone)]
pub struct Placed {
    /// As it is stored.
    pub proposal: VaultProposal,
    /// What owners decide on.
    pub motion: Motion,
    /// Where it stands on chain.
    pub standing: Standing,
    /// Approvals of those who are owners now.
    pub approvals: Vec<chain::Approval>,
}

impl VaultDesk {
    /// A desk for this vault, which governs these contracts.
    pub fn new(vault: Vault, anchor: Option<EvmAddress>, contracts: Vec<ContractSet>) -> Self {
        let names = Names::new(&vault.address, anchor.as_ref(), &contracts);
        Self { vault, names, contracts }
    }

    /// The vault.
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// What a call does, for a person who is about to sign it.
    pub fn in_words(&self, call: &Call) -> String {
        self.names.in_words(call)
    }

    const fn of(&self) -> OfVault {
        OfVault { chain_id: self.vault.chain_id, vault: self.vault.address }
    }

    /// Draws up a proposal; nothing is stored yet.
    pub async fn draft(
        &self,
        db: &Db,
        wanted: Wanted,
        (id, now): (VaultProposalId, Timestamp),
    ) -> Result<VaultProposal, VaultRefusal> {
        let state = self.vault.state().await?;
        let nonce = match (wanted.nonce, &wanted.act) {
            (Some(nonce), _) => nonce,
            (None, Act::Cancel) => state.nonce,
            (None, Act::Operate(_)) => {
                let open =
                    self.placed(db, &state, rows::newest(db, &self.of(), SHOWN_MAX).await?, now).await?;
                let queued = open.iter().filter(|placed| placed.standing.is_open());
                queued.map(|placed| placed.motion.nonce.saturating_add(1)).max().unwrap_or(0).max(state.nonce)
            }
        };
        if nonce < state.nonce {
            return Err(VaultRefusal::Proposal(format!(
                "the nonce {nonce} has been used: the vault's next is {}",
                state.nonce
            )));
        }
        let ready_at = match &wanted.act {
            Act::Operate(_) => state.block_time.saturating_add(state.delay_secs),
            Act::Cancel => state.block_time,
        };
        let deadline = wanted.deadline.unwrap_or_else(|| ready_at.saturating_add(DEADLINE_SECS));
        if deadline <= state.block_time {
            return Err(VaultRefusal::Proposal(format!(
                "its deadline has passed: the block time is {}",
                state.block_time
            )));
        }
        if deadline <= ready_at {
            return Err(VaultRefusal::Proposal(format!(
                "its deadline {deadline} ends before the vault's delay of {} s: it has to be after block time {ready_at}",
                state.delay_secs
            )));
        }
        let motion = Motion { nonce, deadline, act: wanted.act };
        Ok(VaultProposal {
            id,
            nonce,
            deadline,
            calls: stored_calls(&motion.act),
            digest: self.vault.digest(&motion),
            note: wanted.note,
            from_block: state.block_number,
            proposed_by: wanted.by,
            proposed_at: now,
            outcome: None,
            approvals: vec![],
        })
    }

    /// Stores a proposal.
    pub async fn propose(&self, tx: &Tx, proposal: &VaultProposal) -> Result<(), VaultRefusal> {
        let is_new = rows::propose(tx, &self.of(), proposal).await?;
        if is_new { Ok(()) } else { Err(VaultRefusal::Proposed) }
    }

    /// Makes sure that a signature is an owner's approval of an open motion; nothing is stored yet.
    pub async fn examine(
        &self,
        placed: &Placed,
        signature: &[u8],
        (by, now): (&str, Timestamp),
    ) -> Result<VaultApproval, VaultRefusal> {
        if !placed.standing.is_open() {
            return Err(VaultRefusal::NotOpen(placed.standing));
        }
        let found = self.vault.approval(&placed.motion, signature).await.map_err(|error| match error {
            NoApproval::Chain(error) => VaultRefusal::Chain(error),
            NoApproval::Malformed | NoApproval::NotAnOwner(_) => VaultRefusal::Approval(error.to_string()),
        })?;
        Ok(VaultApproval {
            owner: found.owner,
            signature: found.signature,
            given_by: by.to_owned(),
            given_at: now,
        })
    }

    /// Stores an approval that was examined.
    pub async fn approve(
        &self,
        tx: &Tx,
        id: VaultProposalId,
        approval: &VaultApproval,
    ) -> Result<(), VaultRefusal> {
        let is_new = rows::approve(tx, id, approval).await?;
        if is_new { Ok(()) } else { Err(VaultRefusal::Approved(approval.owner)) }
    }

    /// One proposal and where it stands.
    pub async fn find(
        &self,
        db: &Db,
        id: VaultProposalId,
        now: Timestamp,
    ) -> Result<Option<(Placed, chain::State)>, VaultRefusal> {
        let Some(proposal) = rows::find(db, &self.of(), id).await? else { return Ok(None) };
        let state = self.vault.state().await?;
        let placed = self.placed(db, &state, vec![proposal], now).await?.pop();
        Ok(placed.map(|placed| (placed, state)))
    }

    /// The newest proposals and where they stand.
    pub async fn newest(&self, db: &Db, now: Timestamp) -> Result<(Vec<Placed>, chain::State), VaultRefusal> {
        let proposals = rows::newest(db, &self.of(), SHOWN_MAX).await?;
        let state = self.vault.state().await?;
        Ok((self.placed(db, &state, proposals, now).await?, state))
    }

    /// Where proposals stand. What became of those that are past is read from the chain, and noted once it stays so.
    async fn placed(
        &self,
        db: &Db,
        state: &chain::State,
        proposals: Vec<VaultProposal>,
        now: Timestamp,
    ) -> Result<Vec<Placed>, VaultRefusal> {
        let past = |proposal: &&VaultProposal| proposal.nonce < state.nonce && proposal.outcome.is_none();
        let from = proposals.iter().filter(past).map(|proposal| proposal.from_block).min();
        let (mut settled, mut recent) = (Default::default(), Default::default());
        if let Some(from) = from {
            let deep = state.block_number.saturating_sub(SETTLED_DEPTH_BLOCKS);
            settled = self.vault.fates(from, deep).await?;
            recent = self.vault.fates(from.max(deep.saturating_add(1)), state.block_number).await?;
        }
        let is_owner = self.owners_among(&proposals, state).await?;
        let mut placed = Vec::with_capacity(proposals.len());
        let mut ended = Vec::new();
        for proposal in proposals {
            let motion = motion(&proposal)?;
            let approvals: Vec<chain::Approval> = proposal
                .approvals
                .iter()
                .filter(|approval| is_owner.get(&approval.owner).copied().unwrap_or(false))
                .map(|approval| chain::Approval { owner: approval.owner, signature: approval.signature })
                .collect();
            let place = |fate| chain::standing(&motion, &proposal.digest, approvals.len(), state, fate);
            let standing = match proposal.outcome.as_deref().and_then(noted) {
                Some(standing) => standing,
                None => match settled.get(&motion.nonce) {
                    Some(fate) => {
                        let standing = place(Some(*fate));
                        ended.push((proposal.id, standing.as_str()));
                        standing
                    }
                    None => place(recent.get(&motion.nonce).copied()),
                },
            };
            placed.push(Placed { proposal, motion, standing, approvals });
        }
        rows::end(db, &ended, now).await?;
        Ok(placed)
    }

    /// Who of those who have approved what is still open is an owner now.
    async fn owners_among(
        &self,
        proposals: &[VaultProposal],
        state: &chain::State,
    ) -> Result<HashMap<EvmAddress, bool>, VaultRefusal> {
        let mut known = HashMap::new();
        let open = proposals.iter().filter(|proposal| proposal.nonce >= state.nonce);
        for approval in open.flat_map(|proposal| &proposal.approvals) {
            if let Entry::Vacant(unknown) = known.entry(approval.owner) {
                unknown.insert(self.vault.is_owner(&approval.owner).await?);
            }
        }
        Ok(known)
    }

    /// The vault, in the words of the API.
    pub async fn show(&self) -> Result<VaultBody, VaultRefusal> {
        let state = self.vault.state().await?;
        let mut minting = Vec::new();
        for set in &self.contracts {
            let allowance = deploy::mint_allowance(&*self.vault.chain, set).await?;
            let cap = self.vault.mint_cap(&set.token, &set.manager).await?;
            minting.push(MintingBody {
                currency: set.currency.code().to_owned(),
                allowance: allowance.to_string(),
                cap: cap.to_string(),
                token_decimals: set.token_decimals,
            });
        }
        Ok(VaultBody {
            chain_id: self.vault.chain_id,
            address: self.vault.address.to_string(),
            owners: state.owners,
            threshold: state.threshold,
            delay_secs: state.delay_secs,
            nonce: state.nonce,
            scheduled: state.scheduled.map(|(digest, _)| to_hexadecimal(&digest)),
            ready_at: state.scheduled.map(|(_, ready_at)| show_instant(block_time(ready_at))),
            minting,
        })
    }

    /// A proposal, in the words of the API.
    pub fn shown(&self, placed: &Placed, state: &chain::State) -> VaultProposalBody {
        let Placed { proposal, motion, standing, .. } = placed;
        let call = |call: &Call| CallBody {
            to: call.to.to_string(),
            value: call.value.to_string(),
            data: to_hexadecimal(&call.data),
            in_words: self.names.in_words(call),
        };
        let (kind, calls) = match &motion.act {
            Act::Operate(calls) => ("operation", calls.iter().map(call).collect()),
            Act::Cancel => ("cancellation", vec![]),
        };
        let approval = |approval: &VaultApproval| ApprovalBody {
            owner: approval.owner.to_string(),
            signature: to_hexadecimal(&approval.signature),
            given_by: approval.given_by.clone(),
            given_at: show_instant(approval.given_at),
        };
        VaultProposalBody {
            id: proposal.id.to_string(),
            state: standing.as_str(),
            kind,
            chain_id: self.vault.chain_id,
            vault: self.vault.address.to_string(),
            nonce: motion.nonce,
            deadline: motion.deadline,
            calls,
            digest: to_hexadecimal(&proposal.digest),
            typed_data: self.vault.typed_data(motion),
            note: proposal.note.clone(),
            proposed_by: proposal.proposed_by.clone(),
            proposed_at: show_instant(proposal.proposed_at),
            approvals_needed: state.threshold,
            approvals: proposal.approvals.iter().map(approval).collect(),
        }
    }
}

/// What was noted of a proposal that is past.
fn noted(outcome: &str) -> Option<Standing> {
    [Standing::Executed, Standing::Cancelled, Standing::Overtaken]
        .into_iter()
        .find(|known| known.as_str() == outcome)
}

/// Block time as an instant.
pub fn block_time(secs: u64) -> Timestamp {
    Timestamp::from_secs(i64::try_from(secs).unwrap_or(i64::MAX))
}

fn stored_calls(act: &Act) -> Option<Value> {
    let Act::Operate(calls) = act else { return None };
    let stored = |call: &Call| value!({ "to": call.to.to_string(), "value": call.value.to_string(), "data": to_hexadecimal(&call.data) });
    Some(calls.iter().map(stored).collect())
}

fn motion(proposal: &VaultProposal) -> Result<Motion, StoreError> {
    let corrupt = || StoreError::Corrupt(format!("the calls of {}", proposal.id));
    let act = match &proposal.calls {
        None => Act::Cancel,
        Some(calls) => {
            let read = |call: &Value| {
                let text = |name: &str| call.get(name)?.as_str();
                Some(Call {
                    to: EvmAddress::parse(text("to")?).ok()?,
                    value: text("value")?.parse().ok()?,
                    data: hexadecimal(text("data")?, CALLDATA_BYTES_MAX).ok()?,
                })
            };
            let calls = calls.as_array().ok_or_else(corrupt)?;
            Act::Operate(calls.iter().map(read).collect::<Option<_>>().ok_or_else(corrupt)?)
        }
    };
    Ok(Motion { nonce: proposal.nonce, deadline: proposal.deadline, act })
}

// ---------------------------------------------------------------------------------------------------------------- routes

pub(crate) fn router() -> Router<Gateway> {
    Router::new()
        .route("/v1/vault", get(look))
        .route(PROPOSALS, get(list).post(propose))
        .route(ONE, get(one))
        .route(APPROVALS, post(approve))
}

/// Proposals, newest first
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct VaultProposalList {
    data: Vec<VaultProposalBody>,
}

/// Show the vault as it stands on chain, and what may be minted
#[utoipa::path(get, path = "/v1/vault", operation_id = "show_vault", tag = "vault",
    responses((status = 200, description = "The vault", body = VaultBody), crate::openapi::Refusals))]
pub(crate) async fn look(State(gateway): State<Gateway>, caller: Caller) -> Answer {
    json(StatusCode::OK, &desk(&gateway, &caller)?.show().await?)
}

/// List the newest motions that were put to the owners of the vault
#[utoipa::path(get, path = "/v1/vault/proposals", operation_id = "list_vault_proposals", tag = "vault",
    responses((status = 200, description = "At most 50, newest first", body = VaultProposalList), crate::openapi::Refusals))]
pub(crate) async fn list(State(gateway): State<Gateway>, caller: Caller) -> Answer {
    let desk = desk(&gateway, &caller)?;
    let (placed, state) = desk.newest(&gateway.parts.db, gateway.now()).await?;
    let data = placed.iter().map(|placed| desk.shown(placed, &state)).collect();
    json(StatusCode::OK, &VaultProposalList { data })
}

/// Show a motion, where it stands, what it does in words, and the typed data that owners sign
#[utoipa::path(get, path = "/v1/vault/proposals/{id}", operation_id = "show_vault_proposal", tag = "vault",
    params(("id" = String, Path, description = "The proposal")),
    responses((status = 200, description = "The motion", body = VaultProposalBody), crate::openapi::Refusals))]
pub(crate) async fn one(State(gateway): State<Gateway>, caller: Caller, Path(id): Path<String>) -> Answer {
    let desk = desk(&gateway, &caller)?;
    let (placed, state) = find(&gateway, desk, &id).await?;
    json(StatusCode::OK, &desk.shown(&placed, &state))
}

/// Put a motion to the owners of the vault
#[utoipa::path(post, path = "/v1/vault/proposals", operation_id = "propose_to_vault", tag = "vault",
    request_body = flowbridge_api::vault::ProposeMotionBody,
    params(("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 201, description = "Owners have to approve it", body = VaultProposalBody,
        headers(("Location" = String, description = "Where it is"))), crate::openapi::Refusals))]
pub(crate) async fn propose(
    State(gateway): State<Gateway>,
    caller: Caller,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    let desk = desk(&gateway, &caller)?;
    let key = caller.keyed(&headers, ("POST", PROPOSALS), &[], &body.bytes)?;
    let request = ProposeMotion::read(&body.value, CALLS_MAX, CALLDATA_BYTES_MAX)?;
    let act = match request.calls {
        None => Act::Cancel,
        Some(calls) => Act::Operate(
            calls.into_iter().map(|call| Call { to: call.to, value: call.value, data: call.data }).collect(),
        ),
    };
    let now = gateway.now();
    let by = caller.client_id().to_owned();
    let wanted = Wanted { act, nonce: request.nonce, deadline: request.deadline, note: request.note, by };
    let id = VaultProposalId::generate(now, random()?);
    // A repeat is answered as the first was, whatever the chain says by now.
    let drafted = desk.draft(&gateway.parts.db, wanted, (id, now)).await;
    let state = desk.vault.state().await.map_err(VaultRefusal::from)?;
    let made = keyed::Made { status: StatusCode::CREATED, collection: PROPOSALS, is_secret: false };
    keyed::once(&gateway, &key, made, async |tx| {
        let proposal = drafted?;
        desk.propose(tx, &proposal).await?;
        let motion = motion(&proposal)?;
        let placed = Placed { proposal, motion, standing: Standing::Collecting, approvals: vec![] };
        Ok(desk.shown(&placed, &state))
    })
    .await
}

/// Add an owner's approval: a signature over the proposal's typed data
#[utoipa::path(post, path = "/v1/vault/proposals/{id}/approvals", operation_id = "approve_vault_proposal", tag = "vault",
    request_body = flowbridge_api::vault::ApproveMotionBody,
    params(("id" = String, Path, description = "The proposal"),
        ("Idempotency-Key" = String, Header, description = "Drawn by you for this request and kept for its repeats", max_length = 255)),
    responses((status = 200, description = "Taken: the motion with its approvals", body = VaultProposalBody), crate::openapi::Refusals))]
pub(crate) async fn approve(
    State(gateway): State<Gateway>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: JsonBody,
) -> Answer {
    let desk = desk(&gateway, &caller)?;
    let key = caller.keyed(&headers, ("POST", APPROVALS), &[&id], &body.bytes)?;
    let request = ApproveMotion::read(&body.value)?;
    let (mut placed, state) = find(&gateway, desk, &id).await?;
    let by = (caller.client_id(), gateway.now());
    let examined = desk.examine(&placed, &request.signature, by).await;
    let made = keyed::Made { status: StatusCode::OK, collection: PROPOSALS, is_secret: false };
    keyed::once(&gateway, &key, made, async |tx| {
        let approval = examined?;
        desk.approve(tx, placed.proposal.id, &approval).await?;
        placed.approvals.push(chain::Approval { owner: approval.owner, signature: approval.signature });
        placed.proposal.approvals.push(approval);
        placed.standing =
            chain::standing(&placed.motion, &placed.proposal.digest, placed.approvals.len(), &state, None);
        Ok(desk.shown(&placed, &state))
    })
    .await
}

async fn find(gateway: &Gateway, desk: &VaultDesk, id: &str) -> Result<(Placed, chain::State), Refusal> {
    let id = VaultProposalId::parse(id)
        .map_err(|error| Refusal::new(ErrorCode::InvalidParameter).detail(error.to_string()))?;
    let found = desk.find(&gateway.parts.db, id, gateway.now()).await?;
    found.ok_or_else(|| Refusal::new(ErrorCode::NotFound))
}

/// The desk, if the caller is one of our own operators.
fn desk<'a>(gateway: &'a Gateway, caller: &Caller) -> Result<&'a VaultDesk, Refusal> {
    caller.require(Scope::Operator)?;
    if caller.participant().is_some() {
        return Err(Refusal::new(ErrorCode::Forbidden).detail("only operators see the vault"));
    }
    gateway.parts.vault.as_ref().ok_or_else(|| {
        Refusal::new(ErrorCode::NotFound).detail("no vault governs the contracts of the deployment record")
    })
}

impl From<VaultRefusal> for Refusal {
    fn from(refusal: VaultRefusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            VaultRefusal::Proposal(_) => Self::new(ErrorCode::VaultProposal).detail(detail),
            VaultRefusal::Approval(_) => Self::new(ErrorCode::VaultApproval).detail(detail),
            VaultRefusal::NotOpen(_) => Self::new(ErrorCode::Conflict).detail(detail),
            VaultRefusal::Approved(_) | VaultRefusal::Proposed => {
                Self::new(ErrorCode::AlreadyExists).detail(detail)
            }
            VaultRefusal::Chain(error) if error.is_retryable() => {
                tracing::warn!(error = detail, "the chain could not be asked about the vault");
                Self::new(ErrorCode::Unavailable)
            }
            VaultRefusal::Chain(_) => {
                tracing::error!(error = detail, "the chain does not answer about the vault as it should");
                Self::new(ErrorCode::Internal)
            }
            VaultRefusal::Store(error) => error.into(),
        }
    }
}
