//! A payment and the one function that decides about it.
//!
//! [`step`] takes a payment and one thing that happened; it gives the next [`Progress`], the journal entries and the
//! effects to carry out, or says why nothing changes. It is total: every state meets every event in a named arm, so a new
//! state or event does not compile until each of its cells has been thought about.
//!
//! A decision has two halves. First the *facts* ([`Legs::learn`]): what the chain or a bank says happened moves the leg it
//! belongs to and is posted to the ledger, whatever state the payment is in, because money that moved has moved. Then the
//! *lifecycle*: given those legs, where does the payment go, and what is asked for next.
//!
//! What it promises, for any order, loss and repetition of events: entries balance and none is posted twice in a
//! round; a hold is resolved at most once; a payment that ended stays so unless the chain contradicts it, and then a
//! person is asked; the chain, not we, decides between settlement and cancellation.

mod legs;
mod lifecycle;
mod reason;

pub use legs::{ChainLeg, HoldLeg, Legs, PayoutLeg};
pub use lifecycle::{accept, step};
pub use reason::{EndReason, ReviewReason};

use crate::bank::{BankStep, HoldMode, ReasonCode};
use crate::id::{AccountId, ParticipantId, PaymentId};
use crate::ledger::{JournalEntry, LedgerHold};
use crate::money::Money;
use crate::party::BankCode;
use crate::time::Timestamp;

/// The dense number of a payment: unique for ever in our database and in the contracts' status bitmap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PaymentNumber(pub u64);

/// What a payment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One customer pays another.
    Transfer,
    /// A creditor gives back all or part of an earlier payment.
    Refund {
        /// The payment that is refunded.
        of: PaymentId,
    },
    /// Bank money becomes tokenized cash of the same holder.
    Issuance,
    /// Tokenized cash becomes bank money of the same holder.
    Redemption,
}

impl Kind {
    /// The name in tables and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transfer => "transfer",
            Self::Refund { .. } => "refund",
            Self::Issuance => "issuance",
            Self::Redemption => "redemption",
        }
    }
}

/// Where the money comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Funding {
    /// A hold on the debtor's bank account, captured; tokens are minted at settlement.
    Bank,
    /// Tokenized cash that the debtor owns, in escrow on chain from initiation on.
    Token,
}

/// Where the money goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Payout {
    /// Into the creditor's wallet.
    Token,
    /// Into redemption escrow; the creditor's bank is credited, then the tokens are burned.
    Bank,
}

macro_rules! bank_or_token {
    ($name:ident) => {
        impl $name {
            /// The name in tables and on the wire.
            pub const fn as_str(self) -> &'static str {
                match self {
                    Self::Bank => "bank",
                    Self::Token => "token",
                }
            }

            /// Reads the name.
            pub fn parse(text: &str) -> Option<Self> {
                [Self::Bank, Self::Token].into_iter().find(|side| side.as_str() == text)
            }
        }
    };
}
bank_or_token!(Funding);
bank_or_token!(Payout);

/// One end of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The customer account.
    pub account: AccountId,
    /// The institution it is with.
    pub participant: ParticipantId,
    /// The bank that keeps its bank account.
    pub bank: BankCode,
}

/// What was agreed when the payment was accepted. Never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Our id, also the random id on chain.
    pub id: PaymentId,
    /// Its number on chain.
    pub number: PaymentNumber,
    /// What it is for.
    pub kind: Kind,
    /// Where the money comes from.
    pub funding: Funding,
    /// Where it goes.
    pub payout: Payout,
    /// What the debtor pays.
    pub amount: Money,
    /// What of it we keep; the creditor gets the rest.
    pub fee: Money,
    /// Who pays.
    pub debtor: Party,
    /// Who is paid.
    pub creditor: Party,
    /// How the debtor's bank reserves funds.
    pub hold_mode: HoldMode,
    /// Not before this instant (a requested execution date in the future).
    pub execute_at: Timestamp,
    /// The contract initiates strictly before this block time.
    pub initiate_before: Timestamp,
    /// From here on we send no settlement: what is left until `expires_at` is for one that is under way.
    pub settle_before: Timestamp,
    /// The contract settles strictly before this block time, and lets anyone cancel from it on.
    pub expires_at: Timestamp,
    /// The bank's hold has to last at least until then, else we do not settle.
    pub hold_until: Timestamp,
}

