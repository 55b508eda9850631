//! Webhooks as rows: endpoints, and one delivery per event and endpoint until it was heard or given up.
//!
//! A delivery's id is made of its event and its endpoint, so that taking an event in again makes no second one. It is
//! claimed under a lease and recorded under a fence like any other work for the outside; what is different is the choice of
//! what to claim. Each endpoint is looked at on its own and for a few deliveries at a time, so that none waits for another's,
//! and of one payment only the oldest event that is still open may go, so that a receiver never hears the end before the
//! beginning. A claim whose lease runs out is claimed again: the receiver may hear it twice, under the same id.
//!
//! What waits behind another is not due before that one is. A claim reads what is due in order, and what it may not take it would
//! find due again the next time: one endpoint that refuses everything would have every claim look at all that it has not heard.
//! Whoever puts a delivery off takes along what waits behind it, and so does whoever brings it forward; until when something is put
//! off stands with the endpoint, for whoever queues what comes later.
//!
//! An endpoint is a participant's and hears of its payments, or the operator's and hears of reconciliation, which covers every
//! participant. The two have a fan-out each, and all else in common: what is said of a payment here goes for an exception and
//! a run as well.

use crate::db::{Db, StoreError, Tx};
use crate::event_data::EventData;
use crate::event_log::{Held, Offset};
use crate::monitor;
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::{DeliveryId, EventId, ParticipantId, PaymentId, WebhookEndpointId};
use flowbridge_domain::time::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    // The limit holds but for creations at the same instant; it guards against a runaway client, not to the row.
    CREATE = concat!("insert into webhook_endpoint as endpoint (id, participant_id, url, event_kinds, sealed_keys, sealed_with, created_at, updated_at)
        select $1, $2, $3, $4, $5, $6, $7, $7
            where (select count(*) from webhook_endpoint where participant_id = $2 and status <> 'deleted') < $8
        returning ", endpoint_columns!());

    LIST = concat!("select ", endpoint_columns!(), " from webhook_endpoint endpoint
        where participant_id = $1 and status <> 'deleted' and ($2::uuid is null or id > $2) order by id limit $3");

    GET = concat!("select ", endpoint_columns!(), " from webhook_endpoint endpoint
        where participant_id = $1 and id = $2 and status <> 'deleted'");

    // Another address is another receiver.
    MOVE = concat!("update webhook_endpoint set url = $3, ", fresh_start!(), "
        where participant_id = $1 and id = $2 and status <> 'deleted' and url <> $3");

    UPDATE = concat!("update webhook_endpoint endpoint set event_kinds = coalesce($3, event_kinds), updated_at = $4
        where participant_id = $1 and id = $2 and status <> 'deleted' returning ", endpoint_columns!());

    ROTATE = concat!("update webhook_endpoint endpoint
        set previous_hmac_key = hmac_key, previous_seed = ed25519_seed, previous_sealed_keys = sealed_keys,
            previous_sealed_with = sealed_with, previous_until = $5, hmac_key = '', ed25519_seed = '', sealed_keys = $3,
            sealed_with = $4, updated_at = $6
        where participant_id = $1 and id = $2 and status <> 'deleted' returning ", endpoint_columns!());

    // Enabling gives a fresh start: the streaks that led to disabling are forgotten.
    SET_STATUS = concat!("update webhook_endpoint endpoint
        set status = case when $3::text is null then 'active' else 'disabled' end, disabled_reason = $3,
            ", fresh_start!(), ", updated_at = $4
        where participant_id = $1 and id = $2 and status <> 'deleted' returning ", endpoint_columns!());

    // The row stays for its deliveries' sake; what it knew of the partner goes.
    DELETE = "update webhook_endpoint set status = 'deleted', disabled_reason = null, url = '', hmac_key = '', ed25519_seed = '',
            sealed_keys = null, sealed_with = null, previous_hmac_key = null, previous_seed = null, previous_sealed_keys = null,
            previous_sealed_with = null, previous_until = null, updated_at = $3
        where participant_id = $1 and id = $2 and status <> 'deleted'";

    CANCEL_DELETED = "update webhook_delivery set state = 'cancelled', fence = fence + 1, state_since = $1
        where id in (
            select delivery.id from webhook_endpoint endpoint
                join webhook_delivery delivery on delivery.endpoint_id = endpoint.id and delivery.is_open
                where endpoint.status = 'deleted' and endpoint.drained_at is null limit $2)";

    // What was queued or claimed by somebody who had not seen yet that it was deleted shows within a minute.
    MARK_DRAINED = "update webhook_endpoint endpoint set drained_at = $1
        where endpoint.status = 'deleted' and endpoint.drained_at is null and endpoint.updated_at < $2
            and not exists (
                select from webhook_delivery delivery where delivery.endpoint_id = endpoint.id and delivery.is_open)";

    // The offsets of the partitions held go in, those up to which the log was taken in come out.
    FAN_OUT = fan_out_to!("endpoint.participant_id in (slice.debtor_participant, slice.creditor_participant)");

    // A statement of its own: what participants hear of their payments asks for nothing more than it did.
    FAN_OUT_TO_OPERATOR = fan_out_to!("endpoint.participant_id = $7 and slice.topic = 'reconciliation'");

    // What was given up or never queued is queued, and what was put off comes forward; what was delivered, or is due, or on its way, is left
    // alone. What waits behind comes forward with it, also where it is of a later page.
    RECOVER = recover_from!("select * from (
                (select id, xid, seq, kind, key from event
                    where topic = 'payments' and debtor_participant = $1 and (xid, seq) > ($3, $4) order by xid, seq limit $5)
                union
                (select id, xid, seq, kind, key from event
                    where topic = 'payments' and creditor_participant = $1 and (xid, seq) > ($3, $4) order by xid, seq limit $5)
            ) event");

    // Each partition has its own order: a page of each, of which the first are the page of all.
    RECOVER_FOR_OPERATOR = recover_from!("select event.id, event.xid, event.seq, event.kind, event.key
                from installation, generate_series(0, log_partitions - 1) as partition,
                    lateral (
                        select id, xid, seq, kind, key from event
                            where event.topic = 'reconciliation' and event.partition = partition.partition
                                and (event.xid, event.seq) > ($3, $4)
                            order by event.xid, event.seq limit $5
                    ) event");

    // Of all that is due, whatever takes an endpoint's first place goes before what takes anybody's second: an endpoint that has little
    // under way never waits for those that have much, however long their receivers take. The last places are for endpoints that have
    // nothing under way and answer. Chosen first and locked then: of what is not chosen, nothing is kept from others. `offset 0`
    // keeps the question for earlier ones a look-up for each candidate: as a join it compares every open delivery with every other.
    CLAIM = concat!("with ready as (
            select endpoint.id, endpoint.unanswered_streak,
                    coalesce(($6::jsonb ->> endpoint.id::text)::bigint, 0) as in_flight,
                    case when endpoint.unanswered_streak >= $5 then 1 else $4::bigint end as in_flight_max
                from webhook_endpoint endpoint
                where endpoint.status = 'active' and (endpoint.paused_until is null or endpoint.paused_until <= $1)
        ), candidate as (
            select next.id, next.place, ready.unanswered_streak,
                    row_number() over (order by next.place, ready.unanswered_streak, next.next_attempt_at) as turn
                from ready, lateral (
                    select oldest.id, oldest.next_attempt_at,
                            ready.in_flight + row_number() over (order by oldest.next_attempt_at) as place
                        from (
                            select delivery.id, delivery.next_attempt_at from webhook_delivery delivery
                                where delivery.endpoint_id = ready.id and delivery.is_open and delivery.next_attempt_at <= $1
                                    and (delivery.state = 'pending' or delivery.lease_until <= $1)
                                    and not exists (
                                        select from webhook_delivery earlier
                                            where earlier.endpoint_id = delivery.endpoint_id and earlier.subject_id = delivery.subject_id
                                                and earlier.is_open
                                                and (earlier.xid, earlier.seq) < (delivery.xid, delivery.seq)
                                            offset 0)
                                order by delivery.next_attempt_at limit greatest(least(ready.in_flight_max - ready.in_flight, $2), 0)
                        ) oldest
                ) next
        ), chosen as materialized (
            select id from candidate
                where turn <= case when place = 1 and unanswered_streak < $5 then $2 else $7::bigint end
        ), due as (
            select delivery.id from chosen join webhook_delivery delivery on delivery.id = chosen.id
                where delivery.is_open and delivery.next_attempt_at <= $1
                    and (delivery.state = 'pending' or delivery.lease_until <= $1)
                for update of delivery skip locked
        ), claimed as (
            update webhook_delivery delivery
                set state = 'claimed', attempts = attempts + 1, fence = fence + 1, lease_until = $3,
                    state_since = $1
                from due where delivery.id = due.id
                returning delivery.*
        )
        select claimed.id, claimed.endpoint_id, claimed.event_id, claimed.event_kind, claimed.subject_id, claimed.xid,
                claimed.seq, claimed.attempts, claimed.fence, endpoint.url, endpoint.address_version,
                endpoint.failure_streak > 0 as endpoint_fails, ", keys_columns!(), ", endpoint.previous_until > $1 as is_rotated,
                event.topic, event.traceparent, event.schema_version, event.data, event.recorded_at
            from claimed
                join webhook_endpoint endpoint on endpoint.id = claimed.endpoint_id
                left join event on event.id = claimed.event_id");

    // A row whose fence has moved on is somebody else's, or was cancelled: it is left alone.
    RECORD = "update webhook_delivery delivery
        set state = new.state, next_attempt_at = coalesce(new.next_attempt_at, delivery.next_attempt_at), state_since = $6,
            attempt_log = (case when jsonb_array_length(attempt_log) >= $7 then attempt_log - 0 else attempt_log end)
                || new.attempt
        from unnest($1::uuid[], $2::bigint[], $3::text[], $4::timestamptz[], $5::jsonb[])
            as new (id, fence, state, next_attempt_at, attempt)
        where delivery.id = new.id and delivery.fence = new.fence and delivery.state = 'claimed'
        returning delivery.id";

    // What is put off takes along what waits behind it. By the time that it is heard or given up, they are due as well.
    WAIT_IN_LINE = concat!("update webhook_delivery delivery set next_attempt_at = behind.head_due
        from ", behind_heads!(), "
        where delivery.id = behind.id and delivery.state = 'pending' and behind.next_attempt_at < behind.head_due");

    // Whoever queues something for it until then looks for what is ahead.
    PUT_OFF = "update webhook_endpoint endpoint set put_off_until = latest.due
        from (
            select endpoint_id, max(next_attempt_at) as due from webhook_delivery where id = any($1) group by endpoint_id
        ) latest
        where endpoint.id = latest.endpoint_id and (endpoint.put_off_until is null or endpoint.put_off_until < latest.due)";

    LOCK_HEALTH = "select id, participant_id, failure_streak, unanswered_streak, exhausted_streak, failing_since, paused_until,
            asked_until, address_version, disabled_reason
        from webhook_endpoint where id = any($1) and status <> 'deleted' order by id for no key update";

    SAVE_HEALTH = "update webhook_endpoint endpoint
        set failure_streak = new.failure_streak, unanswered_streak = new.unanswered_streak,
            exhausted_streak = new.exhausted_streak, failing_since = new.failing_since, paused_until = new.paused_until,
            asked_until = new.asked_until, disabled_reason = new.disabled_reason,
            status = case when new.disabled_reason is null then 'active' else 'disabled' end, updated_at = $9
        from unnest($1::uuid[], $2::integer[], $3::integer[], $4::integer[], $5::timestamptz[], $6::timestamptz[],
                $7::timestamptz[], $8::text[])
            as new (id, failure_streak, unanswered_streak, exhausted_streak, failing_since, paused_until, asked_until,
                disabled_reason)
        where endpoint.id = new.id";

    // What was given up and what was delivered each have an index, which is walked only as far as a page. What is open is found by an index
    // of what is open, and then sorted (`offset 0`): by the index of all, in the order of their ids, an endpoint of which little is open
    // would be read from end to end.
    DELIVERIES = concat!("select newest.* from (
            (select open.* from (
                select ", delivery_columns!(), " from webhook_delivery delivery
                    where delivery.endpoint_id = $1 and delivery.is_open and delivery.state = any($2)
                    offset 0
                ) open
                where $3::uuid is null or open.id < $3
                order by open.id desc limit $4)
            union all
            (select ", delivery_columns!(), " from webhook_delivery delivery
                where delivery.endpoint_id = $1 and delivery.is_given_up and delivery.state = any($2)
                    and ($3::uuid is null or delivery.id < $3)
                order by delivery.id desc limit $4)
            union all
            (select ", delivery_columns!(), " from webhook_delivery delivery
                where delivery.endpoint_id = $1 and delivery.state = 'delivered' and 'delivered' = any($2)
                    and ($3::uuid is null or delivery.id < $3)
                order by delivery.id desc limit $4)
        ) newest order by newest.id desc limit $4");

    DELIVERY = concat!("select ", delivery_columns!(), " from webhook_delivery delivery where id = $2 and endpoint_id = $1");

    // A delivery's id follows from its event and endpoint, so a payment's are found without an index of their own.
    DELIVERIES_OF_PAYMENT = concat!("select ", delivery_columns!(), "
        from event
            join webhook_endpoint endpoint on endpoint.participant_id in (event.debtor_participant, event.creditor_participant)
            join webhook_delivery delivery on delivery.id = webhook_delivery_id(event.id, endpoint.id)
        where event.key = $1 and event.topic = 'payments' and ($2::uuid is null or endpoint.participant_id = $2)
        order by delivery.xid, delivery.seq, delivery.id limit $3");

    REDELIVER = "update webhook_delivery delivery
        set state = 'pending', attempts = 0, next_attempt_at = $4, fence = fence + 1, state_since = $4
        from webhook_endpoint endpoint
        where endpoint.participant_id = $1 and endpoint.id = $2 and endpoint.status = 'active'
            and delivery.id = $3 and delivery.endpoint_id = $2 and delivery.state <> 'claimed'";

    // What waits behind it comes forward with it, but for what has an attempt of its own to wait for.
    COME_FORWARD = concat!("update webhook_delivery delivery set next_attempt_at = behind.head_due
        from ", behind_heads!(), "
        where delivery.id = behind.id and delivery.state = 'pending' and behind.next_attempt_at > behind.head_due
            and delivery.attempts = 0");

    // Ids of one instant come in no order, and transactions are not numbered quite in the order of their clocks.
    FIRST_SINCE = "select min(xid) as xid from (
            select xid from event where id >= uuid_floor($1) order by id limit 1000) earliest";

    TO_SEAL = concat!("select endpoint.id, ", keys_columns!(), " from webhook_endpoint endpoint
        where status <> 'deleted'
            and (hmac_key <> '' or sealed_with <> $1 or previous_hmac_key <> '' or previous_sealed_with <> $1)
        order by id limit $2 for update");

    SEAL = "update webhook_endpoint endpoint
        set hmac_key = '', ed25519_seed = '', sealed_keys = new.keys, sealed_with = new.keys_with,
            previous_hmac_key = null, previous_seed = null, previous_sealed_keys = new.previous,
            previous_sealed_with = new.previous_with
        from unnest($1::uuid[], $2::bytea[], $3::text[], $4::bytea[], $5::text[])
            as new (id, keys, keys_with, previous, previous_with)
        where endpoint.id = new.id";

    DROP_OLD_DELIVERIES = "select drop_daily_partitions('webhook_delivery', ($1::timestamptz at time zone 'UTC')::date) as dropped";

    DELETE_OLD_DELIVERIES = "delete from webhook_delivery_other_days where ctid = any(array(
            select ctid from webhook_delivery_other_days where id < uuid_floor($1) order by id limit $2))";

    DEPTH = "select state, count(*) as deliveries from (
            select state from webhook_delivery where is_open limit $1
        ) open group by state";

    OLDEST_PENDING = "select min(oldest.created_at) as created_at from webhook_endpoint endpoint, lateral (
            select delivery.created_at from webhook_delivery delivery
                where delivery.endpoint_id = endpoint.id and delivery.is_open and delivery.state = 'pending'
                    and delivery.next_attempt_at is not null
                order by delivery.next_attempt_at limit 1
        ) oldest where endpoint.status = 'active'";

    UNHEALTHY = "select count(*) filter (where status = 'active' and failure_streak > 0) as failing,
            count(*) filter (where status = 'disabled') as disabled
        from webhook_endpoint";
}

/// What waits behind deliveries of the same payment to the same endpoint; what is under way has left the line. `offset 0` keeps it a
/// look-up for each of them: by when it is due, all that waits for anybody would be read.
macro_rules! behind_heads {
    () => {
        "(
            select behind.id, behind.next_attempt_at, head.next_attempt_at as head_due
                from webhook_delivery head cross join lateral (
                    select later.id, later.next_attempt_at from webhook_delivery later
                        where later.endpoint_id = head.endpoint_id and later.subject_id = head.subject_id and later.is_open
                            and later.state = 'pending' and (later.xid, later.seq) > (head.xid, head.seq)
                        offset 0) behind
                where head.id = any($1)) behind"
    };
}
use behind_heads;

/// When an event is due that queues up behind earlier ones of its payment: with the first of them, or now. That one is locked, so that
/// whoever brings it forward finds this one behind it; where somebody else has it, nobody waits.
macro_rules! due_in_line {
    () => {
        "greatest($6, (
                            select head.next_attempt_at from webhook_delivery head
                                where head.id = (
                                        select first.id from webhook_delivery first
                                            where first.endpoint_id = endpoint.id and first.subject_id = slice.key
                                                and first.is_open and (first.xid, first.seq) < (slice.xid, slice.seq)
                                            order by first.xid, first.seq limit 1)
                                    and head.is_open
                                for share skip locked))"
    };
}
use due_in_line;

/// Where nothing is put off any more, nobody looks for it. That the last attempt has succeeded does not say so: there may be payments of
/// which the receiver takes nothing.
macro_rules! fan_out_to {
    ($listener:literal) => {
        concat!(
            "with slice as materialized (
            select event.* from unnest($1::text[], $2::smallint[], $3::bigint[], $4::bigint[]) as held (topic, partition, xid, seq),
                lateral (
                    select event.id, event.topic, event.partition, event.xid, event.seq, event.kind, event.key,
                            event.debtor_participant, event.creditor_participant
                        from event
                        where event.topic = held.topic and event.partition = held.partition
                            and (event.xid, event.seq) > (held.xid, held.seq)
                            and event.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                        order by event.xid, event.seq limit $5
                ) event
        ), made as (
            insert into webhook_delivery
                    (id, endpoint_id, event_id, event_kind, subject_id, xid, seq, next_attempt_at, created_at, state_since)
                select webhook_delivery_id(slice.id, endpoint.id), endpoint.id, slice.id, slice.kind, slice.key, slice.xid,
                        slice.seq,
                        case when endpoint.put_off_until > $6 then ",
            due_in_line!(),
            " else $6 end, $6, $6
                    from slice join webhook_endpoint endpoint
                        on ",
            $listener,
            "
                    where endpoint.status = 'active'
                        and (endpoint.event_kinds = '{}' or slice.kind = any(endpoint.event_kinds))
                on conflict (id) do nothing
                returning id
        )
        select distinct on (topic, partition) topic, partition, xid, seq, (select count(*) from made) as made
            from slice order by topic, partition, xid desc, seq desc"
        )
    };
}
use fan_out_to;

/// Forgets how an endpoint fared. What was under way before says nothing about it any more.
macro_rules! fresh_start {
    () => {
        "failure_streak = 0, unanswered_streak = 0, exhausted_streak = 0, failing_since = null, paused_until = null, \
         asked_until = null, address_version = address_version + 1"
    };
}
use fresh_start;

macro_rules! recover_from {
    ($events:literal) => {
        concat!(
            "with slice as materialized (
            ",
            $events,
            " order by xid, seq limit $5
        ), queued as (
            insert into webhook_delivery
                    (id, endpoint_id, event_id, event_kind, subject_id, xid, seq, next_attempt_at, created_at, state_since)
                select webhook_delivery_id(slice.id, endpoint.id), endpoint.id, slice.id, slice.kind, slice.key, slice.xid,
                        slice.seq, ",
            due_in_line!(),
            ", $6, $6
                    from slice join webhook_endpoint endpoint on endpoint.id = $2
                    where endpoint.participant_id = $1 and endpoint.status = 'active'
                        and (endpoint.event_kinds = '{}' or slice.kind = any(endpoint.event_kinds))
                on conflict (id) do update
                    set state = 'pending', attempts = 0, next_attempt_at = excluded.next_attempt_at,
                        fence = webhook_delivery.fence + 1, state_since = excluded.state_since
                    where webhook_delivery.is_given_up
                        or (webhook_delivery.state = 'pending' and webhook_delivery.next_attempt_at > excluded.next_attempt_at)
                returning id, next_attempt_at
        )
        select xid, seq, (select count(*) from queued) as queued, (select count(*) from slice) as events,
                (select array_agg(id) from queued where next_attempt_at <= $6) as due
            from slice order by xid desc, seq desc limit 1"
        )
    };
}
use recover_from;

macro_rules! endpoint_columns {
    () => {
        "endpoint.id, endpoint.participant_id, endpoint.url, endpoint.event_kinds, endpoint.disabled_reason, \
         endpoint.failure_streak, endpoint.failing_since, endpoint.paused_until, endpoint.previous_until, \
         endpoint.created_at, endpoint.updated_at"
    };
}
use endpoint_columns;

macro_rules! keys_columns {
    () => {
        "endpoint.hmac_key, endpoint.ed25519_seed, endpoint.sealed_keys, endpoint.sealed_with, endpoint.previous_hmac_key, \
         endpoint.previous_seed, endpoint.previous_sealed_keys, endpoint.previous_sealed_with"
    };
}
use keys_columns;

macro_rules! delivery_columns {
    () => {
        "delivery.id, delivery.endpoint_id, delivery.event_id, delivery.event_kind, delivery.subject_id, delivery.state, \
         delivery.attempts, delivery.next_attempt_at, delivery.attempt_log, delivery.created_at, delivery.state_since"
    };
}
use delivery_columns;

/// Attempts kept in the log of one delivery; older ones make room.
pub const ATTEMPTS_KEPT_MAX: i32 = 20;

// ---------------------------------------------------------------------------------------------------------------------
// Endpoints

/// What the deliveries to an endpoint are signed with, sealed. What opens it is not in the database.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedKeys {
    /// Which key opens it.
    pub key_id: String,
    /// What is sealed.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for SealedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealedKeys({})", self.key_id)
    }
}

