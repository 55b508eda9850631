//! Who takes part in a benchmark: two institutions with five hundred customers each, some without money, some with a slow bank.

use super::stack::Stack;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::dev::stage;
use anyhow::{Context as _, Result, ensure};
use flowbridge_domain::id::{AccountId, ParticipantId};
use flowbridge_domain::money::Currency;
use flowbridge_domain::party::{BankCode, EvmAddress, Iban};
use flowbridge_domain::time::{Clock as _, Timestamp};
use flowbridge_security::scope::Scope;
use flowbridge_security::sha256;
use flowbridge_store::party::{self, Account, Participant};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use std::time::Duration;

/// The currency of all payments.
pub(super) const CURRENCY: &str = "EUR";
/// The institutions, whose client profiles have their names.
pub(super) const PARTICIPANTS: [&str; 2] = ["bench-east", "bench-west"];
/// Accounts of each institution.
pub(super) const ACCOUNTS_EACH: usize = 500;
/// Of those, accounts that their bank has no money on: a hold on them is declined.
pub(super) const POOR_EACH: usize = 25;
/// Of those, accounts whose holds are decided late.
pub(super) const SLOW_EACH: usize = 5;
/// How late.
pub(super) const SLOW_HOLD: Duration = Duration::from_secs(2);

/// What is on each account's bank account on the first day, in minor units.
const OPENING: i64 = 100_000_000_000;
/// Calls to the bank simulator's administration under way at the same time.
const CALLS_MAX: usize = 64;

/// What is to be expected of payments from an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// They are carried out.
    Rich,
    /// Their bank declines.
    Poor,
    /// Their bank takes its time.
    Slow,
}

/// The kind of an institution's `n`th account.
pub(super) const fn kind(n: usize) -> Kind {
    if n < POOR_EACH {
        Kind::Poor
    } else if n < POOR_EACH + SLOW_EACH {
        Kind::Slow
    } else {
        Kind::Rich
    }
}

/// The IBAN of an institution's `n`th account.
pub(super) fn iban(participant: usize, n: usize) -> String {
    // A German IBAN of a bank code that no bank has; letters count as numbers, D as 13 and E as 14.
    let account = format!("{:08}{:010}", 99_999_000 + participant, n);
    let remainder =
        format!("{account}131400").bytes().fold(0u64, |sum, digit| (sum * 10 + u64::from(digit - b'0')) % 97);
    format!("DE{:02}{account}", 98 - remainder)
}

/// The ids of the institutions.
pub(super) fn participants() -> [ParticipantId; 2] {
    PARTICIPANTS.map(stage::participant_id)
}

/// Registers institutions, accounts, wallets and clients, and opens the bank accounts. What is there stays.
pub(super) async fn register(stack: &Stack, with_banks: bool) -> Result<()> {
    let config = &stack.config;
    let banks: Vec<BankCode> =
        config.bank.connectors.iter().map(|bank| Ok(BankCode::parse(&bank.code)?)).collect::<Result<_>>()?;
    ensure!(!banks.is_empty(), "no bank is configured");
    register_parties(stack, &banks).await?;
    let wallets: Vec<EvmAddress> = everyone().map(|(participant, n)| wallet(participant, n)).collect();
    stage::register_wallets(config, CURRENCY, &wallets).await?;
    let scopes: Vec<Scope> = Scope::ALL.iter().filter(|scope| scope.is_for_participants()).copied().collect();
    for name in PARTICIPANTS {
        let participant = Some(stage::participant_id(name));
        stage::register_profile(config, &stack.db, &stack.folder, name, participant, scopes.clone()).await?;
    }
    if with_banks { open_bank_accounts(config, &banks).await } else { Ok(()) }
}

fn everyone() -> impl Iterator<Item = (usize, usize)> {
    (0..PARTICIPANTS.len()).flat_map(|participant| (0..ACCOUNTS_EACH).map(move |n| (participant, n)))
}

/// Nobody has the key: it only receives.
fn wallet(participant: usize, n: usize) -> EvmAddress {
    let digest = sha256(iban(participant, n).as_bytes());
    let mut address = [0; 20];
    address.iter_mut().zip(digest).for_each(|(place, byte)| *place = byte);
    EvmAddress::from_bytes(address)
}

fn bank_of(banks: &[BankCode], participant: usize) -> Result<&BankCode> {
    banks.get(participant % banks.len()).context("no bank is configured")
}

