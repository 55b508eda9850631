//! Which model of reconciliation is in force: one person proposes it, another confirms, and the last that was confirmed judges.
//!
//! Models are files that live where reconciliation runs; here they are known by the SHA-256 of their bytes. A model that was never
//! in force is proposed with what was measured of it beside the one that is; one that was may be gone back to without. Whoever
//! proposes or answers holds a lock, so that one proposal at most is open and none is overtaken unseen. Proposals and verdicts are
//! never changed, and the log tells of each (`reconciliation` topic).

use crate::db::{Db, StoreError, Tx};
use crate::event_data::{EventData, sha256_of};
use crate::event_log::{self, NewEvent, topic};
use crate::review::{GivenVerdict, Verdict};
use crate::sql::{At, statements};
use flowbridge_domain::id::{ModelProposalId, PaymentId};
use flowbridge_domain::time::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Row;
use uuid::Uuid;

/// Confirmed proposals that are looked back at, newest first.
const LOOK_BACK_MAX: i64 = 1_000;

statements! {
    LOCK = "select from pg_advisory_xact_lock(4661008)";

    PROPOSE = "insert into recon_model_promotion (id, model, champion, comparison, reason, proposed_by, proposed_at)
        values ($1, $2, $3, $4, $5, $6, $7)";

    IS_OPEN = "select from recon_model_promotion promotion
        where not exists (select from recon_model_verdict verdict where verdict.promotion_id = promotion.id)
        limit 1";

    GIVE_VERDICT = "insert into recon_model_verdict (promotion_id, proposed_by, verdict, given_by, given_at)
        values ($1, $2, $3, $4, $5)";

    LIST = "select promotion.id, promotion.model, promotion.champion, promotion.comparison, promotion.reason,
            promotion.proposed_by, promotion.proposed_at, verdict.verdict, verdict.given_by, verdict.given_at
        from recon_model_promotion promotion left join recon_model_verdict verdict on verdict.promotion_id = promotion.id
        where ($1::uuid is null or promotion.id = $1) and ($2::uuid is null or promotion.id < $2)
        order by promotion.id desc limit $3";

    CONFIRMED = "select promotion.model, promotion.champion, verdict.given_at
        from recon_model_verdict verdict join recon_model_promotion promotion on promotion.id = verdict.promotion_id
        where verdict.verdict = 'confirmed' order by verdict.seq desc limit $1";
}

/// That a model come into force: what one person has proposed, and what another has said to it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelProposal {
    /// Its id.
    pub id: ModelProposalId,
    /// The model, by the SHA-256 of its file in hexadecimal.
    pub model: String,
    /// The model that was in force, likewise.
    pub champion: String,
    /// What was measured of both, on decisions that neither had learned from.
    pub comparison: Option<Value>,
    /// Why.
    pub reason: String,
    /// The client who proposed it.
    pub proposed_by: String,
    /// When.
    pub proposed_at: Timestamp,
    /// What came of it.
    pub verdict: Option<GivenVerdict>,
}

/// A model that two people have put in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromotedModel {
    /// SHA-256 of its file.
    pub model: String,
    /// Of the model that was in force before.
    pub champion: String,
    /// Since when it is in force.
    pub since: Timestamp,
}

/// Why nothing was proposed or decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromotionRefusal {
    /// There is no such proposal of that model.
    Unknown,
    /// There is a proposal that nobody has answered.
    AlreadyProposed,
    /// The model is in force.
    InForce,
    /// Another model is in force than the one that it is compared with.
    OtherChampion,
    /// A model that was never in force is proposed with a comparison.
    NotCompared,
    /// It has its verdict.
    Answered,
    /// Who proposes does not confirm.
    SamePerson,
}

/// Proposes that a model come into force. `shipped` is the model that judges where none was ever confirmed.
pub async fn propose(
    tx: &Tx,
    proposal: &ModelProposal,
    shipped: &str,
) -> Result<Result<(), PromotionRefusal>, StoreError> {
    tx.query(LOCK, &[]).await?;
    let past = confirmed(&tx.query(CONFIRMED, &[&LOOK_BACK_MAX]).await?)?;
    let is_open = !tx.query(IS_OPEN, &[]).await?.is_empty();
    if let Some(refusal) = objection(proposal, &past, shipped, is_open) {
        return Ok(Err(refusal));
    }
    tx.execute(
        PROPOSE,
        &[
            &proposal.id.as_uuid(),
            &proposal.model,
            &proposal.champion,
            &proposal.comparison,
            &proposal.reason,
            &proposal.proposed_by,
            &At(proposal.proposed_at),
        ],
    )
    .await?;
    let said = json!({
        "proposal": proposal.id.to_string(), "model": proposal.model, "champion": proposal.champion,
        "by": proposal.proposed_by, "reason_sha256": sha256_of(&proposal.reason),
        "comparison_sha256": proposal.comparison.as_ref().map(|comparison| sha256_of(&comparison.to_string())),
    });
    tell(tx, proposal.id, ("proposed", said), proposal.proposed_at).await?;
    Ok(Ok(()))
}

