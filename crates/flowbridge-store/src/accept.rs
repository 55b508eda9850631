//! Accepting payments: a slice of requests, decided together and committed at once.
//!
//! One transaction holds the payment, its first event and effect, what is reserved for it, and the answer under the client's
//! idempotency key; so an answer that was given can be given again, and one that was not given had no effect. A key is
//! written once, with its answer, before anything else is: of two slices with the same key one waits for the other, is
//! refused by the database, and finds the answer when it is tried again. Requests are decided in the order in which they came,
//! on running balances; one that is refused leaves its neighbours alone.

use crate::db::{Db, StoreError, Tx};
use crate::lifecycle::Slice;
use crate::payment::{self, StoredPayment, hold_mode_name, parse_hold_mode};
use crate::sql::{At, columns, statements};
use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
use flowbridge_domain::ledger::{Balances, HoldMovement, LedgerHold, cover_holds};
use flowbridge_domain::money::Money;
use flowbridge_domain::party::{BankCode, Iban};
use flowbridge_domain::payment::{
    self as domain, Funding, Kind, Legs, Party, Payment, PaymentNumber, Payout, State, Terms,
};
use flowbridge_domain::time::Timestamp;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;
use uuid::Uuid;

statements! {
    TAKE_KEY = "insert into idempotency_key (client_id, route, key, fingerprint, status, body, created_at)
        values ($1, $2, $3, $4, 0, '', $5)
        on conflict do nothing
        returning key";

    ANSWER_KEY = "update idempotency_key set status = $4, body = $5 where client_id = $1 and route = $2 and key = $3";

    READ_KEYS = "select known.client_id, known.route, known.key, known.fingerprint, known.status, known.body
        from unnest($1::text[], $2::text[], $3::text[]) as wanted (client_id, route, key)
            join idempotency_key known
                on known.client_id = wanted.client_id and known.route = wanted.route and known.key = wanted.key";

    // In the order of keys, so that no two slices wait for each other in a circle.
    PUT_KEYS = "insert into idempotency_key (client_id, route, key, fingerprint, status, body, created_at)
        select client_id, route, key, fingerprint, status, body, $7
            from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::smallint[], $6::bytea[])
                as new (client_id, route, key, fingerprint, status, body)
            order by client_id, route, key";

    ACCOUNTS = "select account.id, account.iban, account.currency, account.participant_id, account.bank_code,
            account.status as account_status, participant.status as participant_status, participant.fee_basis_points,
            bank.hold_mode
        from (
            select account.* from account where account.id = any($1)
            union
            select account.* from unnest($2::text[], $3::text[]) as wanted (iban, currency)
                join account on account.iban = wanted.iban and account.currency = wanted.currency
        ) account
            join participant on participant.id = account.participant_id
            join bank on bank.code = account.bank_code";

    REFERENCES = "select payment.id, payment.participant_id, payment.end_to_end_id
        from unnest($1::uuid[], $2::text[]) as wanted (participant_id, end_to_end_id)
            join payment on payment.participant_id = wanted.participant_id and payment.end_to_end_id = wanted.end_to_end_id";

    TAKE_NUMBERS = "select nextval('payment_number') as number from generate_series(1, $1::integer)";

    // Locked in the order of ids, and before payments are decided, so that no two slices promise the same funds.
    WALLETS = "select owner, currency, posted_credits - posted_debits as posted, held from ledger_account
        where kind = 'wallet' and (owner, currency) in (select * from unnest($1::text[], $2::text[]))
        order by id for no key update";

    INSERT = "insert into payment (id, number, participant_id, kind, refund_of, funding, payout, currency, amount, fee,
            debtor_account, debtor_participant, debtor_bank, creditor_account, creditor_participant, creditor_bank, hold_mode,
            end_to_end_id, uetr, remittance_information, \"authorization\", execute_at, initiate_before, settle_before,
            expires_at, hold_until, accepted_at, traceparent, client_id, state, state_since, chain_leg, hold_leg, payout_leg)
        select new.id, new.number, new.participant_id, new.kind, new.refund_of, new.funding, new.payout,
                new.currency, new.amount, new.fee, new.debtor_account, new.debtor_participant, new.debtor_bank,
                new.creditor_account, new.creditor_participant, new.creditor_bank, new.hold_mode, new.end_to_end_id, new.uetr,
                new.remittance_information, new.signed, new.execute_at, new.initiate_before, new.settle_before,
                new.expires_at, new.hold_until, $28, new.traceparent, new.client_id, 'accepted', $28, $29, $30, $31
            from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::bigint[],
                    $9::bigint[], $10::uuid[], $11::uuid[], $12::text[], $13::uuid[], $14::uuid[], $15::text[], $16::text[],
                    $17::text[], $18::uuid[], $19::text[], $20::jsonb[], $21::timestamptz[], $22::timestamptz[],
                    $23::timestamptz[], $24::timestamptz[], $25::timestamptz[], $26::text[], $27::bigint[], $32::text[])
                as new (id, participant_id, kind, refund_of, funding, payout, currency, amount, fee, debtor_account,
                    debtor_participant, debtor_bank, creditor_account, creditor_participant, creditor_bank, hold_mode,
                    end_to_end_id, uetr, remittance_information, signed, execute_at, initiate_before, settle_before,
                    expires_at, hold_until, traceparent, number, client_id)";

    RESERVE_QUOTA = "update payment set refunded = payment.refunded + taken.amount
        from (select of, sum(amount)::bigint as amount from unnest($1::uuid[], $2::bigint[]) as refund (of, amount) group by of) taken
        where payment.id = taken.of";
}

