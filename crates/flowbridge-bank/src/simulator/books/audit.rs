//! What the books say about themselves, and what they may forget.

use super::records::{Account, Hold, Status, currency_of, key_bytes, own_account, payment_of};
use super::{Books, Result};
use crate::connector::OwnAccount;
use flowbridge_domain::bank::{BankStep, HoldMode, OperationKey};
use redb::{ReadableTable as _, ReadableTableMetadata as _};
use serde::Serialize;
use std::collections::BTreeMap;

/// What the books say about themselves.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Audit {
    /// Nothing is wrong.
    pub(crate) sound: bool,
    /// What is wrong.
    pub(crate) findings: Vec<String>,
    /// Per currency: the sum of all accounts, and of all deposits.
    pub(crate) totals: BTreeMap<String, AuditTotals>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct AuditTotals {
    pub(crate) accounts: i128,
    pub(crate) deposits: i128,
    pub(crate) held: i128,
}

impl Books<'_> {
    /// Do the accounts add up to the deposits, and the holds to what is held?
    pub(crate) fn audit(&self) -> Result<Audit> {
        let mut totals: BTreeMap<String, AuditTotals> = BTreeMap::new();
        let mut findings = Vec::new();
        let mut held: BTreeMap<String, i128> = BTreeMap::new();
        let mut escrowed: BTreeMap<[u8; 3], i128> = BTreeMap::new();
        for row in self.holds.iter()? {
            let hold: Hold = postcard::from_bytes(row?.1.value())?;
            if hold.status == Status::Active {
                *held.entry(hold.account).or_default() += hold.amount;
                *escrowed.entry(hold.currency).or_default() += hold.amount;
            }
        }
        for row in self.accounts.iter()? {
            let (id, bytes) = row?;
            let account: Account = postcard::from_bytes(bytes.value())?;
            let total = totals.entry(account.currency()?.code().to_owned()).or_default();
            total.accounts += account.posted;
            total.held += account.held;
            if account.posted < 0 || account.held < 0 || account.available() < 0 {
                findings.push(format!("account {} is overdrawn", id.value()));
            }
            let expected = match (self.rules.hold_mode, own_account(id.value())) {
                (HoldMode::Native, None) => held.get(id.value()).copied().unwrap_or(0) == account.held,
                (HoldMode::Escrow, Some(OwnAccount::Escrow)) => {
                    escrowed.get(&account.currency).copied().unwrap_or(0) == account.posted
                }
                (HoldMode::Native, Some(_)) | (HoldMode::Escrow, _) | (HoldMode::ConfirmOnly, _) => {
                    account.held == 0
                }
            };
            if !expected {
                findings.push(format!("account {} disagrees with its holds", id.value()));
            }
        }
        for row in self.deposits.iter()? {
            let (_, amount, code): (String, i128, [u8; 3]) = postcard::from_bytes(row?.1.value())?;
            totals.entry(currency_of(code)?.code().to_owned()).or_default().deposits += amount;
        }
        for (currency, total) in &totals {
            if total.accounts != total.deposits {
                findings.push(format!(
                    "{currency}: accounts hold {}, deposits were {}",
                    total.accounts, total.deposits
                ));
            }
        }
        Ok(Audit { sound: findings.is_empty(), findings, totals })
    }

    /// Forgets the oldest resolved payments and statement entries beyond what is kept. A few at a time: called often.
    pub(crate) fn forget(&mut self) -> Result<()> {
        /// More than one slice adds, so that what is kept stays bounded.
        const FORGET_MAX: usize = 4_096;
        let mut excess = self.operations.len()?.saturating_sub(self.rules.operations_kept_max);
        // Not for every single one too many: finding them costs a look at those that may not be forgotten yet.
        if excess >= 1_024 {
            let mut payments: Vec<[u8; 16]> = Vec::new();
            for row in self.operations.iter()?.take(FORGET_MAX) {
                let [payment @ .., _] = row?.0.value();
                if payments.last() != Some(&payment) {
                    payments.push(payment);
                }
            }
            for payment in payments {
                if excess == 0 {
                    break;
                }
                excess = excess.saturating_sub(self.forget_payment(payment)?);
            }
        }
        let excess = self.entries.len()?.saturating_sub(self.rules.entries_kept_max);
        for _ in 0..usize::try_from(excess).unwrap_or(FORGET_MAX).min(FORGET_MAX) {
            let forgotten = self.entries.pop_first()?.map(|(sequence, _)| sequence.value());
            if let Some(sequence) = forgotten {
                self.notes.remove(sequence)?;
            }
            self.changed = true;
        }
        Ok(())
    }

    /// Unless something of the payment is still open. Gives the number of operations forgotten.
    fn forget_payment(&mut self, payment: [u8; 16]) -> Result<u64> {
        let keys =
            BankStep::ALL.map(|step| key_bytes(OperationKey { payment_id: payment_of(payment), step }));
        if self.hold(payment)?.is_some_and(|hold| hold.status == Status::Active) {
            return Ok(0);
        }
        for key in keys {
            if self.operation(key)?.is_some_and(|record| record.deferred.is_some()) {
                return Ok(0);
            }
        }
        let mut forgotten = 0;
        for key in keys {
            forgotten += u64::from(self.operations.remove(key)?.is_some());
        }
        self.holds.remove(payment)?;
        self.changed = true;
        Ok(forgotten)
    }
}