/// What the deliveries to an endpoint are signed with. Never shown after its making, never logged.
#[derive(Clone, PartialEq, Eq)]
pub enum StoredKeys {
    /// As they are kept.
    Sealed(SealedKeys),
    /// As they were kept before they were sealed.
    Plain {
        /// The HMAC-SHA256 key of the `v1` signature.
        hmac_key: Vec<u8>,
        /// The Ed25519 seed of the `v1a` signature.
        ed25519_seed: Vec<u8>,
    },
}

impl fmt::Debug for StoredKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredKeys(…)")
    }
}

impl StoredKeys {
    /// Plain keys count before sealed ones: a process of an earlier version may have written them just now.
    fn from_row(row: &Row, [hmac, seed, sealed, with]: [&str; 4]) -> Result<Option<Self>, StoreError> {
        let hmac_key = row.try_get::<_, Option<Vec<u8>>>(hmac)?.unwrap_or_default();
        if !hmac_key.is_empty() {
            let ed25519_seed = row.try_get::<_, Option<Vec<u8>>>(seed)?.unwrap_or_default();
            return Ok(Some(Self::Plain { hmac_key, ed25519_seed }));
        }
        Ok(match (row.try_get(sealed)?, row.try_get(with)?) {
            (Some(bytes), Some(key_id)) => Some(Self::Sealed(SealedKeys { key_id, bytes })),
            (None, _) | (_, None) => None,
        })
    }

