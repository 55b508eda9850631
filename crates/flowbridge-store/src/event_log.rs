//! The event log in PostgreSQL: appended to in the transaction that the events tell of, read by stored offset.
//!
//! An offset is the pair (transaction id, sequence number). A reader stops below the oldest transaction still running,
//! so nothing ever appears behind an offset that was read; a bare sequence number could not promise that. Order holds per
//! key: all events of a payment are in one partition.
//!
//! A group reads a partition under a lease. Its offset moves in the same transaction as what the events caused, and
//! only from where it was expected, under the epoch of the lease: an event that is delivered again changes nothing,
//! and a reader that was paused past its lease (a zombie) writes nothing. How far a group has ever been is kept beside how far it
//! is: one that is set back reads again, and passes over what would mean something else the second time.
//!
//! An event that cannot be taken in is parked as a dead letter, and those of the same key queue up behind it; other keys
//! go on.

use crate::db::{Db, StoreError, Tx};
use crate::event_data::EventData;
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::{
    EventId, ExceptionId, ModelProposalId, ParticipantId, PaymentId, ReconciliationId, WebhookEndpointId,
};
use flowbridge_domain::time::Timestamp;
use std::collections::HashSet;
use std::fmt;
use std::time::Duration;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    // Written out instead of calling log_partition(), which would look the installation up for every event.
    APPEND = "insert into event (id, xid, topic, partition, key, kind, debtor_participant, creditor_participant, traceparent, data, recorded_at)
        select new.id, (select pg_current_xact_id()::text::bigint), new.topic,
                ((get_byte(uuid_send(new.key), 14) << 8 | get_byte(uuid_send(new.key), 15)) % installation.log_partitions)::smallint,
                new.key, new.kind, new.debtor, new.creditor, new.traceparent, new.data, $9
            from installation, unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::uuid[], $6::uuid[], $7::text[], $8::json[])
                with ordinality as new (id, topic, key, kind, debtor, creditor, traceparent, data, place)
            order by new.place";

    // The offsets of the partitions held go in; what follows each of them comes out, in the order of the log.
    READ_HELD = concat!("select ", event_columns!(), "
        from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[]) as held (topic, partition, xid, seq),
            lateral (
                select * from event
                    where event.topic = held.topic and event.partition = held.partition
                        and (event.xid, event.seq) > (held.xid, held.seq)
                        and event.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                    order by event.xid, event.seq limit $5
            ) event
        order by event.xid, event.seq");

    // Whether anything follows them.
    FOLLOWS_HELD = "select from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[]) as held (topic, partition, xid, seq)
        where exists (
            select from event
                where event.topic = held.topic and event.partition = held.partition
                    and (event.xid, event.seq) > (held.xid, held.seq)
                    and event.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
        limit 1";

    // Each partition has its own order: a page of each, of which the first are the page of all.
    READ_ALL = concat!("select ", event_columns!(), "
        from unnest($1::text[]) as topic, installation, generate_series(0, log_partitions - 1) as partition,
            lateral (
                select * from event
                    where event.topic = topic.topic and event.partition = partition.partition
                        and (event.xid, event.seq) > ($2, $3)
                        and event.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                    order by event.xid, event.seq limit $4
            ) event
        order by event.xid, event.seq limit $4");

    READ_PARTICIPANT = concat!("select * from (
            (select ", event_columns!(), " from event
                where topic = 'payments' and debtor_participant = $1 and (xid, seq) > ($2, $3)
                    and xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                order by xid, seq limit $4)
            union all
            (select ", event_columns!(), " from event
                where topic = 'payments' and creditor_participant = $1 and debtor_participant is distinct from $1
                    and (xid, seq) > ($2, $3) and xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                order by xid, seq limit $4)
        ) event order by xid, seq limit $4");

    READ_KEY = concat!("select ", event_columns!(), " from event where key = $1 order by xid, seq limit $2");

    ENSURE_OFFSETS = "insert into consumer_offset (consumer_group, topic, partition)
        select $1, topic, partition
            from unnest($2::text[]) as topic, installation, generate_series(0, log_partitions - 1) as partition
        on conflict do nothing";

    // A sign of life, and how many partitions each living member should have, rounded up.
    HEARTBEAT = "with me as (
            insert into consumer_member (consumer_group, owner, alive_until) values ($1, $2, $4)
                on conflict (consumer_group, owner) do update set alive_until = excluded.alive_until)
        select ((select log_partitions from installation) + count(*)) / (count(*) + 1) as share
            from consumer_member where consumer_group = $1 and owner <> $2 and alive_until > $3";

    RENEW = "update consumer_offset set lease_until = $4
        where consumer_group = $1 and owner = $2 and lease_until > $3
        returning topic, partition, xid, seq, seen_xid, seen_seq, epoch";

    // Whole partitions: a group reads all its topics of a partition in one place.
    ACQUIRE = "update consumer_offset set owner = $2, epoch = epoch + 1, lease_until = $4
        where consumer_group = $1 and lease_until <= $3 and partition in (
            select partition from consumer_offset where consumer_group = $1
                group by partition having bool_and(lease_until <= $3) order by partition limit $5)
        returning topic, partition, xid, seq, seen_xid, seen_seq, epoch";

    RELEASE = "update consumer_offset set lease_until = '-infinity'
        where consumer_group = $1 and owner = $2 and partition = any($3)";

    FORGET_MEMBER = "delete from consumer_member where consumer_group = $1 and owner = $2 or alive_until < $3";

    ADVANCE = "update consumer_offset o set xid = moved.to_xid, seq = moved.to_seq,
            (seen_xid, seen_seq) = (
                select furthest.xid, furthest.seq
                    from (values (o.seen_xid, o.seen_seq), (moved.to_xid, moved.to_seq)) as furthest (xid, seq)
                    order by furthest.xid desc, furthest.seq desc limit 1)
        from unnest($2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[])
            as moved (topic, partition, epoch, xid, seq, to_xid, to_seq)
        where o.consumer_group = $1 and o.topic = moved.topic and o.partition = moved.partition and o.epoch = moved.epoch
            and o.xid = moved.xid and o.seq = moved.seq";

    PARKED_KEYS = "select distinct key from dead_letter
        where consumer_group = $1 and key = any($2) and resolved_at is null";

    PARK = "insert into dead_letter (id, consumer_group, topic, partition, key, event_id, xid, seq, cause, attempts, parked_at)
        select new.id, $1, new.topic, new.partition, new.key, new.event_id, new.xid, new.seq, new.cause, 1, $10
            from unnest($2::uuid[], $3::text[], $4::smallint[], $5::uuid[], $6::uuid[], $7::bigint[], $8::bigint[], $9::text[])
                as new (id, topic, partition, key, event_id, xid, seq, cause)
        on conflict (consumer_group, event_id) do update
            set cause = excluded.cause, attempts = dead_letter.attempts + 1, resolved_at = null, resolution = null, reason = null";

    LIST_DEAD_LETTERS = "select id, consumer_group, topic, partition, key, event_id, xid, seq, cause, attempts, parked_at,
            resolved_at, resolution, reason
        from dead_letter
        where ($1 or resolved_at is null) and ($2::uuid is null or id = $2) order by parked_at, xid, seq limit $3";

    // A key is dealt with as a whole and in order: whoever retries or drops has all of its open letters.
    LOCK_KEY_LETTERS = concat!("select letter.id as letter_id, ", event_columns!(), "
        from dead_letter letter join event on event.id = letter.event_id
        where letter.consumer_group = $1 and letter.key = $2 and letter.resolved_at is null
        order by letter.xid, letter.seq for update of letter");

    RESOLVE_LETTERS = "update dead_letter set resolved_at = $2, resolution = $3, reason = $4 where id = any($1)";

    // Beyond everything where there is no such event: then nothing is read again.
    OFFSET_AT_TIME = "select coalesce(min(xid), 9223372036854775807) as xid from event
        where id >= uuid_floor($1) and recorded_at >= $1";

    OFFSET_OF_KEY = "select coalesce(min(xid), 9223372036854775807) as xid from event where key = $1";

    // Taking the lease away with the offset makes a running reader start again from there. Never forward: what was not read yet would
    // be lost. In a cluster whose transactions are counted anew, what was seen in the one before says nothing about them.
    REWIND = "update consumer_offset o set
            (xid, seq) = (
                select nearest.xid, nearest.seq from (values (o.xid, o.seq), ($2, $3)) as nearest (xid, seq)
                    order by nearest.xid, nearest.seq limit 1),
            seen_xid = least(o.seen_xid, pg_snapshot_xmin(pg_current_snapshot())::text::bigint),
            epoch = epoch + 1, lease_until = '-infinity', owner = null
        where consumer_group = $1 returning xid, seq";

    END = "select newest.xid, newest.seq
        from unnest($1::text[]) as topic, installation, generate_series(0, log_partitions - 1) as partition,
            lateral (
                select xid, seq from event
                    where event.topic = topic.topic and event.partition = partition.partition
                        and event.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                    order by xid desc, seq desc limit 1
            ) newest
        order by newest.xid desc, newest.seq desc limit 1";

    LAG = "select o.consumer_group, o.topic, coalesce(sum(l.behind), 0)::bigint as behind
        from consumer_offset o, lateral (
            select count(*) as behind from (
                select from event e where e.topic = o.topic and e.partition = o.partition and (e.xid, e.seq) > (o.xid, o.seq)
                    limit 10000) newest
        ) l group by o.consumer_group, o.topic";
}

macro_rules! event_columns {
    () => {
        "event.id, event.xid, event.seq, event.topic, event.partition, event.key, event.kind, event.debtor_participant, \
         event.creditor_participant, event.traceparent, event.schema_version, event.data, event.recorded_at"
    };
}
pub(crate) use event_columns;

/// What events are about. A group reads some of them, in the order of each payment.
pub mod topic {
    /// What partners hear about.
    pub const PAYMENTS: &str = "payments";
    /// What the chain said.
    pub const CHAIN: &str = "chain";
    /// What banks said.
    pub const BANK: &str = "bank";
    /// What became of webhook endpoints.
    pub const WEBHOOKS: &str = "webhooks";
    /// What reconciliation found and what people do about it: what the operator hears about.
    pub const RECONCILIATION: &str = "reconciliation";

    /// All of them.
    pub const ALL: [&str; 5] = [PAYMENTS, CHAIN, BANK, WEBHOOKS, RECONCILIATION];
}

/// A place in the log: everything up to and including it has been read. Text form `xid-seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Offset {
    /// The transaction that appended.
    pub xid: i64,
    /// The number within the log.
    pub seq: i64,
}

