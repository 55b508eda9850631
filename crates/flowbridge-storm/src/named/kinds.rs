//! The kinds of payment, and what pays for them.

use super::{ASHA, BIRK, Desk, payment, with};
use crate::oracle::text;
use anyhow::{Context as _, Result, ensure};
use k256::ecdsa::SigningKey;
use serde_json::{Value, json};
use sha2::Sha256;
use sha3::{Digest as _, Keccak256};

/// `DOMAIN_SEPARATOR()` of the token.
const DOMAIN_SEPARATOR: &str = "0x3644e515";
/// What a debtor signs, as ERC-3009 has it.
const RECEIVE: &str = "ReceiveWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)";
/// The token has six decimals, an amount two.
const UNITS_PER_CENT: u128 = 10_000;

impl Desk<'_> {
    pub(super) async fn issuance(&self) -> Result<()> {
        let before = self.wallet(ASHA).await?;
        let id = self.create(with(payment(ASHA, ASHA, 5_000), &[("kind", json!("issuance"))])).await?;
        self.completes(&[id]).await?;
        ensure!(self.wallet(ASHA).await? == before + 5_000, "the tokens are not there");
        Ok(())
    }

    pub(super) async fn token_funded(&self) -> Result<()> {
        let (asha, birk) = (self.wallet(ASHA).await?, self.wallet(BIRK).await?);
        let (deposit, _) = self.at_bank(ASHA).await?;
        let id = self.create(with(payment(ASHA, BIRK, 1_500), &[("funding", json!("token"))])).await?;
        self.completes(&[id]).await?;
        ensure!(
            (self.wallet(ASHA).await?, self.wallet(BIRK).await?) == (asha - 1_500, birk + 1_500),
            "the tokens did not move"
        );
        self.booked_once(ASHA, deposit, 0).await
    }

    pub(super) async fn redemption(&self) -> Result<()> {
        let (tokens, (deposit, _)) = (self.wallet(ASHA).await?, self.at_bank(ASHA).await?);
        let id = self.create(with(payment(ASHA, ASHA, 2_000), &[("kind", json!("redemption"))])).await?;
        self.completes(&[id]).await?;
        ensure!(self.wallet(ASHA).await? == tokens - 2_000, "the tokens are still there");
        self.booked_once(ASHA, deposit, -2_000).await
    }

    /// The tokens move by a signature alone; the same signature opens nothing a second time.
    pub(super) async fn signed_funding(&self) -> Result<()> {
        let (asha, birk) = (self.wallet(ASHA).await?, self.wallet(BIRK).await?);
        let signed = self.sign_for(ASHA, 1_200).await?;
        let body =
            with(payment(ASHA, BIRK, 1_200), &[("funding", json!("token")), ("authorization", signed)]);
        let id = self.create(body.clone()).await?;
        self.completes(&[id]).await?;
        let again = self.create(body).await?;
        let ended = self.until(&again, &["failed"]).await?;
        ensure!(text(&ended, "reason") == "not_authorized", "the reason is {}", text(&ended, "reason"));
        ensure!(
            (self.wallet(ASHA).await?, self.wallet(BIRK).await?) == (asha - 1_200, birk + 1_200),
            "the tokens did not move once"
        );
        Ok(())
    }

    /// An ERC-3009 authorisation for the settlement manager by the wallet of an account in euros, good for an hour.
    async fn sign_for(&self, iban: &str, amount: u128) -> Result<Value> {
        let contracts = self.contracts("EUR")?;
        let address = |name: &str| {
            contracts.pointer(&format!("/{name}/address")).and_then(Value::as_str).context(name.to_owned())
        };
        let (token, manager) = (address("token")?, address("manager")?);
        // The key of a customer of the development stage follows from the IBAN.
        let key = SigningKey::from_slice(&Sha256::digest(format!("flowbridge dev wallet {iban}")))?;
        let account = self.account(iban).await?;
        let before = u64::try_from(jiff::Timestamp::now().as_second())? + 3_600;
        let nonce: [u8; 32] = rand::random();
        let call = json!([{ "to": token, "data": DOMAIN_SEPARATOR }, "latest"]);
        let domain = self.world.rpc("eth_call", call).await?;
        let message = Keccak256::new()
            .chain_update(Keccak256::digest(RECEIVE))
            .chain_update(word_of(text(&account, "wallet"))?)
            .chain_update(word_of(manager)?)
            .chain_update(word(amount * UNITS_PER_CENT))
            .chain_update(word(0))
            .chain_update(word(before.into()))
            .chain_update(nonce);
        let digest = Keccak256::new()
            .chain_update([0x19, 0x01])
            .chain_update(word_of(domain.as_str().context("no domain")?)?)
            .chain_update(message.finalize());
        let (signature, recovery) = key.sign_prehash_recoverable(&digest.finalize())?;
        Ok(json!({
            "valid_after": 0, "valid_before": before, "nonce": hex(&nonce), "v": 27 + recovery.to_byte(),
            "r": hex(&signature.r().to_bytes()), "s": hex(&signature.s().to_bytes()),
        }))
    }
}

fn word(number: u128) -> [u8; 32] {
    let mut word = [0; 32];
    word[16..].copy_from_slice(&number.to_be_bytes());
    word
}

/// An address or a word in hexadecimal, filled up with zeros on the left.
fn word_of(text: &str) -> Result<[u8; 32]> {
    let digits = format!("{:0>64}", text.trim_start_matches("0x"));
    let mut word = [0; 32];
    for (byte, nth) in word.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(nth..nth + 2).context("hexadecimal digits")?, 16)?;
    }
    Ok(word)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}
