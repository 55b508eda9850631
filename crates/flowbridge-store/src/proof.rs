//! The ledger's side of the three-way proof, at a cut.
//!
//! A cut is one snapshot of the database: the ledger, what the watcher has announced up to its cursor, and every
//! observation that the orchestrator has not read yet. What is unread is taken into account by letting the pure core
//! decide it on copies, so the ledger is compared as it will be once it has read what the chain side already counts. No
//! historical call to the chain is needed, and nothing has to stand still.

use crate::chain::holes::holes_at;
use crate::chain::{Hole, units_per_minor_unit};
use crate::db::{Db, StoreError, Tx};
use crate::event_log::{LoggedEvent, event_columns};
use crate::observation;
use crate::payment::{self, StoredPayment};
use crate::sql::{At, statements};
use flowbridge_domain::bank::{BankStep, OperationKey};
use flowbridge_domain::id::{AccountId, ParticipantId, PaymentId};
use flowbridge_domain::ledger::{JournalEntry, LedgerAccount, Side};
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::BankCode;
use flowbridge_domain::payment::{ChainLeg, Funding, HoldLeg, Payment, State, step};
use flowbridge_domain::time::Timestamp;
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

statements! {
    LEDGER = "select kind, owner, currency, posted_debits, posted_credits from ledger_account";

    // A completed payment whose settlement a reorganisation took back counts until it is settled again; one that has failed and
    // that a reorganisation opened again, until it is closed again.
    ESCROWED = "select debtor_account, currency, sum(amount)::bigint as amount from (
            select debtor_account, currency, amount from payment
                where is_open and chain_leg = 'open' and funding = 'token'
            union all
            select debtor_account, currency, amount from payment
                where is_taken_back and chain_leg = 'open' and funding = 'token'
            union all
            select debtor_account, currency, amount from payment
                where is_open_again and funding = 'token') escrow
        group by debtor_account, currency";

    RECEIVABLE = "select debtor_participant, currency, sum(amount)::bigint as amount from (
            select debtor_participant, currency, case when chain_leg = 'settled' then amount else -amount end as amount
                from payment
                where is_open and funding = 'bank'
                    and (chain_leg = 'settled' and hold_leg in ('placed', 'capture_asked')
                        or chain_leg <> 'settled' and hold_leg in ('captured', 'return_asked'))
            union all
            select debtor_participant, currency, -amount from payment
                where is_taken_back and funding = 'bank' and hold_leg = 'captured') owed
        group by debtor_participant, currency";

    // What waits for a wallet may be all that it has.
    CHAIN_WALLETS = "select held.currency, held.units, held.quarantined, contract.token_decimals, account.participant_id,
            held.wallet = contract.manager as is_manager, held.wallet = contract.house as is_house
        from (select currency, wallet, coalesce(chain_wallet.units, 0) as units, coalesce(chain_quarantine.units, 0) as quarantined
                from chain_wallet full join chain_quarantine using (currency, wallet)) held
            join chain_contract contract on contract.currency = held.currency
            left join account on account.wallet = held.wallet and account.currency = held.currency";

    CHAIN_TOTALS = "select chain_totals.currency, sequence, minted, burned, escrowed, redemption, token_decimals
        from chain_totals join chain_contract on chain_contract.currency = chain_totals.currency";

    CUT = "select announced_number from chain_cursor";

    UNREAD = concat!("select ", event_columns!(), "
        from consumer_offset o
            join event on event.topic = o.topic and event.partition = o.partition and (event.xid, event.seq) > (o.xid, o.seq)
                and (event.xid, event.seq) > (o.seen_xid, o.seen_seq)
        where o.consumer_group = 'orchestrator'
        order by event.xid, event.seq limit $1");

    UNRESOLVED = "select effect.payment_id, effect.kind, effect.bank_code, effect.state from effect
        where effect.lane = 'bank' and effect.bank_code = $1 and (effect.kind in ('capture', 'credit') or effect.kind = 'release' and exists (
                select from effect taken where taken.payment_id = effect.payment_id and taken.kind = 'capture' and taken.outcome = 'done'))
            and effect.is_waiting and effect.state in ('claimed', 'unknown', 'escalated')";

    BOOKED_AFTER = "select effect.payment_id, effect.kind, effect.bank_code from effect
        where effect.lane = 'bank' and effect.bank_code = $1 and (effect.kind in ('capture', 'credit') or effect.kind = 'release' and exists (
                select from effect taken where taken.payment_id = effect.payment_id and taken.kind = 'capture' and taken.outcome = 'done'))
            and effect.state = 'done' and effect.booked_at > $2";

    READ_PAYMENTS = concat!("select ", payment::payment_columns!(), " from payment where id = any($1)");

    ACCOUNT_PARTICIPANTS = "select id, participant_id from account";
}