/// How long payments may take. See `config/default.toml`.
#[derive(Debug, Clone, Copy)]
pub struct PaymentPolicy {
    /// Payments for a later day are executed within so much of its beginning.
    pub execution_spread: Duration,
    /// From execution on, to be initiated.
    pub initiate_window: Duration,
    /// From execution on, to be settled, unless the client wants it sooner.
    pub expiry: Duration,
    /// Before expiry, when no settlement is sent any more.
    pub settle_margin: Duration,
    /// After expiry, that a bank's hold has to last.
    pub hold_margin: Duration,
}

/// An account as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountRef {
    /// By our id.
    Id(AccountId),
    /// By the bank account, in the payment's currency.
    Iban(Iban),
}

/// What is to be paid.
#[derive(Debug, Clone)]
pub enum Instruction {
    /// From one account to another.
    Pay {
        /// Transfer, issuance or redemption.
        kind: Kind,
        /// Where the money comes from.
        funding: Funding,
        /// Where it goes.
        payout: Payout,
        /// Who pays.
        debtor: AccountRef,
        /// Who is paid.
        creditor: AccountRef,
    },
    /// Back from the creditor of an earlier payment to its debtor, by the way it came.
    Refund {
        /// The earlier payment.
        of: PaymentId,
    },
}

/// A request to pay.
#[derive(Debug, Clone)]
pub struct NewPayment {
    /// The id it will have.
    pub id: PaymentId,
    /// Whose client asks; none for an operator of ours, who may ask for anybody.
    pub participant: Option<ParticipantId>,
    /// What is to be paid.
    pub instruction: Instruction,
    /// How much.
    pub amount: Money,
    /// The client's reference.
    pub end_to_end_id: Option<String>,
    /// The global tracking id, a UUIDv4.
    pub uetr: Uuid,
    /// What the debtor tells the creditor.
    pub remittance_information: Option<String>,
    /// An ERC-3009 signature of the debtor's, as the chain role reads it.
    pub authorization: Option<Value>,
    /// Not before.
    pub execute_at: Timestamp,
    /// Settled before, if sooner than policy says.
    pub expires_at: Option<Timestamp>,
    /// The trace it continues.
    pub traceparent: String,
    /// The key under which the answer is kept.
    pub key: KeyedRequest,
}

/// A client's idempotency key, and what it was used for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyedRequest {
    /// The client.
    pub client_id: String,
    /// The route's template.
    pub route: String,
    /// The key.
    pub key: String,
    /// SHA-256 over what was asked.
    pub fingerprint: [u8; 32],
}

/// What was decided about a request.
#[derive(Debug, Clone)]
pub enum Decision {
    /// Accepted: it exists.
    Accepted(Box<StoredPayment>),
    /// Refused: there is no payment.
    Refused(AcceptRefusal),
}

/// Why a payment is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptRefusal {
    /// No such account, or not one that this client may debit.
    UnknownDebtor,
    /// No such account.
    UnknownCreditor,
    /// One of the accounts is closed.
    AccountClosed,
    /// The debtor's or the creditor's institution is suspended.
    ParticipantSuspended,
    /// Debtor and creditor are one account.
    SameAccount,
    /// An issuance or redemption is between one account's bank and wallet.
    NotOneAccount,
    /// Not the funding and payout of that kind.
    WrongWay,
    /// A signature over tokens, and the bank is to fund it.
    SignatureForBankMoney,
    /// The debtor's tokens do not cover it.
    InsufficientFunds,
    /// Nothing would be left after the fee.
    FeeTooHigh,
    /// It would expire before it could be settled.
    ExpiresTooSoon,
    /// The signature over its tokens is no longer valid when it is executed.
    SignatureEndsTooSoon,
    /// The signature over its tokens is not valid before it has to be initiated.
    SignatureBeginsTooLate,
    /// The reference was used, by this payment.
    ReferenceUsed(PaymentId),
    /// No such payment to refund, or not this client's.
    UnknownOriginal,
    /// The original is not completed, or is itself a refund.
    NotRefundable,
    /// All refunds together would exceed the original; so much is left, in minor units.
    RefundTooHigh(i128),
    /// Not the original's currency.
    WrongCurrency,
}

/// The answer to a request, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// What a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// The answer, made now.
    New(KeptAnswer),
    /// The answer that the key got before.
    Replayed(KeptAnswer),
    /// The key was used for something else.
    KeyUsedOtherwise,
}