    fn of_today(row: &Row) -> Result<Self, StoreError> {
        let keys = Self::from_row(row, ["hmac_key", "ed25519_seed", "sealed_keys", "sealed_with"])?;
        // A deleted endpoint has none; whoever claims finds that its signature fails.
        Ok(keys.unwrap_or(Self::Plain { hmac_key: Vec::new(), ed25519_seed: Vec::new() }))
    }

    fn of_yesterday(row: &Row) -> Result<Option<Self>, StoreError> {
        let names = ["previous_hmac_key", "previous_seed", "previous_sealed_keys", "previous_sealed_with"];
        Self::from_row(row, names)
    }
}

/// An endpoint whose keys are to be sealed, or sealed anew.
#[derive(Debug, Clone)]
pub struct ToSeal {
    /// The endpoint.
    pub id: WebhookEndpointId,
    /// Its keys.
    pub keys: StoredKeys,
    /// Those from before the last rotation, if they are kept.
    pub previous: Option<StoredKeys>,
}

/// Endpoints whose keys are not sealed with `key_id`, locked until the transaction ends.
pub async fn to_seal(tx: &Tx, key_id: &str, limit: i64) -> Result<Vec<ToSeal>, StoreError> {
    let rows = tx.query(TO_SEAL, &[&key_id, &limit]).await?;
    rows.iter()
        .map(|row| {
            Ok(ToSeal {
                id: WebhookEndpointId::from_uuid(row.try_get("id")?),
                keys: StoredKeys::of_today(row)?,
                previous: StoredKeys::of_yesterday(row)?,
            })
        })
        .collect()
}