/// More than this unread, and the proof waits for the orchestrator instead.
const UNREAD_MAX: i64 = 20_000;

/// The ledger and the chain at one cut, in minor units.
#[derive(Debug, Clone)]
pub struct Cut {
    /// The last block whose logs are counted.
    pub block: i64,
    /// Debits less credits over all accounts, per currency: zero.
    pub trial_balance: BTreeMap<Currency, i128>,
    /// Both sides of every quantity that has two.
    pub lines: Vec<Line>,
    /// Where logs of our contracts are missing.
    pub holes: Vec<Hole>,
    /// Settled payments whose hold is live, per institution: what makes its receivable good.
    pub receivables: Vec<Line>,
    /// Observations taken into account that the ledger has not read yet.
    pub unread: usize,
    /// The reserve per bank and currency, as the ledger will have it.
    pub reserves: BTreeMap<(BankCode, Currency), i128>,
}

/// One quantity, seen from two sides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Such as `wallets of par_…` or `supply`.
    pub what: String,
    /// The currency.
    pub currency: Currency,
    /// As the ledger has it, in minor units.
    pub ledger: i128,
    /// As the chain (or a bank, or the payments) has it.
    pub other: i128,
    /// The bank whose account it is, if it is our reserve at one.
    pub bank: Option<BankCode>,
}

impl Line {
    /// Do both sides agree?
    pub const fn holds(&self) -> bool {
        self.ledger == self.other
    }
}

/// A bank operation that a reserve has to be adjusted by.
#[derive(Debug, Clone)]
pub struct BankMovement {
    /// The operation.
    pub key: OperationKey,
    /// What it changes our reserve by, once it is done.
    pub change: Money,
}

/// What is open between the ledger and one bank, at the same cut.
#[derive(Debug, Clone, Default)]
pub struct BankSide {
    /// Not resolved: each may or may not have been carried out.
    pub unresolved: Vec<BankMovement>,
    /// Carried out after the bank's balance was told, but in the ledger (or about to be).
    pub later: Vec<BankMovement>,
}

/// Takes a cut. `banks` are the banks whose balance has just been told, with the instant that it is of.
pub async fn cut(
    db: &Db,
    banks: &[(BankCode, Timestamp)],
    now: Timestamp,
) -> Result<(Cut, BTreeMap<BankCode, BankSide>), StoreError> {
    let tx = db.snapshot().await?;
    let taken = take_cut(&tx, banks, now).await;
    tx.rollback().await?;
    taken
}