impl Offset {
    /// Before everything.
    pub const START: Self = Self { xid: 0, seq: 0 };

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        let (xid, seq) = text.split_once('-')?;
        let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number >= 0);
        Some(Self { xid: number(xid)?, seq: number(seq)? })
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.xid, self.seq)
    }
}

/// An event to append.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// `payments`, `chain`, `bank`, `webhooks`, `audit`.
    pub topic: &'static str,
    /// The payment it belongs to.
    pub key: PaymentId,
    /// Such as `payment.settled`.
    pub kind: String,
    /// The debtor's and the creditor's institution, who may see it; none for what is internal.
    pub participants: Option<(ParticipantId, ParticipantId)>,
    /// The trace that it continues.
    pub traceparent: String,
    /// What it says.
    pub data: EventData,
}

/// An event in the log.
#[derive(Debug, Clone)]
pub struct LoggedEvent {
    /// Its id, also towards partners.
    pub id: EventId,
    /// Where it is.
    pub offset: Offset,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i16,
    /// The payment.
    pub key: PaymentId,
    /// Such as `payment.settled`.
    pub kind: String,
    /// The debtor's institution.
    pub debtor_participant: Option<ParticipantId>,
    /// The creditor's institution.
    pub creditor_participant: Option<ParticipantId>,
    /// The trace that it continues.
    pub traceparent: String,
    /// The version of `data`.
    pub schema_version: i16,
    /// What it says.
    pub data: EventData,
    /// When it was written.
    pub recorded_at: Timestamp,
}