/// Puts a decision into an answer. Called inside the transaction; must not block.
pub type Render<'a> = &'a (dyn Fn(&NewPayment, &Decision) -> KeptAnswer + Send + Sync);

/// Accepts or refuses a slice. One outcome per request, in the same order.
///
/// [`StoreError::TryAgain`]: another slice was faster with a key, a reference or what is left to refund; the same call again finds
/// what it did. [`StoreError::UnderWay`]: a key of the slice is with another transaction that takes its time.
pub async fn accept(
    db: &Db,
    requests: &[NewPayment],
    policy: &PaymentPolicy,
    now: Timestamp,
    render: Render<'_>,
) -> Result<Vec<Accepted>, StoreError> {
    accept_once(db, requests, policy, now, render).await.map_err(lost_race)
}

/// What two slices that read the same before they wrote run into: the later one hears it from here.
const RACES: [&str; 3] = ["idempotency_key_pkey", "payment_reference", "payment_refunded_check"];

fn lost_race(error: StoreError) -> StoreError {
    let is_race = error.constraint().is_some_and(|constraint| RACES.contains(&constraint));
    match (is_race, error) {
        (true, StoreError::Refused { source, .. }) => StoreError::TryAgain(source),
        (_, error) => error,
    }
}

async fn accept_once(
    db: &Db,
    requests: &[NewPayment],
    policy: &PaymentPolicy,
    now: Timestamp,
    render: Render<'_>,
) -> Result<Vec<Accepted>, StoreError> {
    let tx = db.begin().await?;
    let known = read_keys(&tx, requests).await?;
    let taken = take_keys(requests, &known);
    let fresh: Vec<&NewPayment> =
        requests.iter().zip(&taken).filter(|(_, taken)| **taken).map(|(request, _)| request).collect();
    let mut answers = Vec::new();
    if !fresh.is_empty() {
        let drafts = decide(&tx, &fresh, policy, now).await?;
        let acceptance = number(&tx, &fresh, drafts, now).await?;
        answers.extend(
            fresh.iter().zip(&acceptance.decisions).map(|(request, decision)| render(request, decision)),
        );
        put_keys(&tx, &fresh, &answers, now).await?;
        acceptance.write(&tx, &fresh, now).await?;
    }
    tx.commit().await?;

    let mut answers = answers.into_iter();
    let mut made: HashMap<(&str, &str, &str), KeptAnswer> = HashMap::new();
    let mut outcomes = Vec::with_capacity(requests.len());
    for (request, taken) in requests.iter().zip(taken) {
        let key = (&*request.key.client_id, &*request.key.route, &*request.key.key);
        if let Some(answer) = taken.then(|| answers.next()).flatten() {
            made.insert(key, answer.clone());
            outcomes.push(Accepted::New(answer));
            continue;
        }
        let same_slice =
            requests.iter().find(|other| (&*other.key.client_id, &*other.key.route, &*other.key.key) == key);
        outcomes.push(match (known.get(&key), made.get(&key), same_slice) {
            (Some((fingerprint, answer)), _, _) if *fingerprint == request.key.fingerprint => {
                Accepted::Replayed(answer.clone())
            }
            (None, Some(answer), Some(first)) if first.key.fingerprint == request.key.fingerprint => {
                Accepted::Replayed(answer.clone())
            }
            _ => Accepted::KeyUsedOtherwise,
        });
    }
    Ok(outcomes)
}

// ------------------------------------------------------------------------------------------------------------------ keys

/// What a key says about a request that is not a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keyed {
    /// It is new: do it in this transaction and [`keep`] the answer.
    Start,
    /// It was done.
    Replay(KeptAnswer),
    /// The key was used for something else.
    UsedOtherwise,
}

/// Takes a key for one request, in the transaction that will do it. Waits for another that has it, and says
/// [`StoreError::UnderWay`] when that takes too long.
pub async fn take_key(tx: &Tx, request: &KeyedRequest, now: Timestamp) -> Result<Keyed, StoreError> {
    let KeyedRequest { client_id, route, key, fingerprint } = request;
    let taken = tx
        .query(TAKE_KEY, &[client_id, route, key, &fingerprint.as_slice(), &At(now)])
        .await
        .map_err(StoreError::of_key)?;
    if !taken.is_empty() {
        return Ok(Keyed::Start);
    }
    let rows = tx.query(READ_KEYS, &[&vec![client_id], &vec![route], &vec![key]]).await?;
    let row = rows.first().ok_or_else(|| StoreError::Corrupt("an idempotency key that vanished".into()))?;
    if row.try_get::<_, &[u8]>("fingerprint")? != fingerprint {
        return Ok(Keyed::UsedOtherwise);
    }
    let status = u16::try_from(row.try_get::<_, i16>("status")?).unwrap_or(500);
    Ok(Keyed::Replay(KeptAnswer { status, body: row.try_get("body")? }))
}