/// The keys of an endpoint, sealed anew.
#[derive(Debug, Clone)]
pub struct SealedAnew {
    /// The endpoint.
    pub id: WebhookEndpointId,
    /// Its keys.
    pub keys: SealedKeys,
    /// Those from before the last rotation, if they are kept.
    pub previous: Option<SealedKeys>,
}

/// Keeps the keys of endpoints as they were sealed, and in no other form. Each has the key beside it that it was sealed with: a newer
/// one may have come while they were.
pub async fn seal(tx: &Tx, sealed: &[SealedAnew]) -> Result<(), StoreError> {
    let (ids, keys, keys_with, previous, previous_with) = columns!(
        sealed,
        |sealed| sealed.id.as_uuid(),
        sealed.keys.bytes.as_slice(),
        sealed.keys.key_id.as_str(),
        sealed.previous.as_ref().map(|keys| keys.bytes.as_slice()),
        sealed.previous.as_ref().map(|keys| keys.key_id.as_str()),
    );
    tx.execute(SEAL, &[&ids, &keys, &keys_with, &previous, &previous_with]).await?;
    Ok(())
}

/// Forgets the deliveries of events before an instant, days at a time. Returns how many days went.
pub async fn forget_deliveries(db: &Db, before: Timestamp) -> Result<i32, StoreError> {
    monitor::forget(db, DELETE_OLD_DELIVERIES, before).await?;
    match db.query(DROP_OLD_DELIVERIES, &[&At(before)]).await?.first() {
        Some(row) => Ok(row.try_get("dropped")?),
        None => Ok(0),
    }
}

/// Whose an endpoint is, and with that what it hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointOwner {
    /// A participant's: of its payments.
    Participant(ParticipantId),
    /// The operator's: of reconciliation.
    Operator,
}