impl LoggedEvent {
    pub(crate) fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: EventId::from_uuid(row.try_get("id")?),
            offset: offset_of(row)?,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            key: PaymentId::from_uuid(row.try_get("key")?),
            kind: row.try_get("kind")?,
            debtor_participant: row
                .try_get::<_, Option<Uuid>>("debtor_participant")?
                .map(ParticipantId::from_uuid),
            creditor_participant: row
                .try_get::<_, Option<Uuid>>("creditor_participant")?
                .map(ParticipantId::from_uuid),
            traceparent: row.try_get("traceparent")?,
            schema_version: row.try_get("schema_version")?,
            data: row.try_get("data")?,
            recorded_at: row.try_get::<_, At>("recorded_at")?.0,
        })
    }
}

/// What an event of a kind is about, as people name it: the log keeps ids of all kinds of things in one column.
pub fn subject_of(kind: &str, key: PaymentId) -> String {
    let id = key.as_uuid();
    match kind.split_once('.') {
        Some(("reconciliation", _)) => ReconciliationId::from_uuid(id).to_string(),
        Some(("exception", _)) => ExceptionId::from_uuid(id).to_string(),
        Some(("model", _)) => ModelProposalId::from_uuid(id).to_string(),
        Some(("webhook_endpoint", _)) => WebhookEndpointId::from_uuid(id).to_string(),
        _ => key.to_string(),
    }
}