/// Keeps the answer under the key, with what it answers.
pub async fn keep(tx: &Tx, request: &KeyedRequest, answer: &KeptAnswer) -> Result<(), StoreError> {
    let KeyedRequest { client_id, route, key, .. } = request;
    let status = i16::try_from(answer.status).unwrap_or(500);
    tx.execute(ANSWER_KEY, &[client_id, route, key, &status, &answer.body]).await?;
    Ok(())
}

/// Which requests are the first with their key.
fn take_keys(requests: &[NewPayment], known: &KnownKeys<'_>) -> Vec<bool> {
    let mut seen: HashSet<KeyName<'_>> = HashSet::with_capacity(requests.len());
    requests
        .iter()
        .map(|request| !known.contains_key(&name(&request.key)) && seen.insert(name(&request.key)))
        .collect()
}

/// A key with whose it is and for what.
type KeyName<'a> = (&'a str, &'a str, &'a str);

fn name(key: &KeyedRequest) -> KeyName<'_> {
    (&key.client_id, &key.route, &key.key)
}

type KnownKeys<'a> = HashMap<KeyName<'a>, ([u8; 32], KeptAnswer)>;

/// What was answered before under the keys of these requests.
async fn read_keys<'a>(tx: &Tx, requests: &'a [NewPayment]) -> Result<KnownKeys<'a>, StoreError> {
    let (clients, routes, keys) = columns!(
        requests,
        |request| request.key.client_id.as_str(),
        request.key.route.as_str(),
        request.key.key.as_str()
    );
    let mut known = HashMap::new();
    for row in tx.query(READ_KEYS, &[&clients, &routes, &keys]).await? {
        let found: KeyName<'_> = (row.try_get("client_id")?, row.try_get("route")?, row.try_get("key")?);
        let Some(request) = requests.iter().find(|request| name(&request.key) == found) else { continue };
        let fingerprint: &[u8] = row.try_get("fingerprint")?;
        let fingerprint: [u8; 32] =
            fingerprint.try_into().map_err(|_| StoreError::Corrupt("a fingerprint".into()))?;
        let status = u16::try_from(row.try_get::<_, i16>("status")?).unwrap_or(500);
        let answer = KeptAnswer { status, body: row.try_get("body")? };
        known.insert(name(&request.key), (fingerprint, answer));
    }
    Ok(known)
}

/// Writes the answers under their keys. Waits for another transaction that is writing one of them.
async fn put_keys(
    tx: &Tx,
    requests: &[&NewPayment],
    answers: &[KeptAnswer],
    now: Timestamp,
) -> Result<(), StoreError> {
    let pairs: Vec<(&&NewPayment, &KeptAnswer)> = requests.iter().zip(answers).collect();
    let (clients, routes, keys, fingerprints, statuses, bodies) = columns!(
        pairs,
        |(request, answer)| request.key.client_id.as_str(),
        request.key.route.as_str(),
        request.key.key.as_str(),
        request.key.fingerprint.as_slice(),
        i16::try_from(answer.status).unwrap_or(500),
        answer.body.as_slice()
    );
    tx.execute(PUT_KEYS, &[&clients, &routes, &keys, &fingerprints, &statuses, &bodies, &At(now)])
        .await
        .map_err(StoreError::of_key)?;
    Ok(())
}

// -------------------------------------------------------------------------------------------------------------- deciding

/// An account with what its institution and bank say.
#[derive(Debug, Clone)]
struct Known {
    party: Party,
    iban: String,
    currency: String,
    open: bool,
    participant_active: bool,
    fee_basis_points: u16,
    hold_mode: flowbridge_domain::bank::HoldMode,
}

async fn decide(
    tx: &Tx,
    requests: &[&NewPayment],
    policy: &PaymentPolicy,
    now: Timestamp,
) -> Result<Vec<Result<Draft, AcceptRefusal>>, StoreError> {
    let mut originals = read_originals(tx, requests).await?;
    let accounts = read_accounts(tx, requests, &originals).await?;
    let mut references = read_references(tx, requests, &accounts, &originals).await?;
    let mut wallets = lock_wallets(tx, requests, &accounts, &originals).await?;
    // In the order in which they came: what one takes of a reference, of what can be refunded and of a wallet is gone for
    // the next, and one that is refused takes nothing.
    Ok(requests
        .iter()
        .map(|request| {
            let draft = draft(request, &accounts, &originals, policy, now)?;
            let reference = request.end_to_end_id.clone().map(|reference| (draft.participant, reference));
            if let Some(used) = reference.as_ref().and_then(|reference| references.get(reference)) {
                return Err(AcceptRefusal::ReferenceUsed(*used));
            }
            cover(&draft.terms, &mut wallets)?;
            references.extend(reference.map(|reference| (reference, request.id)));
            if let Kind::Refund { of } = draft.terms.kind
                && let Some(original) = originals.get_mut(&of)
            {
                original.refunded = original.refunded.saturating_add(request.amount.minor_units());
            }
            Ok(draft)
        })
        .collect())
}

/// A payment that passed every check but the balance's.
#[derive(Debug, Clone)]
struct Draft {
    terms: Terms,
    participant: ParticipantId,
}