/// Where a payment stands. Each is entered at most once per life, but for a reorganisation or a review.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Durable; initiation on chain is asked for.
    Accepted,
    /// `PaymentInitiated` is final enough; the bank hold is asked for.
    Initiated,
    /// Funds are reserved; settlement on chain is asked for.
    Held,
    /// `PaymentSettled` is final enough; capture and payout are under way.
    Settled,
    /// To be undone: first on chain, then at the bank.
    Cancelling(EndReason),
    /// All is done.
    Completed,
    /// Nothing moved, and nothing will.
    Failed(EndReason),
    /// A person has to decide.
    UnderReview(ReviewReason),
}

impl State {
    /// The name in tables, events and on the wire; reasons stand beside it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Initiated => "initiated",
            Self::Held => "held",
            Self::Settled => "settled",
            Self::Cancelling(_) => "cancelling",
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
            Self::UnderReview(_) => "under_review",
        }
    }

    /// The reason's text form, where the state has one.
    pub fn reason(self) -> Option<String> {
        match self {
            Self::Accepted | Self::Initiated | Self::Held | Self::Settled | Self::Completed => None,
            Self::Cancelling(reason) | Self::Failed(reason) => Some(reason.to_string()),
            Self::UnderReview(reason) => Some(reason.as_str().to_owned()),
        }
    }

    /// Puts name and reason together again.
    pub fn parse(name: &str, reason: Option<&str>) -> Option<Self> {
        match (name, reason) {
            ("accepted", None) => Some(Self::Accepted),
            ("initiated", None) => Some(Self::Initiated),
            ("held", None) => Some(Self::Held),
            ("settled", None) => Some(Self::Settled),
            ("completed", None) => Some(Self::Completed),
            ("cancelling", Some(reason)) => EndReason::parse(reason).map(Self::Cancelling),
            ("failed", Some(reason)) => EndReason::parse(reason).map(Self::Failed),
            ("under_review", Some(reason)) => ReviewReason::parse(reason).map(Self::UnderReview),
            _ => None,
        }
    }

    /// Completed or failed: nothing more is asked for.
    pub const fn is_terminal(self) -> bool {
        match self {
            Self::Completed | Self::Failed(_) => true,
            Self::Accepted
            | Self::Initiated
            | Self::Held
            | Self::Settled
            | Self::Cancelling(_)
            | Self::UnderReview(_) => false,
        }
    }
}

/// All of a payment that changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Progress {
    /// Where it stands.
    pub state: State,
    /// What is known of chain, hold and payout.
    pub legs: Legs,
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// What was agreed.
    pub terms: Terms,
    /// How far it is.
    pub progress: Progress,
}

/// Why the chain set an item aside or we could not send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SetAside {
    /// The debtor's tokens or allowance do not cover it.
    NotFunded,
    /// A wallet is frozen.
    Frozen,
    /// A wallet is not registered.
    Unregistered,
    /// The authorisation that came with the payment is not valid.
    Unauthorized,
    /// The contracts do not accept it for another reason.
    Invalid,
}

/// What a contract said about this payment, final enough for policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChainLog {
    /// Open on chain; token funding: in escrow.
    Initiated,
    /// Closed at initiation: it could not be funded.
    InitiationSetAside(SetAside),
    /// Paid on chain.
    Settled,
    /// Left open at settlement: the creditor cannot receive.
    SettlementSetAside(SetAside),
    /// Closed by cancellation or expiry; an escrow went back.
    Cancelled,
    /// Closed by the debtor after expiry; the escrow went back.
    Reclaimed,
    /// The tokens of a bank payout are burned.
    RedemptionBurned,
    /// The tokens of a declined bank payout went to the creditor's wallet.
    RedemptionReleased,
}

/// Whether a signed transaction that initiates the payment may exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Initiation {
    /// None was ever signed, and the request for one has been taken back in the same transaction.
    NeverSigned,
    /// One may be under way.
    MaybeSigned,
}