impl EndpointOwner {
    /// The id that stands for it where participants do. The operator's is one that no participant has.
    pub const fn id(self) -> ParticipantId {
        match self {
            Self::Participant(id) => id,
            Self::Operator => ParticipantId::from_uuid(Uuid::nil()),
        }
    }

    const fn as_uuid(self) -> Uuid {
        self.id().as_uuid()
    }

    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let id: Uuid = row.try_get("participant_id")?;
        Ok(if id.is_nil() { Self::Operator } else { Self::Participant(ParticipantId::from_uuid(id)) })
    }
}

/// An endpoint to create. Its URL has been checked.
#[derive(Debug, Clone)]
pub struct NewEndpoint {
    /// Its id.
    pub id: WebhookEndpointId,
    /// Whose it is.
    pub owner: EndpointOwner,
    /// Where to post to.
    pub url: String,
    /// The kinds of events wanted; empty for all.
    pub event_kinds: Vec<String>,
    /// What to sign with.
    pub keys: SealedKeys,
}

/// An endpoint as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: WebhookEndpointId,
    /// Whose it is.
    pub owner: EndpointOwner,
    /// Where we post to.
    pub url: String,
    /// The kinds of events wanted; empty for all.
    pub event_kinds: Vec<String>,
    /// Why nothing is sent to it; none while it is active.
    pub disabled_reason: Option<String>,
    /// Attempts since the last that succeeded.
    pub failure_streak: i32,
    /// When the first of them failed.
    pub failing_since: Option<Timestamp>,
    /// Nothing is sent before this instant.
    pub paused_until: Option<Timestamp>,
    /// Until when deliveries are signed with the keys before the last rotation too.
    pub previous_keys_until: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When anything about it last changed.
    pub updated_at: Timestamp,
}

impl Endpoint {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: WebhookEndpointId::from_uuid(row.try_get("id")?),
            owner: EndpointOwner::from_row(row)?,
            url: row.try_get("url")?,
            event_kinds: row.try_get("event_kinds")?,
            disabled_reason: row.try_get("disabled_reason")?,
            failure_streak: row.try_get("failure_streak")?,
            failing_since: instant(row, "failing_since")?,
            paused_until: instant(row, "paused_until")?,
            previous_keys_until: instant(row, "previous_until")?,
            created_at: row.try_get::<_, At>("created_at")?.0,
            updated_at: row.try_get::<_, At>("updated_at")?.0,
        })
    }
}

fn instant(row: &Row, column: &str) -> Result<Option<Timestamp>, StoreError> {
    Ok(row.try_get::<_, Option<At>>(column)?.map(|at| at.0))
}

fn one_endpoint(rows: &[Row]) -> Result<Option<Endpoint>, StoreError> {
    rows.first().map(Endpoint::from_row).transpose()
}

/// Creates an endpoint. `None` when its owner has `endpoints_max` already.
pub async fn create(
    tx: &Tx,
    new: &NewEndpoint,
    endpoints_max: i64,
    now: Timestamp,
) -> Result<Option<Endpoint>, StoreError> {
    let rows = tx
        .query(
            CREATE,
            &[
                &new.id.as_uuid(),
                &new.owner.as_uuid(),
                &new.url,
                &new.event_kinds,
                &new.keys.bytes,
                &new.keys.key_id,
                &At(now),
                &endpoints_max,
            ],
        )
        .await?;
    one_endpoint(&rows)
}

/// An owner's endpoints after `after`, oldest first.
pub async fn list(
    db: &Db,
    owner: EndpointOwner,
    after: Option<WebhookEndpointId>,
    limit: i64,
) -> Result<Vec<Endpoint>, StoreError> {
    let after = after.map(|id| id.as_uuid());
    db.query(LIST, &[&owner.as_uuid(), &after, &limit]).await?.iter().map(Endpoint::from_row).collect()
}

/// One endpoint of an owner.
pub async fn get(
    db: &Db,
    owner: EndpointOwner,
    id: WebhookEndpointId,
) -> Result<Option<Endpoint>, StoreError> {
    one_endpoint(&db.query(GET, &[&owner.as_uuid(), &id.as_uuid()]).await?)
}

/// Changes where an endpoint is and what it hears; what is `None` stays. At another address it has a fresh start.
pub async fn update(
    tx: &Tx,
    owner: EndpointOwner,
    id: WebhookEndpointId,
    url: Option<&str>,
    event_kinds: Option<&[String]>,
    now: Timestamp,
) -> Result<Option<Endpoint>, StoreError> {
    if let Some(url) = url {
        tx.execute(MOVE, &[&owner.as_uuid(), &id.as_uuid(), &url]).await?;
    }
    let rows = tx.query(UPDATE, &[&owner.as_uuid(), &id.as_uuid(), &event_kinds, &At(now)]).await?;
    one_endpoint(&rows)
}

/// Gives an endpoint new keys; deliveries are signed with the old ones too until `previous_until`.
pub async fn rotate_keys(
    tx: &Tx,
    owner: EndpointOwner,
    id: WebhookEndpointId,
    keys: &SealedKeys,
    previous_until: Timestamp,
    now: Timestamp,
) -> Result<Option<Endpoint>, StoreError> {
    let rows = tx
        .query(
            ROTATE,
            &[&owner.as_uuid(), &id.as_uuid(), &keys.bytes, &keys.key_id, &At(previous_until), &At(now)],
        )
        .await?;
    one_endpoint(&rows)
}

/// Disables an endpoint for a reason, or enables it (`None`). What is pending waits meanwhile; what happens meanwhile is not
/// queued, and can be asked for by [`recover`].
pub async fn set_disabled(
    tx: &Tx,
    owner: EndpointOwner,
    id: WebhookEndpointId,
    reason: Option<&str>,
    now: Timestamp,
) -> Result<Option<Endpoint>, StoreError> {
    one_endpoint(&tx.query(SET_STATUS, &[&owner.as_uuid(), &id.as_uuid(), &reason, &At(now)]).await?)
}

/// Deletes an endpoint with its keys. Deliveries under way are the last; [`cancel_deleted`] drops the rest. Says whether it
/// was there.
pub async fn delete(
    tx: &Tx,
    owner: EndpointOwner,
    id: WebhookEndpointId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    Ok(tx.execute(DELETE, &[&owner.as_uuid(), &id.as_uuid(), &At(now)]).await? == 1)
}

/// How long after its deletion something may still come up for an endpoint.
const DRAINED_AFTER: Duration = Duration::from_secs(60);

/// Drops up to `limit` open deliveries to endpoints that are deleted. Returns how many. Those for which there is none are not looked at
/// again.
pub async fn cancel_deleted(db: &Db, limit: i64, now: Timestamp) -> Result<u64, StoreError> {
    let tx = db.begin().await?;
    let cancelled = tx.execute(CANCEL_DELETED, &[&At(now), &limit]).await?;
    if cancelled == 0 {
        tx.execute(MARK_DRAINED, &[&At(now), &At(now.minus(DRAINED_AFTER))]).await?;
    }
    tx.commit().await?;
    Ok(cancelled)
}