fn offset_of(row: &Row) -> Result<Offset, StoreError> {
    Ok(Offset { xid: row.try_get("xid")?, seq: row.try_get("seq")? })
}

fn events(rows: &[Row]) -> Result<Vec<LoggedEvent>, StoreError> {
    rows.iter().map(LoggedEvent::from_row).collect()
}

/// Appends events in the order given, in the caller's transaction.
pub async fn append(tx: &Tx, new: &[NewEvent], now: Timestamp) -> Result<(), StoreError> {
    if new.is_empty() {
        return Ok(());
    }
    let (ids, topics, keys, kinds, debtors, creditors, traces, data) = columns!(
        new,
        |event| EventId::generate(now, rand::random()).as_uuid(),
        event.topic,
        event.key.as_uuid(),
        event.kind.as_str(),
        event.participants.map(|(debtor, _)| debtor.as_uuid()),
        event.participants.map(|(_, creditor)| creditor.as_uuid()),
        event.traceparent.as_str(),
        &event.data
    );
    tx.execute(APPEND, &[&ids, &topics, &keys, &kinds, &debtors, &creditors, &traces, &data, &At(now)])
        .await?;
    Ok(())
}

/// What follows the offsets of partitions that are held, up to `limit_each` of each, in the order of the log.
pub async fn read_held(db: &Db, held: &[Held], limit_each: i64) -> Result<Vec<LoggedEvent>, StoreError> {
    let (topics, partitions, xids, seqs) =
        columns!(held, |held| held.topic.as_str(), held.partition, held.offset.xid, held.offset.seq);
    events(&db.query(READ_HELD, &[&topics, &partitions, &xids, &seqs, &limit_each]).await?)
}

/// Does anything follow the offsets of partitions that are held? For who would begin a transaction to read it.
pub async fn follows_held(db: &Db, held: &[Held]) -> Result<bool, StoreError> {
    let (topics, partitions, xids, seqs) =
        columns!(held, |held| held.topic.as_str(), held.partition, held.offset.xid, held.offset.seq);
    Ok(!db.query(FOLLOWS_HELD, &[&topics, &partitions, &xids, &seqs]).await?.is_empty())
}

/// A page over all partitions of some topics. For people and tools.
pub async fn read_all(
    db: &Db,
    topics: &[&str],
    after: Offset,
    limit: i64,
) -> Result<Vec<LoggedEvent>, StoreError> {
    events(&db.query(READ_ALL, &[&topics, &after.xid, &after.seq, &limit]).await?)
}

/// A page of the payment events that a participant may see.
pub async fn read_participant(
    db: &Db,
    participant: ParticipantId,
    after: Offset,
    limit: i64,
) -> Result<Vec<LoggedEvent>, StoreError> {
    events(&db.query(READ_PARTICIPANT, &[&participant.as_uuid(), &after.xid, &after.seq, &limit]).await?)
}

/// Everything that happened to one payment, oldest first.
pub async fn read_key(db: &Db, key: PaymentId, limit: i64) -> Result<Vec<LoggedEvent>, StoreError> {
    events(&db.query(READ_KEY, &[&key.as_uuid(), &limit]).await?)
}

/// A topic of a partition that this reader holds the lease of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i16,
    /// How far the group is.
    pub offset: Offset,
    /// How far it has ever been: beyond `offset` where it was set back. What lies up to here was taken in before, or set aside.
    pub seen: Offset,
    /// Proves the lease when the offset moves.
    pub epoch: i64,
}

/// A reader of a group: who it is and what it reads.
#[derive(Debug, Clone)]
pub struct Reader {
    /// The group whose offsets it moves.
    pub group: &'static str,
    /// The topics it reads together.
    pub topics: &'static [&'static str],
    /// This process, unlike any other.
    pub owner: String,
    /// How long a lease lasts without renewal.
    pub lease: Duration,
}

impl Reader {
    /// Makes the group known. Once per start.
    pub async fn register(&self, db: &Db) -> Result<(), StoreError> {
        db.query(ENSURE_OFFSETS, &[&self.group, &self.topics]).await?;
        Ok(())
    }

