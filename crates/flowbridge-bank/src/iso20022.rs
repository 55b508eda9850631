//! ISO 20022 messages that customers and banks send us.
//!
//! The reader is tolerant of what it does not need (other elements are skipped) and strict with what it takes: amounts are
//! read from text without rounding, the namespace decides the version, and nothing in a file can make it use more
//! memory than the file's own size allows (see `xml`).

mod pain001;
mod xml;

pub use pain001::{
    CreditTransferInitiation, GroupHeader, Pain001Version, PartyDetails, PaymentInstruction, RefusedEntry,
    TRANSACTIONS_MAX, Totals, read_pain001,
};
pub use xml::{FileProblem, ReadFileError};