fn draft(
    request: &NewPayment,
    accounts: &[Known],
    originals: &HashMap<PaymentId, StoredPayment>,
    policy: &PaymentPolicy,
    now: Timestamp,
) -> Result<Draft, AcceptRefusal> {
    let currency = request.amount.currency();
    let find = |wanted: &AccountRef| find_account(accounts, wanted, request.amount);
    let may_debit = |known: &&Known| request.participant.is_none_or(|own| own == known.party.participant);
    let (kind, funding, payout, debtor, creditor) = match &request.instruction {
        Instruction::Pay { kind, funding, payout, debtor, creditor } => {
            let debtor = find(debtor).filter(may_debit).ok_or(AcceptRefusal::UnknownDebtor)?;
            (*kind, *funding, *payout, debtor, find(creditor).ok_or(AcceptRefusal::UnknownCreditor)?)
        }
        Instruction::Refund { of } => {
            let original = originals.get(of).ok_or(AcceptRefusal::UnknownOriginal)?;
            let debtor = find(&AccountRef::Id(original.payment.terms.creditor.account))
                .filter(may_debit)
                .ok_or(AcceptRefusal::UnknownOriginal)?;
            let creditor = find(&AccountRef::Id(original.payment.terms.debtor.account))
                .ok_or(AcceptRefusal::UnknownCreditor)?;
            let (funding, payout) = way_back(original, request.amount)?;
            (Kind::Refund { of: *of }, funding, payout, debtor, creditor)
        }
    };
    if debtor.currency != currency.code() || creditor.currency != currency.code() {
        return Err(AcceptRefusal::WrongCurrency);
    }
    if !debtor.open || !creditor.open {
        return Err(AcceptRefusal::AccountClosed);
    }
    if !debtor.participant_active || !creditor.participant_active {
        return Err(AcceptRefusal::ParticipantSuspended);
    }
    // A signature moves the debtor's tokens: where the bank funds, the contracts would refuse it for ever.
    if request.authorization.is_some() && funding != Funding::Token {
        return Err(AcceptRefusal::SignatureForBankMoney);
    }
    let one_account = debtor.party.account == creditor.party.account;
    match (kind, funding, payout) {
        (Kind::Issuance, Funding::Bank, Payout::Token) | (Kind::Redemption, Funding::Token, Payout::Bank) => {
            if !one_account {
                return Err(AcceptRefusal::NotOneAccount);
            }
        }
        (Kind::Issuance | Kind::Redemption, ..) => return Err(AcceptRefusal::WrongWay),
        (Kind::Transfer, ..) if one_account => return Err(AcceptRefusal::SameAccount),
        (Kind::Transfer | Kind::Refund { .. }, ..) => {}
    }
    let fee = request
        .amount
        .basis_points_down(creditor.fee_basis_points)
        .ok()
        .filter(|fee| fee.minor_units() < request.amount.minor_units())
        .ok_or(AcceptRefusal::FeeTooHigh)?;
    let execute_at = execution(request, policy, now);
    let expires_at = execute_at.plus(policy.expiry).min(request.expires_at.unwrap_or(Timestamp::MAX));
    let settle_before = expires_at.minus(policy.settle_margin);
    if settle_before <= execute_at {
        return Err(AcceptRefusal::ExpiresTooSoon);
    }
    let initiate_before = execute_at.plus(policy.initiate_window).min(settle_before);
    if let Some(authorization) = &request.authorization {
        signature_lasts(authorization, execute_at, initiate_before)?;
    }
    let terms = Terms {
        id: request.id,
        number: PaymentNumber(0),
        kind,
        funding,
        payout,
        amount: request.amount,
        fee,
        debtor: debtor.party.clone(),
        creditor: creditor.party.clone(),
        hold_mode: debtor.hold_mode,
        execute_at,
        initiate_before,
        settle_before,
        expires_at,
        hold_until: expires_at.plus(policy.hold_margin),
    };
    Ok(Draft { participant: request.participant.unwrap_or(terms.debtor.participant), terms })
}

/// When a payment is to be executed. Those for a later day all over the beginning of that day, each by its id: otherwise all that are due
/// on the first of a month would come due in one instant, ahead of whoever pays just then, and of both only as many would be initiated in
/// time as fit into the window.
fn execution(request: &NewPayment, policy: &PaymentPolicy, now: Timestamp) -> Timestamp {
    let day = request.execute_at;
    if day <= now {
        return now;
    }
    let until = request.expires_at.unwrap_or(Timestamp::MAX).minus(policy.settle_margin);
    let spread = policy.execution_spread.min(until.minus(policy.initiate_window).since(day));
    let (_, random) = request.id.as_uuid().as_u64_pair();
    let place = u128::from(random) % spread.as_micros().max(1);
    day.plus(Duration::from_micros(u64::try_from(place).unwrap_or(u64::MAX)))
}