    /// Renews the leases held, takes free ones up to a fair share, gives away what is above it. Call it several times
    /// within a lease; what comes back is held until then.
    pub async fn renew(&self, db: &Db, now: Timestamp) -> Result<Vec<Held>, StoreError> {
        let until = At(now.plus(self.lease));
        let share: i64 =
            match db.query(HEARTBEAT, &[&self.group, &self.owner, &At(now), &until]).await?.first() {
                Some(row) => row.try_get("share")?,
                None => 0,
            };
        let share = usize::try_from(share).unwrap_or(0);
        let mut held = held(&db.query(RENEW, &[&self.group, &self.owner, &At(now), &until]).await?)?;
        let mut mine: Vec<i16> = held.iter().map(|held| held.partition).collect();
        mine.sort_unstable();
        mine.dedup();
        if mine.len() > share {
            let surplus = mine.split_off(share);
            db.query(RELEASE, &[&self.group, &self.owner, &surplus]).await?;
            held.retain(|held| !surplus.contains(&held.partition));
        } else if mine.len() < share {
            let wanted = i64::try_from(share.saturating_sub(mine.len())).unwrap_or(0);
            let taken = db.query(ACQUIRE, &[&self.group, &self.owner, &At(now), &until, &wanted]).await?;
            held.extend(self::held(&taken)?);
        }
        Ok(held)
    }

    /// Gives all leases back, so that another reader need not wait for them to run out.
    pub async fn release(&self, db: &Db, held: &[Held], now: Timestamp) -> Result<(), StoreError> {
        let partitions: Vec<i16> = held.iter().map(|held| held.partition).collect();
        db.query(RELEASE, &[&self.group, &self.owner, &partitions]).await?;
        db.query(FORGET_MEMBER, &[&self.group, &self.owner, &At(now)]).await?;
        Ok(())
    }

    /// Moves the offset in the transaction that holds what the events caused. [`StoreError::Lost`] when the lease is not
    /// ours any more: the caller must not commit.
    pub async fn advance(&self, tx: &Tx, moves: &[(Held, Offset)]) -> Result<(), StoreError> {
        let (topics, partitions, epochs, xids, seqs, to_xids, to_seqs) = columns!(
            moves,
            |(held, to)| held.topic.as_str(),
            held.partition,
            held.epoch,
            held.offset.xid,
            held.offset.seq,
            to.xid,
            to.seq
        );
        let moved = tx
            .execute(ADVANCE, &[&self.group, &topics, &partitions, &epochs, &xids, &seqs, &to_xids, &to_seqs])
            .await?;
        if usize::try_from(moved).is_ok_and(|moved| moved == moves.len()) {
            Ok(())
        } else {
            Err(StoreError::Lost)
        }
    }

    /// Which of these keys wait behind a dead letter.
    pub async fn parked_keys(&self, tx: &Tx, keys: &[PaymentId]) -> Result<HashSet<PaymentId>, StoreError> {
        let keys: Vec<Uuid> = keys.iter().map(PaymentId::as_uuid).collect();
        let rows = tx.query(PARKED_KEYS, &[&self.group, &keys]).await?;
        rows.iter().map(|row| Ok(PaymentId::from_uuid(row.try_get("key")?))).collect()
    }

    /// Parks events with the cause of each.
    pub async fn park(
        &self,
        tx: &Tx,
        letters: &[(&LoggedEvent, String)],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if letters.is_empty() {
            return Ok(());
        }
        let (ids, topics, partitions, keys, events, xids, seqs, causes) = columns!(
            letters,
            |(event, cause)| EventId::generate(now, rand::random()).as_uuid(),
            event.topic.as_str(),
            event.partition,
            event.key.as_uuid(),
            event.id.as_uuid(),
            event.offset.xid,
            event.offset.seq,
            cause.as_str()
        );
        tx.execute(
            PARK,
            &[&self.group, &ids, &topics, &partitions, &keys, &events, &xids, &seqs, &causes, &At(now)],
        )
        .await?;
        Ok(())
    }
}

fn held(rows: &[Row]) -> Result<Vec<Held>, StoreError> {
    rows.iter()
        .map(|row| {
            Ok(Held {
                topic: row.try_get("topic")?,
                partition: row.try_get("partition")?,
                offset: offset_of(row)?,
                seen: Offset { xid: row.try_get("seen_xid")?, seq: row.try_get("seen_seq")? },
                epoch: row.try_get("epoch")?,
            })
        })
        .collect()
}

