//! What we send to the chain and what we have seen of it.
//!
//! Sending: an intention (calldata, and which payments it carries in which place) is durable before it takes a nonce, and its
//! signed bytes are durable before they are broadcast; every version ever signed is kept, because any of them may be
//! included. Seeing: a range of blocks is taken in by one transaction, with its logs, the observations that are final
//! enough to announce, the wallets' balances and the cursor. A lane of sending and the watcher each have one holder at a time,
//! by lease and epoch.

pub(crate) mod holes;
pub(crate) mod intend;
pub(crate) mod l1;
pub(crate) mod lanes;
pub(crate) mod logs;
pub(crate) mod send;
pub(crate) mod watch;

pub use holes::{Counts, Filled, Hole, compare_counts, count_holes, fill, holes, known_logs, take_gaps_over};
pub use intend::{
    Due, DueInitiation, DueOnLeaf, Intention, Leaf, claim_initiations, claim_on_leaves, due, intend,
    leaves_of, read_batches, roots_of,
};
pub use l1::{L1Block, blocks_on_their_way, save_l1_blocks};
pub use lanes::{
    LaneLease, fillers, guard_lane, lease_lane, rekey_lane, release_lane, save_filler, set_nonce,
};
pub use logs::{Said, SeenLog};
pub use send::{
    OpenTx, Signature, TxBody, TxFate, TxState, Version, follow_included, give_up, open_txs, postpone,
    refuse_initiation, refuse_unsent, save_fates, save_signatures, still_asked, take_nonces, tx_bodies,
    tx_payments, unsign,
};
pub use watch::{
    Block, Head, Stretch, TakenIn, WatcherLease, blocks_with_logs, head, known_blocks, lease_watcher,
    release_watcher, rewind, take_in,
};

use crate::db::{Db, StoreError};
use crate::sql::statements;
use flowbridge_domain::money::{Currency, Money};
use flowbridge_domain::party::EvmAddress;
use tokio_postgres::Row;

statements! {
    SAVE_CONTRACT = "insert into chain_contract (currency, token, token_decimals, router, manager, house)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (currency) do update set token = excluded.token, token_decimals = excluded.token_decimals,
            router = excluded.router, manager = excluded.manager, house = excluded.house";
}

/// What a lane does: a role of its own on chain, so that no key can do another's work there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Duty {
    /// Opens payments.
    Initiator,
    /// Settles, burns, releases.
    Settler,
    /// Cancels.
    Canceller,
}

impl Duty {
    /// Every duty.
    pub const ALL: [Self; 3] = [Self::Initiator, Self::Settler, Self::Canceller];
}

/// One key's line of transactions. Lanes of the same duty share its work: nonces are in order within a lane, so one that waits
/// holds up no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    duty: Duty,
    place: u8,
}

/// Lanes of one duty at most.
pub const LANES_PER_DUTY_MAX: u8 = 8;

impl Lane {
    /// The first lane of a duty.
    pub const fn first(duty: Duty) -> Self {
        Self { duty, place: 1 }
    }

    /// The lanes that a duty can have, in their order.
    pub fn of(duty: Duty) -> impl Iterator<Item = Self> {
        (1..=LANES_PER_DUTY_MAX).map(move |place| Self { duty, place })
    }

    /// What it does.
    pub const fn duty(self) -> Duty {
        self.duty
    }

    /// The name in tables, metrics and key files: `settler`, `settler-2`.
    pub fn as_str(self) -> &'static str {
        const NAMES: [[&str; LANES_PER_DUTY_MAX as usize]; 3] = [
            [
                "initiator",
                "initiator-2",
                "initiator-3",
                "initiator-4",
                "initiator-5",
                "initiator-6",
                "initiator-7",
                "initiator-8",
            ],
            [
                "settler",
                "settler-2",
                "settler-3",
                "settler-4",
                "settler-5",
                "settler-6",
                "settler-7",
                "settler-8",
            ],
            [
                "canceller",
                "canceller-2",
                "canceller-3",
                "canceller-4",
                "canceller-5",
                "canceller-6",
                "canceller-7",
                "canceller-8",
            ],
        ];
        let names = match self.duty {
            Duty::Initiator => &NAMES[0],
            Duty::Settler => &NAMES[1],
            Duty::Canceller => &NAMES[2],
        };
        // The place is made by this type alone, and within the table.
        names.get(usize::from(self.place) - 1).copied().unwrap_or(names[0])
    }

    /// Reads the name.
    pub fn parse(text: &str) -> Option<Self> {
        Duty::ALL.into_iter().flat_map(Self::of).find(|lane| lane.as_str() == text)
    }
}

/// Our contracts of one currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contracts {
    /// The currency.
    pub currency: Currency,
    /// `TokenizedCash`.
    pub token: EvmAddress,
    /// Its decimals.
    pub token_decimals: u8,
    /// `PaymentRouter`.
    pub router: EvmAddress,
    /// `SettlementManager`.
    pub manager: EvmAddress,
    /// Where fees go.
    pub house: EvmAddress,
}

/// Makes our contracts known, from the deployment record.
pub async fn save_contracts(db: &Db, contracts: &Contracts) -> Result<(), StoreError> {
    let address = |address: &EvmAddress| address.as_bytes().to_vec();
    db.query(
        SAVE_CONTRACT,
        &[
            &contracts.currency.code(),
            &address(&contracts.token),
            &i16::from(contracts.token_decimals),
            &address(&contracts.router),
            &address(&contracts.manager),
            &address(&contracts.house),
        ],
    )
    .await?;
    Ok(())
}

/// How many token units are one minor unit.
pub(crate) fn units_per_minor_unit(currency: Currency, token_decimals: i16) -> Result<i128, StoreError> {
    u8::try_from(token_decimals)
        .ok()
        .and_then(|decimals| Money::new(1, currency).to_token_units(decimals).ok())
        .and_then(|units| i128::try_from(units).ok())
        .ok_or_else(|| StoreError::Corrupt(format!("a token of {currency} with {token_decimals} decimals")))
}

fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| if half < 10 { b'0' + half } else { b'a' + half - 10 };
    let mut text = Vec::with_capacity(2 + 2 * bytes.len());
    text.extend_from_slice(b"0x");
    for byte in bytes {
        text.extend_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    String::from_utf8(text).unwrap_or_default()
}

fn number(value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Corrupt(format!("{value} is beyond what a column holds")))
}

fn unsigned(value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::Corrupt(format!("{value} where nothing is negative")))
}

fn address(row: &Row, column: &str) -> Result<EvmAddress, StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    let bytes = bytes.try_into().map_err(|_| StoreError::Corrupt(format!("the address in {column}")))?;
    Ok(EvmAddress::from_bytes(bytes))
}

fn hash(row: &Row, column: &str) -> Result<[u8; 32], StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    bytes.try_into().map_err(|_| StoreError::Corrupt(format!("the hash in {column}")))
}