/// Refuses a signature that the token would never take: it is valid strictly between its two instants, and the chain is asked from execution
/// on until the initiate window closes.
fn signature_lasts(
    authorization: &Value,
    execute_at: Timestamp,
    initiate_before: Timestamp,
) -> Result<(), AcceptRefusal> {
    let instant = |name: &str| authorization.get(name).and_then(Value::as_i64).map(Timestamp::from_secs);
    let (after, before) = (instant("valid_after"), instant("valid_before"));
    if before.is_some_and(|before| before <= after.map_or(execute_at, |after| after.max(execute_at))) {
        return Err(AcceptRefusal::SignatureEndsTooSoon);
    }
    if after.is_some_and(|after| after >= initiate_before) {
        return Err(AcceptRefusal::SignatureBeginsTooLate);
    }
    Ok(())
}

fn find_account<'a>(accounts: &'a [Known], wanted: &AccountRef, amount: Money) -> Option<&'a Known> {
    let currency = amount.currency();
    accounts.iter().find(|known| match wanted {
        AccountRef::Id(id) => known.party.account == *id,
        AccountRef::Iban(iban) => known.iban == iban.as_str() && known.currency == currency.code(),
    })
}

/// The way a refund takes, if its original can be refunded and so much of it is left.
fn way_back(original: &StoredPayment, amount: Money) -> Result<(Funding, Payout), AcceptRefusal> {
    let terms = &original.payment.terms;
    let refundable = original.payment.progress.state == State::Completed
        && match terms.kind {
            Kind::Transfer => true,
            Kind::Refund { .. } | Kind::Issuance | Kind::Redemption => false,
        };
    if !refundable {
        return Err(AcceptRefusal::NotRefundable);
    }
    if terms.amount.currency() != amount.currency() {
        return Err(AcceptRefusal::WrongCurrency);
    }
    let left = terms.amount.minor_units().saturating_sub(original.refunded);
    if amount.minor_units() > left {
        return Err(AcceptRefusal::RefundTooHigh(left));
    }
    let funding = match terms.payout {
        Payout::Bank => Funding::Bank,
        Payout::Token => Funding::Token,
    };
    let payout = match terms.funding {
        Funding::Bank => Payout::Bank,
        Funding::Token => Payout::Token,
    };
    Ok((funding, payout))
}

async fn read_originals(
    tx: &Tx,
    requests: &[&NewPayment],
) -> Result<HashMap<PaymentId, StoredPayment>, StoreError> {
    let ids: BTreeSet<PaymentId> = requests
        .iter()
        .filter_map(|request| match &request.instruction {
            Instruction::Refund { of } => Some(*of),
            Instruction::Pay { .. } => None,
        })
        .collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let locked = payment::lock(tx, &Vec::from_iter(ids)).await?;
    Ok(locked.into_iter().map(|stored| (stored.payment.terms.id, stored)).collect())
}

async fn read_accounts(
    tx: &Tx,
    requests: &[&NewPayment],
    originals: &HashMap<PaymentId, StoredPayment>,
) -> Result<Vec<Known>, StoreError> {
    let mut ids: BTreeSet<Uuid> = BTreeSet::new();
    let mut ibans: BTreeSet<(String, String)> = BTreeSet::new();
    for stored in originals.values() {
        let terms = &stored.payment.terms;
        ids.extend([terms.debtor.account.as_uuid(), terms.creditor.account.as_uuid()]);
    }
    for request in requests {
        let Instruction::Pay { debtor, creditor, .. } = &request.instruction else { continue };
        for account in [debtor, creditor] {
            match account {
                AccountRef::Id(id) => {
                    ids.insert(id.as_uuid());
                }
                AccountRef::Iban(iban) => {
                    ibans.insert((iban.as_str().to_owned(), request.amount.currency().code().to_owned()));
                }
            }
        }
    }
    let (texts, currencies): (Vec<String>, Vec<String>) = ibans.into_iter().unzip();
    let rows = tx.query(ACCOUNTS, &[&Vec::from_iter(ids), &texts, &currencies]).await?;
    rows.iter()
        .map(|row| {
            let account = AccountId::from_uuid(row.try_get("id")?);
            let corrupt = |what: &str| StoreError::Corrupt(format!("{what} of account {account}"));
            Ok(Known {
                party: Party {
                    account,
                    participant: ParticipantId::from_uuid(row.try_get("participant_id")?),
                    bank: BankCode::parse(row.try_get("bank_code")?).map_err(|_| corrupt("bank"))?,
                },
                iban: row.try_get("iban")?,
                currency: row.try_get("currency")?,
                open: row.try_get::<_, &str>("account_status")? == "active",
                participant_active: row.try_get::<_, &str>("participant_status")? == "active",
                fee_basis_points: u16::try_from(row.try_get::<_, i16>("fee_basis_points")?)
                    .map_err(|_| corrupt("fee"))?,
                hold_mode: parse_hold_mode(row.try_get("hold_mode")?).ok_or_else(|| corrupt("hold mode"))?,
            })
        })
        .collect()
}

