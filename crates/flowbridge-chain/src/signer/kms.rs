//! A key with AWS KMS (`ECC_SECG_P256K1`): it never leaves the service.
//!
//! Two calls of the service's JSON API, signed by Signature Version 4 (docs/adr/0040): the public key once, at the start, and a
//! signature for each transaction. Credentials are read from their file again whenever the service does not take them, so that
//! whoever renews them need not restart anything.

use super::{Answer, Signer};
use crate::bindings::evm_address;
use crate::error::ChainError;
use alloy::primitives::Address;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::time::{Clock, Timestamp};
use reqwest::{Client, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where the key is.
#[derive(Debug, Clone)]
pub struct KmsConfig {
    /// Such as `eu-central-1`.
    pub region: String,
    /// Another address than the region's own.
    pub endpoint: Option<String>,
    /// The key's id or ARN.
    pub key_id: String,
    /// See [`AwsCredentials::read`].
    pub credentials_file: PathBuf,
    /// How long a call may take.
    pub timeout: Duration,
}

/// A key with AWS KMS.
pub struct KmsKey {
    config: KmsConfig,
    url: Url,
    client: Client,
    clock: Arc<dyn Clock>,
    credentials: Mutex<AwsCredentials>,
    address: EvmAddress,
}

/// What AWS's services know a caller by.
#[derive(Debug, Clone)]
pub struct AwsCredentials {
    /// The name of the key.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: SecretString,
    /// What temporary ones have besides.
    pub session_token: Option<SecretString>,
}

impl fmt::Debug for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KmsKey({} as {})", self.address, self.config.key_id)
    }
}

impl KmsKey {
    /// Asks the service for the public key.
    pub async fn open(config: KmsConfig, clock: Arc<dyn Clock>) -> Result<Self, ChainError> {
        let own = format!("https://kms.{}.amazonaws.com/", config.region);
        let text = config.endpoint.as_deref().unwrap_or(&own);
        let wrong = |error: &dyn fmt::Display| ChainError::Wrong(format!("KMS at {text:?}: {error}"));
        let url: Url = text.parse().map_err(|error| wrong(&error))?;
        let client = Client::builder().timeout(config.timeout).build().map_err(|error| wrong(&error))?;
        let credentials = Mutex::new(AwsCredentials::read(&config.credentials_file)?);
        let nobody = EvmAddress::from_bytes([0; 20]);
        let mut key = Self { config, url, client, clock, credentials, address: nobody };
        let answer = key.call("GetPublicKey", json!({ "KeyId": key.config.key_id })).await?;
        let info = field(&answer, "PublicKey")?;
        // The uncompressed point stands at the end of a SubjectPublicKeyInfo.
        let point = info.last_chunk::<65>().filter(|point| point[0] == 4);
        let point = point
            .ok_or_else(|| ChainError::Wrong(format!("KMS key {} is not on secp256k1", key.config.key_id)))?;
        key.address = evm_address(Address::from_raw_public_key(&point[1..]));
        Ok(key)
    }

    async fn call(&self, action: &'static str, body: Value) -> Result<Value, ChainError> {
        let first = self.try_call(action, &body).await;
        let Err(ChainError::Wrong(_)) = &first else { return first };
        let read = AwsCredentials::read_now(&self.config.credentials_file).await?;
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = read;
        self.try_call(action, &body).await
    }

    async fn try_call(&self, action: &'static str, body: &Value) -> Result<Value, ChainError> {
        let credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let body = body.to_string();
        let request = Request {
            host: &host_of(&self.url),
            target: &format!("TrentService.{action}"),
            body: &body,
            region: &self.config.region,
            at: &amz_date(self.clock.now()),
        };
        let mut http = self
            .client
            .post(self.url.clone())
            .header("content-type", CONTENT_TYPE)
            .header("x-amz-date", request.at)
            .header("x-amz-target", request.target)
            .header("authorization", request.authorization(&credentials));
        if let Some(token) = &credentials.session_token {
            http = http.header("x-amz-security-token", token.expose_secret());
        }
        let unavailable = |error: reqwest::Error| ChainError::Signer(format!("KMS {action}: {error}"));
        let response = http.body(body.clone()).send().await.map_err(unavailable)?;
        let status = response.status();
        let answer: Value = response.json().await.map_err(unavailable)?;
        if status.is_success() {
            return Ok(answer);
        }
        let why = answer.get("__type").and_then(Value::as_str).unwrap_or("no reason given");
        let text = format!("KMS {action} for {} was answered HTTP {status}: {why}", self.config.key_id);
        // Throttled and internal errors pass by themselves; what the caller may not do does not.
        let passes = status.is_server_error() || why.contains("Throttling");
        Err(if passes && status != StatusCode::FORBIDDEN {
            ChainError::Signer(text)
        } else {
            ChainError::Wrong(text)
        })
    }
}

#[async_trait::async_trait]
impl Signer for KmsKey {
    fn address(&self) -> EvmAddress {
        self.address
    }