async fn take_cut(
    tx: &Tx,
    banks: &[(BankCode, Timestamp)],
    now: Timestamp,
) -> Result<(Cut, BTreeMap<BankCode, BankSide>), StoreError> {
    let mut books = read_books(tx).await?;
    let mut under_way = read_under_way(tx).await?;
    let unread = read_unread(tx, &mut books, &mut under_way, now).await?;
    let block = match tx.query(CUT, &[]).await?.first() {
        Some(row) => row.try_get(0)?,
        None => 0,
    };
    let lines = compare_with_chain(tx, &books, &under_way.escrowed).await?;
    let mut sides = BTreeMap::new();
    for (bank, as_of) in banks {
        sides.insert(bank.clone(), bank_side(tx, bank, *as_of).await?);
    }
    let mut trial_balance: BTreeMap<Currency, i128> = BTreeMap::new();
    for ((_, currency), balance) in &books.debits {
        *trial_balance.entry(*currency).or_default() += balance;
    }
    let reserves = books
        .debits
        .iter()
        .filter_map(|((account, currency), debits)| match account {
            LedgerAccount::Reserve(bank) => Some(((bank.clone(), *currency), *debits)),
            LedgerAccount::BankReceivable(_)
            | LedgerAccount::Wallet(_)
            | LedgerAccount::WalletHouse
            | LedgerAccount::Redemption(_)
            | LedgerAccount::BurnPending
            | LedgerAccount::BurnOutstanding
            | LedgerAccount::Loss(_)
            | LedgerAccount::Suspense
            | LedgerAccount::BankSuspense(_)
            | LedgerAccount::BankCharges(_) => None,
        })
        .collect();
    let cut = Cut {
        block,
        trial_balance,
        lines,
        holes: holes_at(tx).await?,
        receivables: compare_receivables(&books, &under_way),
        unread,
        reserves,
    };
    Ok((cut, sides))
}

/// Every account's debits less credits.
#[derive(Debug, Default)]
struct Books {
    debits: HashMap<(LedgerAccount, Currency), i128>,
}

impl Books {
    fn post(&mut self, entry: &JournalEntry) {
        let (amount, currency) = (entry.amount.minor_units(), entry.amount.currency());
        *self.debits.entry((entry.debit.clone(), currency)).or_default() += amount;
        *self.debits.entry((entry.credit.clone(), currency)).or_default() -= amount;
    }

    /// On the account's own side.
    fn balance(&self, account: &LedgerAccount, currency: Currency) -> i128 {
        let debits = self.debits.get(&(account.clone(), currency)).copied().unwrap_or(0);
        match account.normal_side() {
            Side::Debit => debits,
            Side::Credit => -debits,
        }
    }

    fn sum(&self, currency: Currency, wanted: impl Fn(&LedgerAccount) -> bool) -> i128 {
        self.debits
            .keys()
            .filter(|(account, of)| *of == currency && wanted(account))
            .map(|(account, _)| self.balance(account, currency))
            .sum()
    }
}

async fn read_books(tx: &Tx) -> Result<Books, StoreError> {
    let mut books = Books::default();
    for row in tx.query(LEDGER, &[]).await? {
        let (kind, owner): (&str, &str) = (row.try_get("kind")?, row.try_get("owner")?);
        let corrupt = || StoreError::Corrupt(format!("ledger account {kind} {owner}"));
        let participant = || ParticipantId::parse(owner).map_err(|_| corrupt());
        let account = match kind {
            "reserve" => LedgerAccount::Reserve(BankCode::parse(owner).map_err(|_| corrupt())?),
            "bank_receivable" => LedgerAccount::BankReceivable(participant()?),
            "wallet" => LedgerAccount::Wallet(AccountId::parse(owner).map_err(|_| corrupt())?),
            "wallet_house" => LedgerAccount::WalletHouse,
            "redemption" => LedgerAccount::Redemption(participant()?),
            "burn_pending" => LedgerAccount::BurnPending,
            "burn_outstanding" => LedgerAccount::BurnOutstanding,
            "loss" => LedgerAccount::Loss(participant()?),
            "suspense" => LedgerAccount::Suspense,
            "bank_suspense" => LedgerAccount::BankSuspense(BankCode::parse(owner).map_err(|_| corrupt())?),
            "bank_charges" => LedgerAccount::BankCharges(BankCode::parse(owner).map_err(|_| corrupt())?),
            _ => return Err(corrupt()),
        };
        let currency = Currency::parse(row.try_get("currency")?).map_err(|_| corrupt())?;
        let debits = i128::from(row.try_get::<_, i64>("posted_debits")?);
        let credits = i128::from(row.try_get::<_, i64>("posted_credits")?);
        books.debits.insert((account, currency), debits - credits);
    }
    Ok(books)
}