/// Which references are used already. What an operator asks for goes under the debtor's institution.
async fn read_references(
    tx: &Tx,
    requests: &[&NewPayment],
    accounts: &[Known],
    originals: &HashMap<PaymentId, StoredPayment>,
) -> Result<HashMap<(ParticipantId, String), PaymentId>, StoreError> {
    let participant = |request: &NewPayment| match &request.instruction {
        _ if request.participant.is_some() => request.participant,
        Instruction::Pay { debtor, .. } => {
            find_account(accounts, debtor, request.amount).map(|known| known.party.participant)
        }
        Instruction::Refund { of } => {
            originals.get(of).map(|original| original.payment.terms.creditor.participant)
        }
    };
    let (participants, references): (Vec<Uuid>, Vec<String>) = requests
        .iter()
        .filter_map(|request| Some((participant(request)?.as_uuid(), request.end_to_end_id.clone()?)))
        .unzip();
    let mut known = HashMap::new();
    if references.is_empty() {
        return Ok(known);
    }
    for row in tx.query(REFERENCES, &[&participants, &references]).await? {
        let key = (ParticipantId::from_uuid(row.try_get("participant_id")?), row.try_get("end_to_end_id")?);
        known.insert(key, PaymentId::from_uuid(row.try_get("id")?));
    }
    Ok(known)
}

/// The balances of the wallets that may have to pay, locked until the transaction ends.
async fn lock_wallets(
    tx: &Tx,
    requests: &[&NewPayment],
    accounts: &[Known],
    originals: &HashMap<PaymentId, StoredPayment>,
) -> Result<BTreeMap<AccountId, Balances>, StoreError> {
    let (owners, currencies): (Vec<String>, Vec<String>) = requests
        .iter()
        .filter_map(|request| {
            let debtor = match &request.instruction {
                Instruction::Pay { funding: Funding::Bank, .. } => return None,
                Instruction::Pay { debtor, .. } => {
                    let debtor = &find_account(accounts, debtor, request.amount)?.party;
                    // Nobody makes another's wallet wait.
                    let may_debit = request.participant.is_none_or(|own| own == debtor.participant);
                    may_debit.then_some(debtor.account)?
                }
                Instruction::Refund { of } => {
                    let terms = &originals.get(of)?.payment.terms;
                    (terms.payout == Payout::Token).then_some(terms.creditor.account)?
                }
            };
            Some((debtor.to_string(), request.amount.currency().code().to_owned()))
        })
        .unzip();
    let mut wallets = BTreeMap::new();
    if owners.is_empty() {
        return Ok(wallets);
    }
    for row in tx.query(WALLETS, &[&owners, &currencies]).await? {
        let owner: &str = row.try_get("owner")?;
        let account =
            AccountId::parse(owner).map_err(|_| StoreError::Corrupt(format!("wallet account {owner}")))?;
        let posted = row.try_get::<_, i64>("posted")?.into();
        wallets.insert(account, Balances { posted, held: row.try_get::<_, i64>("held")?.into() });
    }
    Ok(wallets)
}

/// Reserves what a payment from a wallet takes; refused when the wallet does not cover it.
fn cover(terms: &Terms, wallets: &mut BTreeMap<AccountId, Balances>) -> Result<(), AcceptRefusal> {
    if terms.funding != Funding::Token {
        return Ok(());
    }
    let hold = LedgerHold {
        account: terms.debtor.account,
        movement: HoldMovement::Place,
        round: 0,
        amount: terms.amount,
    };
    let refused = cover_holds(&[hold], wallets).into_iter().find_map(Result::err);
    refused.map_or(Ok(()), |_| Err(AcceptRefusal::InsufficientFunds))
}

/// What is accepted of a slice, and all that follows from it.
#[derive(Debug)]
struct Acceptance {
    /// One for each request, in their order.
    decisions: Vec<Decision>,
    slice: Slice,
    /// Of which originals how much is taken by refunds.
    quota: (Vec<Uuid>, Vec<i64>),
}

/// Gives numbers to the drafts that are accepted, and has them begin.
async fn number(
    tx: &Tx,
    requests: &[&NewPayment],
    drafts: Vec<Result<Draft, AcceptRefusal>>,
    now: Timestamp,
) -> Result<Acceptance, StoreError> {
    let wanted = i32::try_from(drafts.iter().filter(|draft| draft.is_ok()).count()).unwrap_or(i32::MAX);
    let mut numbers = tx.query(TAKE_NUMBERS, &[&wanted]).await?.into_iter();
    let mut next_number = || -> Result<PaymentNumber, StoreError> {
        let row = numbers.next().ok_or_else(|| StoreError::Corrupt("too few payment numbers".into()))?;
        let number = u64::try_from(row.try_get::<_, i64>("number")?);
        Ok(PaymentNumber(number.map_err(|_| StoreError::Corrupt("a payment number".into()))?))
    };
    let mut slice = Slice::default();
    let mut quota: (Vec<Uuid>, Vec<i64>) = Default::default();
    let mut decisions = Vec::with_capacity(requests.len());
    for (request, draft) in requests.iter().zip(drafts) {
        let Draft { terms, participant } = match draft {
            Err(refusal) => {
                decisions.push(Decision::Refused(refusal));
                continue;
            }
            Ok(draft) => draft,
        };
        let terms = Terms { number: next_number()?, ..terms };
        if let Kind::Refund { of } = terms.kind {
            quota.0.push(of.as_uuid());
            quota.1.push(minor_units(terms.amount));
        }
        let step = domain::accept(&terms);
        let stored = StoredPayment {
            payment: Payment { terms, progress: step.next },
            participant,
            end_to_end_id: request.end_to_end_id.clone(),
            uetr: request.uetr,
            remittance_information: request.remittance_information.clone(),
            accepted_at: now,
            traceparent: request.traceparent.clone(),
            state_since: now,
            refunded: 0,
        };
        slice.add_new(&stored, step, now);
        decisions.push(Decision::Accepted(Box::new(stored)));
    }
    Ok(Acceptance { decisions, slice, quota })
}