/// A parked event.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its id.
    pub id: Uuid,
    /// The group that could not take it in.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The payment.
    pub key: PaymentId,
    /// The event.
    pub event_id: EventId,
    /// Where it is in the log.
    pub offset: Offset,
    /// Why it was parked.
    pub cause: String,
    /// How often it was tried.
    pub attempts: i32,
    /// Since when.
    pub parked_at: Timestamp,
    /// How it was dealt with, if it was.
    pub resolution: Option<String>,
    /// Why it was dropped, if it was.
    pub reason: Option<String>,
}

/// How dead letters were dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution<'a> {
    /// They were taken in.
    Retried,
    /// They are never taken in, for this reason.
    Dropped(&'a str),
}

/// Dead letters, oldest first: open ones, or all; all, or one.
pub async fn dead_letters(
    db: &Db,
    resolved_too: bool,
    id: Option<Uuid>,
    limit: i64,
) -> Result<Vec<DeadLetter>, StoreError> {
    let rows = db.query(LIST_DEAD_LETTERS, &[&resolved_too, &id, &limit]).await?;
    rows.iter()
        .map(|row| {
            Ok(DeadLetter {
                id: row.try_get("id")?,
                group: row.try_get("consumer_group")?,
                topic: row.try_get("topic")?,
                key: PaymentId::from_uuid(row.try_get("key")?),
                event_id: EventId::from_uuid(row.try_get("event_id")?),
                offset: offset_of(row)?,
                cause: row.try_get("cause")?,
                attempts: row.try_get("attempts")?,
                parked_at: row.try_get::<_, At>("parked_at")?.0,
                resolution: row.try_get("resolution")?,
                reason: row.try_get("reason")?,
            })
        })
        .collect()
}

/// The open letters of one key with their events, in order and locked, for whoever takes them in again.
pub async fn lock_letters(
    tx: &Tx,
    group: &str,
    key: PaymentId,
) -> Result<Vec<(Uuid, LoggedEvent)>, StoreError> {
    let rows = tx.query(LOCK_KEY_LETTERS, &[&group, &key.as_uuid()]).await?;
    rows.iter().map(|row| Ok((row.try_get("letter_id")?, LoggedEvent::from_row(row)?))).collect()
}

/// Marks letters as dealt with.
pub async fn resolve_letters(
    tx: &Tx,
    ids: &[Uuid],
    resolution: Resolution<'_>,
    now: Timestamp,
) -> Result<(), StoreError> {
    let (resolution, reason) = match resolution {
        Resolution::Retried => ("retried", None),
        Resolution::Dropped(reason) => ("dropped", Some(reason)),
    };
    tx.execute(RESOLVE_LETTERS, &[&ids, &At(now), &resolution, &reason]).await?;
    Ok(())
}

/// Where to set a group back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplayFrom {
    /// Just after this offset.
    After(Offset),
    /// The first event recorded at or after this instant.
    Time(Timestamp),
    /// The first event of this payment.
    Payment(PaymentId),
}

/// Sets a group back, never forward; its readers lose their leases and begin again from there. Returns the furthest of where
/// they stand now; `None` if there is no such group.
pub async fn replay(db: &Db, group: &str, from: ReplayFrom) -> Result<Option<Offset>, StoreError> {
    let before = |xid: i64| Offset { xid: xid.saturating_sub(1).max(0), seq: i64::MAX };
    let offset = match from {
        ReplayFrom::After(offset) => offset,
        ReplayFrom::Time(instant) => before(first_xid(&db.query(OFFSET_AT_TIME, &[&At(instant)]).await?)?),
        ReplayFrom::Payment(payment) => {
            before(first_xid(&db.query(OFFSET_OF_KEY, &[&payment.as_uuid()]).await?)?)
        }
    };
    let rewound = db.query(REWIND, &[&group, &offset.xid, &offset.seq]).await?;
    let places = rewound.iter().map(offset_of).collect::<Result<Vec<_>, _>>()?;
    Ok(places.into_iter().max())
}

/// Where these topics end now, for who wants only what comes.
pub async fn end(db: &Db, topics: &[&str]) -> Result<Offset, StoreError> {
    db.query(END, &[&topics]).await?.first().map_or(Ok(Offset::START), offset_of)
}

fn first_xid(rows: &[Row]) -> Result<i64, StoreError> {
    rows.first().map_or(Ok(0), |row| Ok(row.try_get("xid")?))
}

/// How many events each group has not read yet, per topic; counted to ten thousand a partition.
pub async fn lag(db: &Db) -> Result<Vec<(String, String, i64)>, StoreError> {
    let rows = db.query(LAG, &[]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get("consumer_group")?, row.try_get("topic")?, row.try_get("behind")?)))
        .collect()
}