    async fn sign_digest(&self, digest: [u8; 32]) -> Result<Answer, ChainError> {
        let question = json!({
            "KeyId": self.config.key_id, "Message": STANDARD.encode(digest), "MessageType": "DIGEST",
            "SigningAlgorithm": "ECDSA_SHA_256",
        });
        // A refusal may be a mistake of policy that somebody mends: what waits keeps waiting.
        let answer =
            self.call("Sign", question).await.map_err(|error| ChainError::Signer(error.to_string()))?;
        let signature = k256::ecdsa::Signature::from_der(&field(&answer, "Signature")?)
            .map_err(|_| ChainError::Signer("KMS answered with what is no signature".into()))?;
        let mut rs = [0; 64];
        rs.copy_from_slice(&signature.to_bytes());
        Ok(Answer { rs, parity: None })
    }
}

fn field(answer: &Value, name: &str) -> Result<Vec<u8>, ChainError> {
    let text = answer.get(name).and_then(Value::as_str);
    text.and_then(|text| STANDARD.decode(text).ok())
        .ok_or_else(|| ChainError::Signer(format!("KMS answered without {name}")))
}

impl AwsCredentials {
    /// Reads their file: JSON with `access_key_id`, `secret_access_key` and, for temporary ones, `session_token`.
    /// [`ChainError::Wrong`]: there is none, or it is not that.
    pub fn read(file: &Path) -> Result<Self, ChainError> {
        Self::parse(file, std::fs::read_to_string(file))
    }

    /// The same where nothing may wait for a disk.
    pub async fn read_now(file: &Path) -> Result<Self, ChainError> {
        Self::parse(file, tokio::fs::read_to_string(file).await)
    }

    fn parse(file: &Path, text: std::io::Result<String>) -> Result<Self, ChainError> {
        let name = file.display();
        let text =
            text.map_err(|error| ChainError::Wrong(format!("cannot read the credentials {name}: {error}")))?;
        #[derive(Deserialize)]
        struct Written {
            access_key_id: String,
            secret_access_key: String,
            session_token: Option<String>,
        }
        // The cause could repeat a secret.
        serde_json::from_str::<Written>(&text)
            .map(|written| Self {
                access_key_id: written.access_key_id,
                secret_access_key: written.secret_access_key.into(),
                session_token: written.session_token.map(Into::into),
            })
            .map_err(|_| {
                ChainError::Wrong(format!("{name} is no JSON with access_key_id and secret_access_key"))
            })
    }
}

// ------------------------------------------------------------------------------------------------ Signature Version 4

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// Such as `20261128T035000Z`.
fn amz_date(now: Timestamp) -> String {
    let now = jiff::Timestamp::from_second(now.as_secs_down()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// Host and port, as the `host` header has them.
fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// What is signed of a request to KMS.
struct Request<'a> {
    host: &'a str,
    target: &'a str,
    body: &'a str,
    region: &'a str,
    at: &'a str,
}

impl Request<'_> {
    fn authorization(&self, credentials: &AwsCredentials) -> String {
        let token = credentials.session_token.as_ref().map(|token| token.expose_secret());
        let mut headers = vec![("content-type", CONTENT_TYPE), ("host", self.host), ("x-amz-date", self.at)];
        headers.extend(token.map(|token| ("x-amz-security-token", token)));
        headers.push(("x-amz-target", self.target));
        let day = self.at.split('T').next().unwrap_or_default();
        let scope = format!("{day}/{}/kms/aws4_request", self.region);
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let listed: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical =
            format!("POST\n/\n\n{listed}\n{names}\n{}", hex(digest(&SHA256, self.body.as_bytes()).as_ref()));
        let to_sign = format!(
            "AWS4-HMAC-SHA256\n{}\n{scope}\n{}",
            self.at,
            hex(digest(&SHA256, canonical.as_bytes()).as_ref())
        );
        let signature =
            signature(credentials.secret_access_key.expose_secret(), &[day, self.region, "kms"], &to_sign);
        format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            credentials.access_key_id
        )
    }
}

/// The key for a day, a region and a service, and with it the signature.
fn signature(secret: &str, scope: &[&str], to_sign: &str) -> String {
    let mac = |key: &[u8], text: &str| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.iter().chain(&["aws4_request"]) {
        key = mac(&key, part);
    }
    hex(&mac(&key, to_sign))
}

fn hex(bytes: &[u8]) -> String {
    alloy::hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the service's documentation of Signature Version 4 (IAM, `ListUsers`).
    #[test]
    fn the_signature_is_the_one_of_the_documentation() {
        let to_sign = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\n\
            f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59";
        let signed =
            signature("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", &["20150830", "us-east-1", "iam"], to_sign);
        assert_eq!(signed, "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    }

    #[test]
    fn dates_and_hosts_are_written_as_the_service_wants_them() {
        assert_eq!(amz_date(Timestamp::from_secs(1_440_938_160)), "20150830T123600Z");
        assert_eq!(host_of(&"http://127.0.0.1:5000/".parse().unwrap()), "127.0.0.1:5000");
        let own = "https://kms.eu-central-1.amazonaws.com/".parse().unwrap();
        assert_eq!(host_of(&own), "kms.eu-central-1.amazonaws.com");
    }
}