/// What payments under way account for, and the ledger alone does not show.
#[derive(Debug, Default)]
struct UnderWay {
    /// In escrow on chain: still the debtor's in the ledger, no longer in the wallet.
    escrowed: HashMap<(AccountId, Currency), i128>,
    /// Settled, not yet captured, the hold live: what makes a receivable good. Less what was captured and is not settled, which
    /// is so with a confirm-only bank before settlement, and after a reorganisation.
    receivable: BTreeMap<(ParticipantId, Currency), i128>,
}

impl UnderWay {
    /// Counts a payment in (`sign` 1) or out (`sign` -1).
    fn count(&mut self, payment: &Payment, sign: i128) {
        let Payment { terms, progress } = payment;
        let (amount, currency) = (sign * terms.amount.minor_units(), terms.amount.currency());
        if terms.funding == Funding::Token && progress.legs.chain == ChainLeg::Open {
            *self.escrowed.entry((terms.debtor.account, currency)).or_default() += amount;
        }
        let is_taken_back = progress.state == State::Completed
            && matches!(progress.legs.chain, ChainLeg::Unused | ChainLeg::Open);
        if terms.funding == Funding::Bank && (is_taken_back || !progress.state.is_terminal()) {
            let is_settled = progress.legs.chain == ChainLeg::Settled;
            let owed = match progress.legs.hold {
                HoldLeg::Placed | HoldLeg::CaptureAsked if is_settled => amount,
                // Captured ahead of settlement, or the settlement was reorganised away: we owe, for now.
                HoldLeg::Captured | HoldLeg::ReleaseAsked { captured: true } if !is_settled => -amount,
                HoldLeg::NotAsked
                | HoldLeg::Asked
                | HoldLeg::Placed
                | HoldLeg::Declined
                | HoldLeg::CaptureAsked
                | HoldLeg::Captured
                | HoldLeg::CaptureDeclined
                | HoldLeg::ReleaseAsked { .. }
                | HoldLeg::Released => 0,
            };
            *self.receivable.entry((terms.debtor.participant, currency)).or_default() += owed;
        }
    }
}

async fn read_under_way(tx: &Tx) -> Result<UnderWay, StoreError> {
    let mut under_way = UnderWay::default();
    for row in tx.query(ESCROWED, &[]).await? {
        let key = (AccountId::from_uuid(row.try_get("debtor_account")?), currency(row.try_get("currency")?)?);
        under_way.escrowed.insert(key, row.try_get::<_, i64>("amount")?.into());
    }
    for row in tx.query(RECEIVABLE, &[]).await? {
        let participant = ParticipantId::from_uuid(row.try_get("debtor_participant")?);
        let key = (participant, currency(row.try_get("currency")?)?);
        under_way.receivable.insert(key, row.try_get::<_, i64>("amount")?.into());
    }
    Ok(under_way)
}

/// Lets the core decide what the orchestrator has not read yet, on copies, and counts what it would post.
async fn read_unread(
    tx: &Tx,
    books: &mut Books,
    under_way: &mut UnderWay,
    now: Timestamp,
) -> Result<usize, StoreError> {
    let rows = tx.query(UNREAD, &[&UNREAD_MAX]).await?;
    if i64::try_from(rows.len()).unwrap_or(i64::MAX) >= UNREAD_MAX {
        return Err(StoreError::Busy);
    }
    let events: Vec<LoggedEvent> = rows.iter().map(LoggedEvent::from_row).collect::<Result<_, _>>()?;
    let keys: Vec<Uuid> = events.iter().map(|event| event.key.as_uuid()).collect();
    let mut payments: HashMap<PaymentId, Payment> = read_payments(tx, &keys)
        .await?
        .into_iter()
        .map(|stored| (stored.payment.terms.id, stored.payment))
        .collect();
    for event in &events {
        let decoded = observation::decode(&event.kind, &event.data);
        let (Some(payment), Some(decoded)) = (payments.get_mut(&event.key), decoded) else { continue };
        let Ok(step) = step(payment, decoded, now) else { continue };
        step.entries.iter().for_each(|entry| books.post(entry));
        under_way.count(payment, -1);
        payment.progress = step.next;
        under_way.count(payment, 1);
    }
    Ok(events.len())
}