fn objection(
    proposal: &ModelProposal,
    past: &[PromotedModel],
    shipped: &str,
    is_open: bool,
) -> Option<PromotionRefusal> {
    let model = proposal.model.as_str();
    let champion = in_force(past, shipped);
    let was_in_force =
        model == shipped || past.iter().any(|past| past.model == model || past.champion == model);
    if is_open {
        Some(PromotionRefusal::AlreadyProposed)
    } else if model == champion {
        Some(PromotionRefusal::InForce)
    } else if proposal.champion != champion {
        Some(PromotionRefusal::OtherChampion)
    } else if proposal.comparison.is_none() && !was_in_force {
        Some(PromotionRefusal::NotCompared)
    } else {
        None
    }
}

/// Answers a proposal. Confirmed by a second person, its model is in force from the next run on.
pub async fn answer(
    tx: &Tx,
    (model, id): (&str, ModelProposalId),
    (verdict, by): (Verdict, &str),
    shipped: &str,
    now: Timestamp,
) -> Result<Result<ModelProposal, PromotionRefusal>, StoreError> {
    tx.query(LOCK, &[]).await?;
    let rows = tx.query(LIST, &[&Some(id.as_uuid()), &None::<Uuid>, &1_i64]).await?;
    let found = rows.first().map(read).transpose()?.filter(|found| found.model == model);
    let Some(mut proposal) = found else { return Ok(Err(PromotionRefusal::Unknown)) };
    if proposal.verdict.is_some() {
        return Ok(Err(PromotionRefusal::Answered));
    }
    if verdict == Verdict::Confirmed {
        if proposal.proposed_by == by {
            return Ok(Err(PromotionRefusal::SamePerson));
        }
        // The shipped model changes with the program.
        let past = confirmed(&tx.query(CONFIRMED, &[&1_i64]).await?)?;
        if in_force(&past, shipped) != proposal.champion {
            return Ok(Err(PromotionRefusal::OtherChampion));
        }
    }
    let (id, maker) = (id.as_uuid(), proposal.proposed_by.as_str());
    tx.execute(GIVE_VERDICT, &[&id, &maker, &verdict.as_str(), &by, &At(now)]).await?;
    let said = json!({
        "proposal": proposal.id.to_string(), "model": proposal.model, "champion": proposal.champion,
        "verdict": verdict.as_str(), "proposed_by": proposal.proposed_by, "by": by,
    });
    tell(tx, proposal.id, ("answered", said), now).await?;
    proposal.verdict = Some(GivenVerdict { verdict, by: by.to_owned(), at: now });
    Ok(Ok(proposal))
}

/// What was proposed, newest first; only what came before `before`, where it is given.
pub async fn list(db: &Db, before: Option<Uuid>, limit: i64) -> Result<Vec<ModelProposal>, StoreError> {
    db.query(LIST, &[&None::<Uuid>, &before, &limit]).await?.iter().map(read).collect()
}

/// What two people have put in force, newest first: the first one judges.
pub async fn promoted(db: &Db) -> Result<Vec<PromotedModel>, StoreError> {
    confirmed(&db.query(CONFIRMED, &[&LOOK_BACK_MAX]).await?)
}

/// The newest of what two people have put in force, if they ever have.
pub async fn newest(db: &Db) -> Result<Option<PromotedModel>, StoreError> {
    Ok(confirmed(&db.query(CONFIRMED, &[&1_i64]).await?)?.pop())
}

/// The model in force: the newest of `promoted`, or the shipped one.
pub fn in_force<'a>(promoted: &'a [PromotedModel], shipped: &'a str) -> &'a str {
    promoted.first().map_or(shipped, |newest| newest.model.as_str())
}

/// Writes into the log what people did about a model.
async fn tell(
    tx: &Tx,
    id: ModelProposalId,
    (kind, data): (&str, Value),
    now: Timestamp,
) -> Result<(), StoreError> {
    let event = NewEvent {
        topic: topic::RECONCILIATION,
        key: PaymentId::from_uuid(id.as_uuid()),
        kind: format!("model.{kind}"),
        participants: None,
        traceparent: String::new(),
        data: EventData::of(&data),
    };
    event_log::append(tx, &[event], now).await
}

fn confirmed(rows: &[Row]) -> Result<Vec<PromotedModel>, StoreError> {
    rows.iter()
        .map(|row| {
            Ok(PromotedModel {
                model: row.try_get("model")?,
                champion: row.try_get("champion")?,
                since: row.try_get::<_, At>("given_at")?.0,
            })
        })
        .collect()
}

fn read(row: &Row) -> Result<ModelProposal, StoreError> {
    Ok(ModelProposal {
        id: ModelProposalId::from_uuid(row.try_get("id")?),
        model: row.try_get("model")?,
        champion: row.try_get("champion")?,
        comparison: row.try_get("comparison")?,
        reason: row.try_get("reason")?,
        proposed_by: row.try_get("proposed_by")?,
        proposed_at: row.try_get::<_, At>("proposed_at")?.0,
        verdict: GivenVerdict::read(row)?,
    })
}