async fn register_parties(stack: &Stack, banks: &[BankCode]) -> Result<()> {
    let now = SystemClock.now();
    // The banks of the configuration, before a role has made them known.
    for section in &stack.config.bank.connectors {
        let hold_mode =
            flowbridge_store::payment::parse_hold_mode(&section.hold_mode).context("a hold mode")?;
        party::save_bank(&stack.db, &BankCode::parse(&section.code)?, &section.name, hold_mode, now).await?;
    }
    let tx = stack.db.begin().await?;
    for name in PARTICIPANTS {
        let participant = Participant {
            id: stage::participant_id(name),
            name: name.to_owned(),
            lei: None,
            active: true,
            status_reason: None,
            fee_basis_points: 0,
            created_at: now,
        };
        party::add_participant(&tx, &participant).await?;
    }
    for (participant, n) in everyone() {
        let iban = iban(participant, n);
        let account = Account {
            id: AccountId::generate(Timestamp::EPOCH, stage::short(&iban)),
            participant: participants()[participant],
            bank: bank_of(banks, participant)?.clone(),
            currency: Currency::parse(CURRENCY)?,
            wallet: wallet(participant, n),
            name: format!("Customer {n} of {}", PARTICIPANTS[participant]),
            iban: Iban::parse(&iban)?,
            active: true,
            created_at: now,
        };
        party::add_account(&tx, &account).await?;
    }
    Ok(tx.commit().await?)
}

async fn open_bank_accounts(config: &Config, banks: &[BankCode]) -> Result<()> {
    let bank = Admin::new(config)?;
    stream::iter(everyone())
        .map(|(participant, n)| {
            let bank = &bank;
            async move {
                let (code, iban) = (bank_of(banks, participant)?, iban(participant, n));
                bank.post(code, "accounts", json!({ "iban": iban, "currency": CURRENCY })).await?;
                if kind(n) != Kind::Poor {
                    let amount = json!({ "amount": OPENING, "currency": CURRENCY });
                    let deposit =
                        json!({ "deposit_id": format!("opening-{iban}"), "account": iban, "amount": amount });
                    bank.post(code, "deposits", deposit).await?;
                }
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CALLS_MAX)
        .try_collect()
        .await
}

/// Holds on the slow accounts are decided late, from now on until the rules are taken away.
pub(super) struct SlowHolds {
    bank: Admin,
    rules: Vec<(BankCode, u64)>,
}

impl SlowHolds {
    pub(super) async fn begin(config: &Config) -> Result<Self> {
        let bank = Admin::new(config)?;
        let banks: Vec<BankCode> = config
            .bank
            .connectors
            .iter()
            .map(|bank| Ok(BankCode::parse(&bank.code)?))
            .collect::<Result<_>>()?;
        let mut rules = Vec::new();
        for (participant, n) in everyone().filter(|(_, n)| kind(*n) == Kind::Slow) {
            let code = bank_of(&banks, participant)?.clone();
            let rule = json!({
                "fault": { "kind": "slow", "ms": SLOW_HOLD.as_millis() },
                "targets": ["place_hold"],
                "account": iban(participant, n),
            });
            let made = bank.post(&code, "faults", rule).await?;
            rules.push((code, made.get("id").and_then(Value::as_u64).context("a rule without an id")?));
        }
        Ok(Self { bank, rules })
    }

    pub(super) async fn end(self) -> Result<()> {
        for (code, rule) in &self.rules {
            self.bank.delete(code, &format!("faults/{rule}")).await?;
        }
        Ok(())
    }
}

/// The bank simulator's administration.
pub(super) struct Admin {
    http: reqwest::Client,
    root: String,
    key: String,
}

impl Admin {
    pub(super) fn new(config: &Config) -> Result<Self> {
        let section = &config.bank_simulator;
        let key =
            std::fs::read_to_string(&section.admin_key_file).context("cannot read the bank's admin key")?;
        Ok(Self {
            http: reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?,
            root: format!("http://{}/admin/banks", section.listen),
            key: key.trim().to_owned(),
        })
    }

    pub(super) async fn post(&self, bank: &BankCode, path: &str, body: Value) -> Result<Value> {
        let url = format!("{}/{}/{path}", self.root, bank.as_str());
        let answer = self.http.post(url).bearer_auth(&self.key).json(&body).send().await?;
        let status = answer.status();
        ensure!(status.is_success(), "the bank simulator answered {status}: {}", answer.text().await?);
        Ok(answer.json().await?)
    }

    pub(super) async fn delete(&self, bank: &BankCode, path: &str) -> Result<()> {
        let url = format!("{}/{}/{path}", self.root, bank.as_str());
        self.http.delete(url).bearer_auth(&self.key).send().await?.error_for_status()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_has_an_iban_of_its_own() {
        let ibans: std::collections::BTreeSet<String> = everyone()
            .map(|(participant, n)| Iban::parse(&iban(participant, n)).unwrap().as_str().to_owned())
            .collect();
        assert_eq!(ibans.len(), PARTICIPANTS.len() * ACCOUNTS_EACH);
    }
}