// ---------------------------------------------------------------------------------------------------------------------
// Fan-out and claims

/// What a turn of the fan-out did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FannedOut {
    /// The partitions in which there was something, each with the offset up to which it has been taken in.
    pub moved: Vec<(Held, Offset)>,
    /// Deliveries made.
    pub deliveries: i64,
}

/// Takes in up to `slice_max` events of each partition held, in the caller's transaction, and makes a delivery of each to
/// every active endpoint of the institutions that may see it. The caller moves the offsets in the same transaction.
pub async fn fan_out(
    tx: &Tx,
    held: &[Held],
    slice_max: i64,
    now: Timestamp,
) -> Result<FannedOut, StoreError> {
    let (topics, partitions, xids, seqs) =
        columns!(held, |held| held.topic.as_str(), held.partition, held.offset.xid, held.offset.seq);
    let rows = tx.query(FAN_OUT, &[&topics, &partitions, &xids, &seqs, &slice_max, &At(now)]).await?;
    fanned_out(held, &rows)
}

/// The same for the operator: a delivery of each event of reconciliation to every active endpoint of its own.
pub async fn fan_out_to_operator(
    tx: &Tx,
    held: &[Held],
    slice_max: i64,
    now: Timestamp,
) -> Result<FannedOut, StoreError> {
    let (topics, partitions, xids, seqs) =
        columns!(held, |held| held.topic.as_str(), held.partition, held.offset.xid, held.offset.seq);
    let operator = EndpointOwner::Operator.as_uuid();
    let rows = tx
        .query(FAN_OUT_TO_OPERATOR, &[&topics, &partitions, &xids, &seqs, &slice_max, &At(now), &operator])
        .await?;
    fanned_out(held, &rows)
}

fn fanned_out(held: &[Held], rows: &[Row]) -> Result<FannedOut, StoreError> {
    let mut done = FannedOut::default();
    for row in rows {
        let topic: &str = row.try_get("topic")?;
        let partition: i16 = row.try_get("partition")?;
        let offset = Offset { xid: row.try_get("xid")?, seq: row.try_get("seq")? };
        done.deliveries = row.try_get("made")?;
        let place = held.iter().find(|held| held.topic == topic && held.partition == partition);
        done.moved.extend(place.map(|held| (held.clone(), offset)));
    }
    Ok(done)
}

/// What to claim.
#[derive(Debug)]
pub struct ClaimRequest<'a> {
    /// Deliveries at most, over all endpoints.
    pub slice_max: i64,
    /// Of these, so many only to endpoints that have nothing under way, and that answer.
    pub reserved: i64,
    /// Deliveries to one endpoint at the same time.
    pub in_flight_per_endpoint_max: i64,
    /// After this many attempts in a row without an answer, an endpoint gets one at a time.
    pub unanswered_until_one_at_a_time: i32,
    /// Deliveries that this worker has under way already, per endpoint.
    pub in_flight: &'a BTreeMap<WebhookEndpointId, i64>,
    /// How long the claims last.
    pub lease: Duration,
}

/// A claimed delivery with all that sending it takes.
#[derive(Debug, Clone)]
pub struct ClaimedDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// Where it goes.
    pub endpoint: WebhookEndpointId,
    /// The endpoint's address.
    pub url: String,
    /// Which of its addresses that is, in the order that it had them, and had them again.
    pub address_version: i32,
    /// Did the endpoint's last attempt fail?
    pub endpoint_fails: bool,
    /// What to sign with.
    pub keys: StoredKeys,
    /// What to sign with too, while a rotation lasts.
    pub previous_keys: Option<StoredKeys>,
    /// How often it has been tried, this time included.
    pub attempts: i32,
    /// Proves, when recording, that the claim is still ours.
    pub fence: i64,
    /// The event's id: the receiver's means to tell a repeat.
    pub event_id: EventId,
    /// Such as `payment.settled`.
    pub event_kind: String,
    /// The payment, or another thing that the event is about.
    pub subject: PaymentId,
    /// Where the event is in the log.
    pub offset: Offset,
    /// The event, unless it has left the log.
    pub event: Option<DeliveredEvent>,
}

/// What an event says, for its delivery.
#[derive(Debug, Clone)]
pub struct DeliveredEvent {
    /// The topic it is in.
    pub topic: String,
    /// The trace that it continues.
    pub traceparent: String,
    /// The version of `data`.
    pub schema_version: i16,
    /// What it says.
    pub data: EventData,
    /// When it was written.
    pub recorded_at: Timestamp,
}

/// Claims what is due: per endpoint the oldest, of each payment only the next, and first of all to endpoints that have the least under
/// way.
pub async fn claim(
    db: &Db,
    request: &ClaimRequest<'_>,
    now: Timestamp,
) -> Result<Vec<ClaimedDelivery>, StoreError> {
    let busy = request.in_flight.iter();
    let busy: Map<String, Value> =
        busy.map(|(endpoint, deliveries)| (endpoint.as_uuid().to_string(), json!(deliveries))).collect();
    let rows = db
        .query(
            CLAIM,
            &[
                &At(now),
                &request.slice_max,
                &At(now.plus(request.lease)),
                &request.in_flight_per_endpoint_max,
                &request.unanswered_until_one_at_a_time,
                &Value::Object(busy),
                &request.slice_max.saturating_sub(request.reserved).max(0),
            ],
        )
        .await?;
    rows.iter().map(ClaimedDelivery::from_row).collect()
}

impl ClaimedDelivery {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let event = match row.try_get::<_, Option<String>>("topic")? {
            None => None,
            Some(topic) => Some(DeliveredEvent {
                topic,
                traceparent: row.try_get("traceparent")?,
                schema_version: row.try_get("schema_version")?,
                data: row.try_get("data")?,
                recorded_at: row.try_get::<_, At>("recorded_at")?.0,
            }),
        };
        let is_rotated = row.try_get::<_, Option<bool>>("is_rotated")?.unwrap_or(false);
        let previous_keys = if is_rotated { StoredKeys::of_yesterday(row)? } else { None };
        Ok(Self {
            id: DeliveryId::from_uuid(row.try_get("id")?),
            endpoint: WebhookEndpointId::from_uuid(row.try_get("endpoint_id")?),
            url: row.try_get("url")?,
            address_version: row.try_get("address_version")?,
            endpoint_fails: row.try_get("endpoint_fails")?,
            keys: StoredKeys::of_today(row)?,
            previous_keys,
            attempts: row.try_get("attempts")?,
            fence: row.try_get("fence")?,
            event_id: EventId::from_uuid(row.try_get("event_id")?),
            event_kind: row.try_get("event_kind")?,
            subject: PaymentId::from_uuid(row.try_get("subject_id")?),
            offset: Offset { xid: row.try_get("xid")?, seq: row.try_get("seq")? },
            event,
        })
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Results

/// One attempt to deliver, as the log of a delivery keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// The status that the receiver answered with, if it did.
    pub status: Option<u16>,
    /// Why it failed, in a word or two: `timeout`, `refused by the receiver`.
    pub error: Option<String>,
    /// How long it took.
    pub latency_ms: i64,
}

