//! Decisions on payments under review: one person proposes, another confirms, and only then is the payment moved.
//!
//! The payment's row is locked first, so that a payment has one open proposal at most, and a verdict and what follows from
//! it are one transaction. Proposals and verdicts are never changed. A proposal that another event has overtaken can only
//! be rejected: the payment is perhaps under review again, for another reason, which nobody knew who proposed it.

use crate::db::{Db, StoreError, Tx};
use crate::lifecycle::{self, Occurrence, Outcome};
use crate::payment;
use crate::sql::{At, statements};
use flowbridge_domain::id::{PaymentId, ReviewId};
use flowbridge_domain::payment::{Decision, Event, Rejected, State};
use flowbridge_domain::time::Timestamp;
use tokio_postgres::Row;

/// Reviews of one payment that are shown at most.
const SHOWN_MAX: i64 = 200;

statements! {
    PROPOSE = "insert into payment_review (id, payment_id, decision, note, proposed_by, proposed_at)
        values ($1, $2, $3, $4, $5, $6)";

    IS_OPEN = "select from payment_review review
        where payment_id = $1
            and not exists (select from payment_review_verdict verdict where verdict.review_id = review.id)
        limit 1";

    GIVE_VERDICT = "insert into payment_review_verdict (review_id, proposed_by, verdict, given_by, given_at)
        values ($1, $2, $3, $4, $5)";

    LIST = "select review.id, review.payment_id, review.decision, review.note, review.proposed_by, review.proposed_at,
            verdict.verdict, verdict.given_by, verdict.given_at
        from payment_review review left join payment_review_verdict verdict on verdict.review_id = review.id
        where review.payment_id = $1 and ($2::uuid is null or review.id = $2)
        order by review.id desc limit $3";
}

/// What one person has proposed, and what another has said to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Review {
    /// Its id.
    pub id: ReviewId,
    /// The payment that it is about.
    pub payment: PaymentId,
    /// What is to be done.
    pub decision: Decision,
    /// Why.
    pub note: String,
    /// The client who proposed it.
    pub proposed_by: String,
    /// When.
    pub proposed_at: Timestamp,
    /// What came of it.
    pub verdict: Option<GivenVerdict>,
}

/// What a second person said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenVerdict {
    /// What.
    pub verdict: Verdict,
    /// The client who said it.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

impl GivenVerdict {
    /// From the columns `verdict`, `given_by` and `given_at`; none where nobody has answered.
    pub(crate) fn read(row: &Row) -> Result<Option<Self>, StoreError> {
        let Some(text) = row.try_get::<_, Option<&str>>("verdict")? else { return Ok(None) };
        let verdict = Verdict::parse(text).ok_or_else(|| StoreError::Corrupt(format!("verdict {text}")))?;
        Ok(Some(Self { verdict, by: row.try_get("given_by")?, at: row.try_get::<_, At>("given_at")?.0 }))
    }
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Let it be done.
    Confirmed,
    /// Do not.
    Rejected,
}

const VERDICTS: [(Verdict, &str); 2] = [(Verdict::Confirmed, "confirmed"), (Verdict::Rejected, "rejected")];

impl Verdict {
    /// The name in tables and on the wire.
    pub fn as_str(self) -> &'static str {
        VERDICTS.iter().find(|(known, _)| *known == self).map_or("", |(_, name)| name)
    }

    fn parse(text: &str) -> Option<Self> {
        VERDICTS.iter().find(|(_, name)| *name == text).map(|(verdict, _)| *verdict)
    }
}

/// Why nothing was proposed or decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewRefusal {
    /// There is no such payment or proposal.
    Unknown,
    /// The payment is not under review.
    NotUnderReview,
    /// There is a proposal that nobody has answered.
    AlreadyProposed,
    /// It has its verdict.
    Decided,
    /// Who proposes does not confirm.
    SamePerson,
    /// The payment has changed since it was proposed.
    Overtaken,
    /// The payment would stand where it stands.
    NoEffect,
}