/// A person's decision on a payment under review, approved and audited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Decision {
    /// Go on from where the legs stand. A bank that had refused is asked again; a creditor is paid although the debtor's bank had declined.
    Resume,
    /// Undo it on chain and at the bank.
    Cancel,
    /// Dealt with by hand; count it as completed.
    CloseCompleted,
    /// Dealt with by hand; count it as failed. What the chain has in escrow for it is given back, what a bank holds is not.
    CloseFailed,
}

/// One thing that happened to a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The client, or an operator, wants it undone.
    CancelRequested {
        /// What is known of its initiation.
        initiation: Initiation,
    },
    /// A finalized block's time has reached `initiate_before`: what is not initiated never will be.
    InitiateWindowClosed,
    /// `expires_at` is so near that no settlement is sent any more. A completed payment whose settlement a reorganisation took back
    /// is told when a finalized block's time has reached `expires_at`: what is not settled again never will be.
    SettleWindowClosing,
    /// A contract's log, at policy finality.
    Chain(ChainLog),
    /// A reorganisation took such a log back.
    ChainRemoved(ChainLog),
    /// Initiation was refused in simulation and never signed.
    InitiationRefused(SetAside),
    /// The bank reserved the funds, until the instant given; with a confirm-only bank: it confirmed them.
    HoldPlaced {
        /// When the bank lets go of them by itself.
        until: Timestamp,
    },
    /// The bank will not reserve.
    HoldDeclined(ReasonCode),
    /// The bank let go of the hold before we resolved it.
    HoldExpired,
    /// The bank took the funds for us.
    Captured,
    /// The bank will not.
    CaptureDeclined(ReasonCode),
    /// The hold is gone (or the captured funds are back); none can be placed any more.
    Released,
    /// The creditor's bank paid the creditor.
    Credited,
    /// It will not.
    CreditDeclined(ReasonCode),
    /// The bank neither does what it was asked for nor says that it will not: people have to find out why.
    BankRefused(BankStep),
    /// A person decided.
    Reviewed(Decision),
}

/// Something outside that a step asks for. Asked for under the payment's id and its own name, hence once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effect {
    /// Open the payment on chain.
    InitiateOnChain,
    /// Settle it on chain.
    SettleOnChain,
    /// Close it on chain.
    CancelOnChain,
    /// Burn the tokens of a finished bank payout.
    BurnRedeemed,
    /// Give the tokens of a declined bank payout to the creditor's wallet.
    ReleaseRedemption,
    /// Ask a bank.
    Bank(BankStep),
}

impl Effect {
    /// Every effect.
    pub const ALL: [Self; 9] = [
        Self::InitiateOnChain,
        Self::SettleOnChain,
        Self::CancelOnChain,
        Self::BurnRedeemed,
        Self::ReleaseRedemption,
        Self::Bank(BankStep::PlaceHold),
        Self::Bank(BankStep::Capture),
        Self::Bank(BankStep::Release),
        Self::Bank(BankStep::Credit),
    ];

    /// The name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InitiateOnChain => "initiate",
            Self::SettleOnChain => "settle",
            Self::CancelOnChain => "cancel",
            Self::BurnRedeemed => "burn",
            Self::ReleaseRedemption => "release_redemption",
            Self::Bank(step) => step.as_str(),
        }
    }

    /// Reads the name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|effect| effect.as_str() == text)
    }
}

/// What one event does to one payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Where the payment is now.
    pub next: Progress,
    /// The states that were entered, in order; empty when only a leg moved. Each is an event for the partners.
    pub entered: Vec<State>,
    /// What to post.
    pub entries: Vec<JournalEntry>,
    /// What becomes of the debtor's reserved tokens in the ledger.
    pub hold: Option<LedgerHold>,
    /// What to ask the outside for.
    pub effects: Vec<Effect>,
    /// The debtor's institution is not to pay any more until a person lifts it: its bank declined a capture.
    pub suspends_debtor: bool,
}

/// Why an event changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    /// It has been taken into account before, or makes no difference.
    #[error("already known")]
    Repeat,
    /// It came after the payment was past it: a cancellation of what is settled, a timer of what has ended.
    #[error("the payment is past that")]
    TooLate,
    /// It makes no sense for this payment: a person's decision where nothing is under review.
    #[error("not possible for this payment")]
    NotApplicable,
}