impl Acceptance {
    /// Writes what is accepted, with all that follows.
    async fn write(self, tx: &Tx, requests: &[&NewPayment], now: Timestamp) -> Result<(), StoreError> {
        let accepted: Vec<(&NewPayment, &StoredPayment)> = requests
            .iter()
            .zip(&self.decisions)
            .filter_map(|(request, decision)| match decision {
                Decision::Accepted(stored) => Some((*request, &**stored)),
                Decision::Refused(_) => None,
            })
            .collect();
        insert_rows(tx, &accepted, now).await?;
        self.slice.write(tx, now).await?;
        if !self.quota.0.is_empty() {
            tx.execute(RESERVE_QUOTA, &[&self.quota.0, &self.quota.1]).await?;
        }
        Ok(())
    }
}

async fn insert_rows(
    tx: &Tx,
    accepted: &[(&NewPayment, &StoredPayment)],
    now: Timestamp,
) -> Result<(), StoreError> {
    if accepted.is_empty() {
        return Ok(());
    }
    let of = |kind: Kind| match kind {
        Kind::Refund { of } => Some(of.as_uuid()),
        Kind::Transfer | Kind::Issuance | Kind::Redemption => None,
    };
    let (ids, participants, kinds, refunds, fundings, payouts, currencies, amounts, fees) = columns!(
        accepted,
        |(request, stored)| request.id.as_uuid(),
        stored.participant.as_uuid(),
        stored.payment.terms.kind.as_str(),
        of(stored.payment.terms.kind),
        stored.payment.terms.funding.as_str(),
        stored.payment.terms.payout.as_str(),
        stored.payment.terms.amount.currency().code().to_owned(),
        minor_units(stored.payment.terms.amount),
        minor_units(stored.payment.terms.fee)
    );
    let (debtors, debtor_participants, debtor_banks, creditors, creditor_participants, creditor_banks, modes) = columns!(
        accepted,
        |(_, stored)| stored.payment.terms.debtor.account.as_uuid(),
        stored.payment.terms.debtor.participant.as_uuid(),
        stored.payment.terms.debtor.bank.as_str(),
        stored.payment.terms.creditor.account.as_uuid(),
        stored.payment.terms.creditor.participant.as_uuid(),
        stored.payment.terms.creditor.bank.as_str(),
        hold_mode_name(stored.payment.terms.hold_mode)
    );
    let (references, uetrs, remittances, signed, traces, clients) = columns!(
        accepted,
        |(request, _)| request.end_to_end_id.as_deref(),
        request.uetr,
        request.remittance_information.as_deref(),
        request.authorization.as_ref(),
        request.traceparent.as_str(),
        request.key.client_id.as_str()
    );
    let (execute, initiate, settle, expire, hold) = columns!(
        accepted,
        |(_, stored)| At(stored.payment.terms.execute_at),
        At(stored.payment.terms.initiate_before),
        At(stored.payment.terms.settle_before),
        At(stored.payment.terms.expires_at),
        At(stored.payment.terms.hold_until)
    );
    let numbers: Vec<i64> = accepted
        .iter()
        .map(|(_, stored)| i64::try_from(stored.payment.terms.number.0).unwrap_or(i64::MAX))
        .collect();
    let Legs { chain, hold: hold_leg, payout, .. } = Legs::NEW;
    tx.execute(
        INSERT,
        &[
            &ids,
            &participants,
            &kinds,
            &refunds,
            &fundings,
            &payouts,
            &currencies,
            &amounts,
            &fees,
            &debtors,
            &debtor_participants,
            &debtor_banks,
            &creditors,
            &creditor_participants,
            &creditor_banks,
            &modes,
            &references,
            &uetrs,
            &remittances,
            &signed,
            &execute,
            &initiate,
            &settle,
            &expire,
            &hold,
            &traces,
            &numbers,
            &At(now),
            &payment::chain_leg_name(chain),
            &payment::hold_leg_name(hold_leg),
            &payment::payout_leg_name(payout),
            &clients,
        ],
    )
    .await?;
    Ok(())
}

/// Amounts of a payment fit: they were parsed within 2^53.
fn minor_units(money: Money) -> i64 {
    i64::try_from(money.minor_units()).unwrap_or(i64::MAX)
}