async fn read_payments(tx: &Tx, ids: &[Uuid]) -> Result<Vec<StoredPayment>, StoreError> {
    tx.query(READ_PAYMENTS, &[&ids]).await?.iter().map(StoredPayment::from_row).collect()
}

/// Where the tokens of a currency are, in token units: what is moved past us need not be whole minor units.
#[derive(Debug, Default)]
struct Places {
    /// Everywhere.
    supply: i128,
    /// With the settlement manager.
    manager: i128,
    /// There, because their wallets cannot receive them: each wallet's all the same.
    quarantined: i128,
    /// In the wallet that fees go to.
    house: i128,
    /// In wallets that no account stands for.
    strangers: i128,
    /// What the other wallets have beyond whole minor units.
    fractions: i128,
}

async fn compare_with_chain(
    tx: &Tx,
    books: &Books,
    escrowed: &HashMap<(AccountId, Currency), i128>,
) -> Result<Vec<Line>, StoreError> {
    let mut lines = Vec::new();
    let mut by_currency: BTreeMap<Currency, Places> = BTreeMap::new();
    let mut by_participant: BTreeMap<(ParticipantId, Currency), (i128, i128)> = BTreeMap::new();
    for row in tx.query(CHAIN_WALLETS, &[]).await? {
        let currency = currency(row.try_get("currency")?)?;
        let per_minor_unit = units_per_minor_unit(currency, row.try_get("token_decimals")?)?;
        let units = i128::from(row.try_get::<_, i64>("units")?);
        let quarantined = i128::from(row.try_get::<_, i64>("quarantined")?);
        let owned = units + quarantined;
        let places = by_currency.entry(currency).or_default();
        places.supply += units;
        places.quarantined += quarantined;
        if row.try_get::<_, bool>("is_manager")? {
            places.manager += units;
        } else if row.try_get::<_, bool>("is_house")? {
            places.house += owned;
            places.fractions += owned.rem_euclid(per_minor_unit);
        } else if let Some(participant) = row.try_get::<_, Option<Uuid>>("participant_id")? {
            let key = (ParticipantId::from_uuid(participant), currency);
            by_participant.entry(key).or_default().1 += owned.div_euclid(per_minor_unit);
            places.fractions += owned.rem_euclid(per_minor_unit);
        } else {
            places.strangers += owned;
        }
    }
    let participants: HashMap<AccountId, ParticipantId> = tx
        .query(ACCOUNT_PARTICIPANTS, &[])
        .await?
        .iter()
        .map(|row| {
            let account = AccountId::from_uuid(row.try_get("id")?);
            Ok((account, ParticipantId::from_uuid(row.try_get("participant_id")?)))
        })
        .collect::<Result<_, StoreError>>()?;
    for (account, currency) in books.debits.keys() {
        let LedgerAccount::Wallet(id) = account else { continue };
        let Some(participant) = participants.get(id) else { continue };
        by_participant.entry((*participant, *currency)).or_default().0 += books.balance(account, *currency);
    }
    for ((account, currency), amount) in escrowed {
        let Some(participant) = participants.get(account) else { continue };
        by_participant.entry((*participant, *currency)).or_default().0 -= amount;
    }
    for ((participant, currency), (ledger, other)) in by_participant {
        lines.push(Line { what: format!("wallets of {participant}"), currency, ledger, other, bank: None });
    }

    for row in tx.query(CHAIN_TOTALS, &[]).await? {
        let currency = currency(row.try_get("currency")?)?;
        let per_minor_unit = units_per_minor_unit(currency, row.try_get("token_decimals")?)?;
        let escrowed_units = i128::from(row.try_get::<_, i64>("escrowed")?);
        let redemption_units = i128::from(row.try_get::<_, i64>("redemption")?);
        let places = by_currency.remove(&currency).unwrap_or_default();
        // What the manager holds for nobody came to it past us.
        let stray = (places.manager - escrowed_units - redemption_units).max(0);
        let line = |what: &str, ledger, units: i128| Line {
            what: what.to_owned(),
            currency,
            ledger,
            other: units.div_euclid(per_minor_unit),
            bank: None,
        };
        let in_escrow: i128 =
            escrowed.iter().filter(|((_, of), _)| *of == currency).map(|(_, amount)| *amount).sum();
        let in_escrow = in_escrow + places.quarantined.div_euclid(per_minor_unit);
        let redemption = books.sum(currency, |account| matches!(account, LedgerAccount::Redemption(_)))
            + books.balance(&LedgerAccount::BurnPending, currency);
        let wallets = books.sum(currency, |account| {
            matches!(account, LedgerAccount::Wallet(_) | LedgerAccount::WalletHouse | LedgerAccount::Suspense)
        });
        let suspense = places.strangers + places.fractions + stray;
        lines.push(line("escrow", in_escrow, escrowed_units));
        lines.push(line("redemption", redemption, redemption_units));
        lines.push(line("house", books.balance(&LedgerAccount::WalletHouse, currency), places.house));
        lines.push(line("suspense", books.balance(&LedgerAccount::Suspense, currency), suspense));
        lines.push(line("held by the settlement manager", in_escrow + redemption, places.manager - stray));
        lines.push(line("supply", wallets + redemption, places.supply));
    }
    Ok(lines)
}