impl Attempt {
    fn to_json(&self) -> Value {
        json!({ "at": self.at.as_micros(), "status": self.status, "error": self.error, "latency_ms": self.latency_ms })
    }

    fn from_json(value: &Value) -> Option<Self> {
        Some(Self {
            at: Timestamp::from_micros(value.get("at")?.as_i64()?),
            status: value.get("status")?.as_u64().and_then(|status| u16::try_from(status).ok()),
            error: value.get("error")?.as_str().map(ToOwned::to_owned),
            latency_ms: value.get("latency_ms")?.as_i64()?,
        })
    }
}

/// Where a delivery goes after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryNext {
    /// The receiver has it.
    Delivered,
    /// Try again at this instant.
    Again(Timestamp),
    /// The schedule is used up.
    Exhausted,
}

/// What came of an attempt.
#[derive(Debug, Clone)]
pub struct DeliveryResult {
    /// The delivery.
    pub id: DeliveryId,
    /// The fence it was claimed with.
    pub fence: i64,
    /// The attempt.
    pub attempt: Attempt,
    /// Where the delivery goes.
    pub next: DeliveryNext,
}

/// Records a slice of results; what waits behind those that failed waits on with them. Returns those that were still ours; the others
/// were claimed again or cancelled meanwhile.
pub async fn record(
    tx: &Tx,
    results: &[DeliveryResult],
    now: Timestamp,
) -> Result<HashSet<DeliveryId>, StoreError> {
    let (ids, fences, states, due, attempts) = columns!(
        results,
        |result| result.id.as_uuid(),
        result.fence,
        match result.next {
            DeliveryNext::Delivered => "delivered",
            DeliveryNext::Again(_) => "pending",
            DeliveryNext::Exhausted => "exhausted",
        },
        match result.next {
            DeliveryNext::Again(at) => Some(At(at)),
            DeliveryNext::Delivered | DeliveryNext::Exhausted => None,
        },
        result.attempt.to_json()
    );
    let rows =
        tx.query(RECORD, &[&ids, &fences, &states, &due, &attempts, &At(now), &ATTEMPTS_KEPT_MAX]).await?;
    let ours: HashSet<DeliveryId> = rows
        .iter()
        .map(|row| Ok(DeliveryId::from_uuid(row.try_get(0)?)))
        .collect::<Result<_, StoreError>>()?;
    let put_off: Vec<Uuid> = results
        .iter()
        .filter(|result| matches!(result.next, DeliveryNext::Again(_)) && ours.contains(&result.id))
        .map(|result| result.id.as_uuid())
        .collect();
    if !put_off.is_empty() {
        tx.execute(WAIT_IN_LINE, &[&put_off]).await?;
        tx.execute(PUT_OFF, &[&put_off]).await?;
    }
    Ok(ours)
}

/// How an endpoint fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointHealth {
    /// The endpoint.
    pub id: WebhookEndpointId,
    /// Whose it is.
    pub owner: EndpointOwner,
    /// Attempts since the last that succeeded.
    pub failure_streak: i32,
    /// Attempts since the last that was answered.
    pub unanswered_streak: i32,
    /// Deliveries given up since the last that succeeded.
    pub exhausted_streak: i32,
    /// When the first of them failed.
    pub failing_since: Option<Timestamp>,
    /// Nothing is sent before this instant.
    pub paused_until: Option<Timestamp>,
    /// As far as the receiver itself has asked for it.
    pub asked_until: Option<Timestamp>,
    /// What was claimed with another one was sent to an address before, or before it was disabled or enabled.
    pub address_version: i32,
    /// Why it is disabled; set to disable it.
    pub disabled_reason: Option<String>,
}

/// Reads and locks the health of those of these endpoints that are not deleted.
pub async fn lock_health(tx: &Tx, ids: &[WebhookEndpointId]) -> Result<Vec<EndpointHealth>, StoreError> {
    let ids: Vec<Uuid> = ids.iter().map(WebhookEndpointId::as_uuid).collect();
    let rows = tx.query(LOCK_HEALTH, &[&ids]).await?;
    rows.iter()
        .map(|row| {
            Ok(EndpointHealth {
                id: WebhookEndpointId::from_uuid(row.try_get("id")?),
                owner: EndpointOwner::from_row(row)?,
                failure_streak: row.try_get("failure_streak")?,
                unanswered_streak: row.try_get("unanswered_streak")?,
                exhausted_streak: row.try_get("exhausted_streak")?,
                failing_since: instant(row, "failing_since")?,
                paused_until: instant(row, "paused_until")?,
                asked_until: instant(row, "asked_until")?,
                address_version: row.try_get("address_version")?,
                disabled_reason: row.try_get("disabled_reason")?,
            })
        })
        .collect()
}

/// Writes the health of endpoints that [`lock_health`] has locked; disables those that have a reason.
pub async fn save_health(tx: &Tx, health: &[EndpointHealth], now: Timestamp) -> Result<(), StoreError> {
    let (ids, failures, unanswered, exhausted, since, paused, asked, reasons) = columns!(
        health,
        |health| health.id.as_uuid(),
        health.failure_streak,
        health.unanswered_streak,
        health.exhausted_streak,
        health.failing_since.map(At),
        health.paused_until.map(At),
        health.asked_until.map(At),
        health.disabled_reason.as_deref()
    );
    tx.execute(
        SAVE_HEALTH,
        &[&ids, &failures, &unanswered, &exhausted, &since, &paused, &asked, &reasons, &At(now)],
    )
    .await?;
    Ok(())
}

// ---------------------------------------------------------------------------------------------------------------------
// What owners see and ask for

/// Where a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryState {
    /// Waits for its first or next attempt.
    Pending,
    /// Is being sent.
    Claimed,
    /// The receiver has it.
    Delivered,
    /// Given up when its schedule was used up.
    Exhausted,
    /// Its endpoint was deleted first.
    Cancelled,
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Claimed, Self::Delivered, Self::Exhausted, Self::Cancelled];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Claimed => "claimed",
            Self::Delivered => "delivered",
            Self::Exhausted => "exhausted",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads its name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }
}

/// A delivery as the owner of its endpoint sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// Where it goes.
    pub endpoint: WebhookEndpointId,
    /// The event.
    pub event_id: EventId,
    /// Such as `payment.settled`.
    pub event_kind: String,
    /// The payment, or another thing that the event is about.
    pub subject: PaymentId,
    /// Where it is.
    pub state: DeliveryState,
    /// How often it was tried since it was last asked for.
    pub attempts: i32,
    /// When it is tried next, while it is pending.
    pub next_attempt_at: Option<Timestamp>,
    /// The latest attempts, oldest first.
    pub attempt_log: Vec<Attempt>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Since when it is in its state.
    pub state_since: Timestamp,
}

