//! Reading payments: one, a page, and everything that happened to one.

use crate::db::{Db, StoreError, Tx};
use crate::payment::{StoredPayment, payment_columns};
use crate::sql::{At, statements};
use flowbridge_domain::id::{ParticipantId, PaymentId};
use flowbridge_domain::time::Timestamp;

statements! {
    GET = concat!("select ", payment_columns!(), " from payment
        where id = $1 and ($2::uuid is null or debtor_participant = $2 or creditor_participant = $2)");

    // Newest first: keys are in the order of time, so a range of time is a range of keys, give or take clocks that are set.
    // Each side has an index of its own; pairs are compared so that no other index has the order, however many payments the
    // others have.
    LIST_ONE = of_one!("true");

    // What is rare among a participant's payments has indexes of its own: the others' are not passed over to find it.
    LIST_FAILED_ONE = of_one!("state = 'failed' and reason is not null");

    LIST_KIND_ONE = of_one!("kind <> 'transfer' and kind = $4");

    LIST_ALL = concat!("select ", payment_columns!(), " from payment
        where $1::uuid is null and ", within!(), " and ", list_filter!(), "
        order by id desc limit $7");

    // What is rare among millions has an index that holds nothing else. That of the open ones is in another order: they are few,
    // and all of them are looked at rather than a history that they may be missing from.
    LIST_OPEN = concat!("select ", payment_columns!(), " from (select * from payment where is_open offset 0) payment
        where ", viewer!(), " and ", within!(), " and ", list_filter!(), "
        order by id desc limit $7");

    // Each has a reason, by which they are indexed.
    LIST_FAILED = concat!("select ", payment_columns!(), " from payment
        where $1::uuid is null and state = 'failed' and reason is not null and ", within!(), " and ", list_filter!(), "
        order by id desc limit $7");

    LIST_KIND = concat!("select ", payment_columns!(), " from payment
        where $1::uuid is null and kind <> 'transfer' and kind = $4 and ", within!(), " and ", list_filter!(), "
        order by id desc limit $7");

    ENTRIES = "select moment, round, debit.kind as debit, credit.kind as credit, entry.amount, entry.currency, entry.posted_at
        from journal_entry entry
            join ledger_account debit on debit.id = entry.debit_account
            join ledger_account credit on credit.id = entry.credit_account
        where entry.source_id = $1 order by entry.posted_at, entry.round, entry.moment";

    // Finality as a client sees it: in a block; counted by policy; committed to L1 (safe); executed there (finalized).
    TRANSACTIONS = "select purpose, state, tx_hash, included_number, versions, created_at, state_since,
            case when included_number is null then null
                when included_number <= head.finalized_number then 'finalized'
                when included_number <= head.safe_number then 'safe'
                when state in ('confirmed', 'finalized') then 'confirmed'
                else 'included' end as finality,
            l1.batch_number, l1.commit_tx, l1.prove_tx, l1.execute_tx
        from chain_tx_item item join chain_tx on chain_tx.id = item.chain_tx
            left join chain_head head on true
            left join chain_l1_block l1 on l1.block_number = chain_tx.included_number
        where item.payment_id = $1 order by created_at, chain_tx.id";

    CLIENT = "select client_id from payment where id = $1 and ($2::uuid is null or participant_id = $2)";

    EFFECTS = "select kind, state, attempts, reference, outcome, state_since from effect where payment_id = $1
        order by state_since, kind";
}

/// A page of those of one participant of which `$which` is so.
macro_rules! of_one {
    ($which:literal) => {
        concat!(
            "select * from (
            (select ",
            payment_columns!(),
            " from payment
                where (debtor_participant, id) < ($1, ",
            newest!(),
            ") and (debtor_participant, id) >= ($1, ",
            oldest!(),
            ")
                    and ",
            $which,
            " and ",
            list_filter!(),
            "
                order by debtor_participant desc, id desc limit $7)
            union
            (select ",
            payment_columns!(),
            " from payment
                where (creditor_participant, id) < ($1, ",
            newest!(),
            ") and (creditor_participant, id) >= ($1, ",
            oldest!(),
            ")
                    and ",
            $which,
            " and ",
            list_filter!(),
            "
                order by creditor_participant desc, id desc limit $7)
        ) payment order by id desc limit $7"
        )
    };
}
use of_one;

macro_rules! newest {
    () => {
        "coalesce(least($2::uuid, uuid_floor($6::timestamptz + interval '5 minutes')), 'ffffffff-ffff-ffff-ffff-ffffffffffff')"
    };
}
use newest;

macro_rules! oldest {
    () => {
        "coalesce(uuid_floor($5::timestamptz - interval '5 minutes'), '00000000-0000-0000-0000-000000000000')"
    };
}
use oldest;

macro_rules! within {
    () => {
        concat!("id < ", newest!(), " and id >= ", oldest!())
    };
}
use within;

macro_rules! list_filter {
    () => {
        "($3::text is null or state = $3) and ($4::text is null or kind = $4)
            and ($5::timestamptz is null or accepted_at >= $5) and ($6::timestamptz is null or accepted_at < $6)"
    };
}
use list_filter;

macro_rules! viewer {
    () => {
        "($1::uuid is null or debtor_participant = $1 or creditor_participant = $1)"
    };
}
use viewer;

/// A payment, if `viewer` may see it (none: an operator, who sees all).
pub async fn payment(
    db: &Db,
    id: PaymentId,
    viewer: Option<ParticipantId>,
) -> Result<Option<StoredPayment>, StoreError> {
    let rows = db.query(GET, &[&id.as_uuid(), &viewer.map(|viewer| viewer.as_uuid())]).await?;
    rows.first().map(StoredPayment::from_row).transpose()
}

/// A payment as a transaction sees it.
pub async fn payment_in(tx: &Tx, id: PaymentId) -> Result<Option<StoredPayment>, StoreError> {
    let rows = tx.query(GET, &[&id.as_uuid(), &None::<uuid::Uuid>]).await?;
    rows.first().map(StoredPayment::from_row).transpose()
}

/// Which client asked for a payment, for an operator (`viewer` none) and for the participant whose client it was. None of a payment from
/// before this was kept.
pub async fn client(
    db: &Db,
    id: PaymentId,
    viewer: Option<ParticipantId>,
) -> Result<Option<String>, StoreError> {
    let rows = db.query(CLIENT, &[&id.as_uuid(), &viewer.map(|viewer| viewer.as_uuid())]).await?;
    rows.first().map_or(Ok(None), |row| Ok(row.try_get("client_id")?))
}

/// Which payments to list.
#[derive(Debug, Clone, Default)]
pub struct PaymentFilter {
    /// Only those that this participant may see.
    pub viewer: Option<ParticipantId>,
    /// Only those older than this one.
    pub before: Option<PaymentId>,
    /// Only those in this state.
    pub state: Option<String>,
    /// Only those of this kind.
    pub kind: Option<String>,
    /// Only those accepted at this instant or later.
    pub created_from: Option<Timestamp>,
    /// Only those accepted before this instant.
    pub created_to: Option<Timestamp>,
}

/// Payments, newest first.
pub async fn payments(db: &Db, filter: &PaymentFilter, limit: i64) -> Result<Vec<StoredPayment>, StoreError> {
    let (viewer, before) = (filter.viewer.map(|id| id.as_uuid()), filter.before.map(|id| id.as_uuid()));
    let (from, to) = (filter.created_from.map(At), filter.created_to.map(At));
    let statement = match (filter.state.as_deref(), filter.kind.as_deref()) {
        (Some("failed"), _) if viewer.is_some() => LIST_FAILED_ONE,
        (Some("failed"), _) => LIST_FAILED,
        (Some("completed") | None, Some("refund" | "issuance" | "redemption")) if viewer.is_some() => {
            LIST_KIND_ONE
        }
        (Some("completed") | None, Some("refund" | "issuance" | "redemption")) => LIST_KIND,
        (Some("completed") | None, _) if viewer.is_some() => LIST_ONE,
        (Some("completed") | None, _) => LIST_ALL,
        (Some(_), _) => LIST_OPEN,
    };
    let rows =
        db.query(statement, &[&viewer, &before, &filter.state, &filter.kind, &from, &to, &limit]).await?;
    rows.iter().map(StoredPayment::from_row).collect()
}

/// A journal entry as a timeline shows it.
#[derive(Debug, Clone)]
pub struct TimelineEntry {
    /// What it records.
    pub moment: String,
    /// In which life of the payment.
    pub round: i16,
    /// The kind of account debited.
    pub debit: String,
    /// The kind of account credited.
    pub credit: String,
    /// Minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// When.
    pub posted_at: Timestamp,
}

/// An effect as a timeline shows it.
#[derive(Debug, Clone)]
pub struct TimelineEffect {
    /// What was asked for.
    pub kind: String,
    /// How far it is.
    pub state: String,
    /// How often it was tried.
    pub attempts: i32,
    /// The bank's reference, or the chain transaction.
    pub reference: Option<String>,
    /// What came of it.
    pub outcome: Option<String>,
    /// Since when it is so far.
    pub state_since: Timestamp,
}

/// What was posted for a payment, and what was asked of the outside.
pub async fn ledger_and_effects(
    db: &Db,
    id: PaymentId,
) -> Result<(Vec<TimelineEntry>, Vec<TimelineEffect>), StoreError> {
    let mut entries = Vec::new();
    for row in db.query(ENTRIES, &[&id.as_uuid()]).await? {
        entries.push(TimelineEntry {
            moment: row.try_get("moment")?,
            round: row.try_get("round")?,
            debit: row.try_get("debit")?,
            credit: row.try_get("credit")?,
            amount: row.try_get("amount")?,
            currency: row.try_get("currency")?,
            posted_at: row.try_get::<_, At>("posted_at")?.0,
        });
    }
    let mut effects = Vec::new();
    for row in db.query(EFFECTS, &[&id.as_uuid()]).await? {
        effects.push(TimelineEffect {
            kind: row.try_get("kind")?,
            state: row.try_get("state")?,
            attempts: row.try_get("attempts")?,
            reference: row.try_get("reference")?,
            outcome: row.try_get("outcome")?,
            state_since: row.try_get::<_, At>("state_since")?.0,
        });
    }
    Ok((entries, effects))
}

/// A chain transaction that carries a payment, as a timeline shows it.
#[derive(Debug, Clone)]
pub struct TimelineTransaction {
    /// What it does: `initiate`, `settle`, …
    pub purpose: String,
    /// How far it is.
    pub state: String,
    /// The hash of its newest version, once it is signed.
    pub tx_hash: Option<String>,
    /// The block it is in.
    pub block_number: Option<i64>,
    /// How final that block is: `included`, `confirmed`, `safe`, `finalized`.
    pub finality: Option<String>,
    /// Its batch on L1, where the chain tells.
    pub l1_batch: Option<i64>,
    /// The L1 transactions that committed, proved and executed the batch.
    pub l1_txs: [Option<String>; 3],
    /// How often it was signed.
    pub versions: i32,
    /// When it was put together.
    pub created_at: Timestamp,
    /// Since when it is so far.
    pub state_since: Timestamp,
}

/// The chain transactions that carried a payment, oldest first.
pub async fn transactions(db: &Db, id: PaymentId) -> Result<Vec<TimelineTransaction>, StoreError> {
    let hex = |hash: Vec<u8>| hash.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    // A chain may tell that a batch is executed without naming the transaction.
    let is_named = |hash: &Vec<u8>| !hash.is_empty();
    db.query(TRANSACTIONS, &[&id.as_uuid()])
        .await?
        .iter()
        .map(|row| {
            Ok(TimelineTransaction {
                purpose: row.try_get("purpose")?,
                state: row.try_get("state")?,
                tx_hash: row.try_get::<_, Option<Vec<u8>>>("tx_hash")?.map(hex),
                block_number: row.try_get("included_number")?,
                finality: row.try_get("finality")?,
                l1_batch: row.try_get("batch_number")?,
                l1_txs: [
                    row.try_get::<_, Option<Vec<u8>>>("commit_tx")?.map(hex),
                    row.try_get::<_, Option<Vec<u8>>>("prove_tx")?.map(hex),
                    row.try_get::<_, Option<Vec<u8>>>("execute_tx")?.filter(is_named).map(hex),
                ],
                versions: row.try_get("versions")?,
                created_at: row.try_get::<_, At>("created_at")?.0,
                state_since: row.try_get::<_, At>("state_since")?.0,
            })
        })
        .collect()
}