fn compare_receivables(books: &Books, under_way: &UnderWay) -> Vec<Line> {
    let accounts = books.debits.keys().filter_map(|(account, currency)| match account {
        LedgerAccount::BankReceivable(participant) => Some((account, *participant, *currency)),
        LedgerAccount::Reserve(_)
        | LedgerAccount::Wallet(_)
        | LedgerAccount::WalletHouse
        | LedgerAccount::Redemption(_)
        | LedgerAccount::BurnPending
        | LedgerAccount::BurnOutstanding
        | LedgerAccount::Loss(_)
        | LedgerAccount::Suspense
        | LedgerAccount::BankSuspense(_)
        | LedgerAccount::BankCharges(_) => None,
    });
    accounts
        .map(|(account, participant, currency)| Line {
            what: format!("receivable from {participant}, by live holds"),
            currency,
            ledger: books.balance(account, currency),
            other: under_way.receivable.get(&(participant, currency)).copied().unwrap_or(0),
            bank: None,
        })
        .collect()
}

async fn bank_side(tx: &Tx, bank: &BankCode, as_of: Timestamp) -> Result<BankSide, StoreError> {
    let unresolved = tx.query(UNRESOLVED, &[&bank.as_str()]).await?;
    let later = tx.query(BOOKED_AFTER, &[&bank.as_str(), &At(as_of)]).await?;
    Ok(BankSide { unresolved: movements(tx, &unresolved).await?, later: movements(tx, &later).await? })
}

async fn movements(tx: &Tx, rows: &[tokio_postgres::Row]) -> Result<Vec<BankMovement>, StoreError> {
    let ids: Vec<Uuid> =
        rows.iter().map(|row| Ok(row.try_get("payment_id")?)).collect::<Result<_, StoreError>>()?;
    let payments: HashMap<Uuid, StoredPayment> = read_payments(tx, &ids)
        .await?
        .into_iter()
        .map(|stored| (stored.payment.terms.id.as_uuid(), stored))
        .collect();
    let mut found = Vec::new();
    for row in rows {
        let Some(stored) = payments.get(&row.try_get("payment_id")?) else { continue };
        let terms = &stored.payment.terms;
        let kind: &str = row.try_get("kind")?;
        let step = BankStep::parse(kind)
            .ok_or_else(|| StoreError::Corrupt(format!("a bank effect of kind {kind}")))?;
        let change = match step {
            BankStep::Capture => terms.amount.minor_units(),
            BankStep::Credit => -(terms.amount.minor_units() - terms.fee.minor_units()),
            // Only of captured funds: a return.
            BankStep::Release => -terms.amount.minor_units(),
            BankStep::PlaceHold => continue,
        };
        found.push(BankMovement {
            key: OperationKey { payment_id: terms.id, step },
            change: Money::new(change, terms.amount.currency()),
        });
    }
    Ok(found)
}

fn currency(code: &str) -> Result<Currency, StoreError> {
    Currency::parse(code).map_err(|_| StoreError::Corrupt(format!("currency {code}")))
}