impl Delivery {
    fn from_row(row: &Row) -> Result<Self, StoreError> {
        let id = DeliveryId::from_uuid(row.try_get("id")?);
        let corrupt = |column: &str| StoreError::Corrupt(format!("{column} of delivery {id}"));
        let state = DeliveryState::parse(row.try_get("state")?).ok_or_else(|| corrupt("state"))?;
        let due = row.try_get::<_, At>("next_attempt_at")?.0;
        let log: Value = row.try_get("attempt_log")?;
        let attempt_log = log
            .as_array()
            .and_then(|attempts| attempts.iter().map(Attempt::from_json).collect())
            .ok_or_else(|| corrupt("attempt_log"))?;
        Ok(Self {
            id,
            endpoint: WebhookEndpointId::from_uuid(row.try_get("endpoint_id")?),
            event_id: EventId::from_uuid(row.try_get("event_id")?),
            event_kind: row.try_get("event_kind")?,
            subject: PaymentId::from_uuid(row.try_get("subject_id")?),
            state,
            attempts: row.try_get("attempts")?,
            next_attempt_at: (state == DeliveryState::Pending).then_some(due),
            attempt_log,
            created_at: row.try_get::<_, At>("created_at")?.0,
            state_since: row.try_get::<_, At>("state_since")?.0,
        })
    }
}

fn deliveries_from(rows: &[Row]) -> Result<Vec<Delivery>, StoreError> {
    rows.iter().map(Delivery::from_row).collect()
}

/// Deliveries to an endpoint in these states, newest event first, older than `before`. The caller has seen to it that the
/// endpoint is the asker's ([`get`]).
pub async fn deliveries(
    db: &Db,
    endpoint: WebhookEndpointId,
    states: &[DeliveryState],
    before: Option<DeliveryId>,
    limit: i64,
) -> Result<Vec<Delivery>, StoreError> {
    let states: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
    let before = before.map(|id| id.as_uuid());
    deliveries_from(&db.query(DELIVERIES, &[&endpoint.as_uuid(), &states, &before, &limit]).await?)
}

/// One delivery to an endpoint; the same holds as for [`deliveries`].
pub async fn delivery(
    db: &Db,
    endpoint: WebhookEndpointId,
    id: DeliveryId,
) -> Result<Option<Delivery>, StoreError> {
    let rows = db.query(DELIVERY, &[&endpoint.as_uuid(), &id.as_uuid()]).await?;
    rows.first().map(Delivery::from_row).transpose()
}

/// The deliveries that a payment brought, in order: to one participant's endpoints, or to all.
pub async fn deliveries_of_payment(
    db: &Db,
    payment: PaymentId,
    participant: Option<ParticipantId>,
    limit: i64,
) -> Result<Vec<Delivery>, StoreError> {
    let participant = participant.map(|id| id.as_uuid());
    deliveries_from(&db.query(DELIVERIES_OF_PAYMENT, &[&payment.as_uuid(), &participant, &limit]).await?)
}

/// Sends a delivery again, whatever became of it, with its schedule from the start, and then what waits behind it. `false` when there
/// is none that can be: the endpoint is not active, or it is being sent at this moment.
pub async fn redeliver(
    tx: &Tx,
    owner: EndpointOwner,
    endpoint: WebhookEndpointId,
    id: DeliveryId,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let changed =
        tx.execute(REDELIVER, &[&owner.as_uuid(), &endpoint.as_uuid(), &id.as_uuid(), &At(now)]).await?;
    if changed == 1 {
        tx.execute(COME_FORWARD, &[&[id.as_uuid()].as_slice()]).await?;
    }
    Ok(changed == 1)
}

/// Where to begin to look for what happened at or after an instant.
pub async fn offset_since(db: &Db, since: Timestamp) -> Result<Offset, StoreError> {
    // Ids tell the time of the process that wrote them; a minute covers what clocks differ by.
    let early = since.minus(Duration::from_secs(60)).max(Timestamp::EPOCH);
    let rows = db.query(FIRST_SINCE, &[&At(early)]).await?;
    let first: Option<i64> = rows.first().map(|row| row.try_get("xid")).transpose()?.flatten();
    Ok(Offset { xid: first.map_or(i64::MAX, |xid| xid.saturating_sub(1)), seq: i64::MAX })
}

/// What was queued again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// How many deliveries.
    pub queued: i64,
    /// Where to go on, when there may be more.
    pub more_after: Option<Offset>,
}

/// Looks at up to `events_max` events after an offset that its owner hears of, and queues for one endpoint those that it wants
/// and that were given up, put off or never queued. Not to be asked for events whose deliveries are forgotten: what was delivered of them
/// would be delivered again.
pub async fn recover(
    tx: &Tx,
    owner: EndpointOwner,
    endpoint: WebhookEndpointId,
    after: Offset,
    events_max: i64,
    now: Timestamp,
) -> Result<Recovered, StoreError> {
    let statement = match owner {
        EndpointOwner::Participant(_) => RECOVER,
        EndpointOwner::Operator => RECOVER_FOR_OPERATOR,
    };
    let rows = tx
        .query(
            statement,
            &[&owner.as_uuid(), &endpoint.as_uuid(), &after.xid, &after.seq, &events_max, &At(now)],
        )
        .await?;
    let Some(row) = rows.first() else { return Ok(Recovered::default()) };
    let last = Offset { xid: row.try_get("xid")?, seq: row.try_get("seq")? };
    if let Some(due) = row.try_get::<_, Option<Vec<Uuid>>>("due")? {
        tx.execute(COME_FORWARD, &[&due]).await?;
    }
    let full = row.try_get::<_, i64>("events")? >= events_max;
    Ok(Recovered { queued: row.try_get("queued")?, more_after: full.then_some(last) })
}

/// The state of the queue, for metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Open deliveries per state, counted to [`DEPTH_COUNTED_MAX`].
    pub depth: BTreeMap<String, i64>,
    /// When the oldest delivery was made that an active endpoint waits for.
    pub oldest_pending: Option<Timestamp>,
    /// Active endpoints whose last attempt failed.
    pub endpoints_failing: i64,
    /// Disabled endpoints.
    pub endpoints_disabled: i64,
}

/// Where counting the queue stops.
pub const DEPTH_COUNTED_MAX: i64 = 100_000;

/// Reads the state of the queue.
pub async fn queue_state(db: &Db) -> Result<QueueState, StoreError> {
    let mut state = QueueState::default();
    for row in db.query(DEPTH, &[&DEPTH_COUNTED_MAX]).await? {
        state.depth.insert(row.try_get("state")?, row.try_get("deliveries")?);
    }
    if let Some(row) = db.query(OLDEST_PENDING, &[]).await?.first() {
        state.oldest_pending = instant(row, "created_at")?;
    }
    if let Some(row) = db.query(UNHEALTHY, &[]).await?.first() {
        state.endpoints_failing = row.try_get("failing")?;
        state.endpoints_disabled = row.try_get("disabled")?;
    }
    Ok(state)
}