/// Proposes a decision on a payment under review.
pub async fn propose(tx: &Tx, review: &Review) -> Result<Result<(), ReviewRefusal>, StoreError> {
    let locked = payment::lock(tx, &[review.payment]).await?;
    let Some(stored) = locked.first() else { return Ok(Err(ReviewRefusal::Unknown)) };
    if !matches!(stored.payment.progress.state, State::UnderReview(_)) {
        return Ok(Err(ReviewRefusal::NotUnderReview));
    }
    let payment = review.payment.as_uuid();
    if !tx.query(IS_OPEN, &[&payment]).await?.is_empty() {
        return Ok(Err(ReviewRefusal::AlreadyProposed));
    }
    let (id, at) = (review.id.as_uuid(), At(review.proposed_at));
    tx.execute(PROPOSE, &[&id, &payment, &review.decision.as_str(), &review.note, &review.proposed_by, &at])
        .await?;
    Ok(Ok(()))
}

/// Answers a proposal. Confirmed by a second person, it is carried out in the same transaction.
pub async fn answer(
    tx: &Tx,
    (payment, id): (PaymentId, ReviewId),
    verdict: Verdict,
    by: &str,
    now: Timestamp,
) -> Result<Result<Review, ReviewRefusal>, StoreError> {
    let locked = payment::lock(tx, &[payment]).await?;
    let Some(stored) = locked.first() else { return Ok(Err(ReviewRefusal::Unknown)) };
    let rows = tx.query(LIST, &[&payment.as_uuid(), &id.as_uuid(), &1_i64]).await?;
    let Some(row) = rows.first() else { return Ok(Err(ReviewRefusal::Unknown)) };
    let mut review = read(row)?;
    if review.verdict.is_some() {
        return Ok(Err(ReviewRefusal::Decided));
    }
    if verdict == Verdict::Confirmed {
        if review.proposed_by == by {
            return Ok(Err(ReviewRefusal::SamePerson));
        }
        if review.proposed_at < stored.state_since {
            return Ok(Err(ReviewRefusal::Overtaken));
        }
        let occurrence = Occurrence { payment_id: payment, event: Event::Reviewed(review.decision) };
        match lifecycle::apply(tx, &[occurrence], now).await?.first() {
            Some(Outcome::Applied { .. }) => {}
            Some(Outcome::Rejected(Rejected::Repeat)) => {
                return Ok(Err(ReviewRefusal::NoEffect));
            }
            Some(Outcome::Rejected(_)) => return Ok(Err(ReviewRefusal::NotUnderReview)),
            Some(Outcome::UnknownPayment) | None => return Ok(Err(ReviewRefusal::Unknown)),
        }
    }
    tx.execute(GIVE_VERDICT, &[&id.as_uuid(), &review.proposed_by, &verdict.as_str(), &by, &At(now)]).await?;
    review.verdict = Some(GivenVerdict { verdict, by: by.to_owned(), at: now });
    Ok(Ok(review))
}

/// What was proposed for a payment, newest first.
pub async fn of_payment(db: &Db, payment: PaymentId) -> Result<Vec<Review>, StoreError> {
    let rows = db.query(LIST, &[&payment.as_uuid(), &None::<uuid::Uuid>, &SHOWN_MAX]).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Review, StoreError> {
    let id = ReviewId::from_uuid(row.try_get("id")?);
    let corrupt = |what: &str| StoreError::Corrupt(format!("{what} of review {id}"));
    Ok(Review {
        id,
        payment: PaymentId::from_uuid(row.try_get("payment_id")?),
        decision: Decision::parse(row.try_get("decision")?).ok_or_else(|| corrupt("decision"))?,
        note: row.try_get("note")?,
        proposed_by: row.try_get("proposed_by")?,
        proposed_at: row.try_get::<_, At>("proposed_at")?.0,
        verdict: GivenVerdict::read(row)?,
    })
}
