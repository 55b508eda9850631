//! The command line's own client of the API: signs in with a key, keeps the token, shows problems as they are.

use crate::clock::SystemClock;
use anyhow::{Context as _, Result, bail};
use flowbridge_domain::time::{Clock as _, Timestamp};
use flowbridge_security::client_assertion;
use flowbridge_security::keys::{SigningKey, load_pem};
use flowbridge_security::oauth::token_form;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::Mutex;

/// Who a command acts as: a file under `.flowbridge/clients/`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// The API's address, also the issuer of its tokens.
    pub(crate) url: String,
    /// The registered client.
    pub(crate) client_id: String,
    /// Its private key, PEM; beside the profile when relative.
    pub(crate) key_file: PathBuf,
}

impl Profile {
    /// Reads a profile by name.
    pub(crate) fn load(folder: &Path, name: &str) -> Result<Self> {
        let file = folder.join("clients").join(format!("{name}.json"));
        let text = std::fs::read_to_string(&file).with_context(|| {
            format!(
                "there is no client {name}: {} cannot be read. Is `flowbridge dev` running here?",
                file.display()
            )
        })?;
        let mut profile: Self = serde_json::from_str(&text)
            .with_context(|| format!("{} is no client profile", file.display()))?;
        if profile.key_file.is_relative() {
            profile.key_file = folder.join("clients").join(&profile.key_file);
        }
        Ok(profile)
    }
}

/// A signed-in client.
#[derive(Debug)]
pub(crate) struct ApiClient {
    profile: Profile,
    key: SigningKey,
    http: reqwest::Client,
    token: Mutex<Option<(SecretString, Timestamp)>>,
}

/// An answer of the API.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body; null when there is none.
    pub(crate) body: Value,
}

impl Answer {
    /// The body of a success; a problem becomes an error that says what to do.
    pub(crate) fn success(self) -> Result<Value> {
        if (200..300).contains(&self.status) {
            return Ok(self.body);
        }
        bail!("{}", self.problem())
    }

    /// The problem in one line: what, where, code.
    pub(crate) fn problem(&self) -> String {
        let text = |name: &str| self.body.get(name).and_then(Value::as_str).unwrap_or_default();
        let mut line = format!("{} {}", self.status, text("title"));
        if !text("detail").is_empty() {
            line.push_str(&format!(": {}", text("detail")));
        }
        for error in self.body.get("errors").and_then(Value::as_array).into_iter().flatten() {
            let part = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
            line.push_str(&format!("; {} {}", part("pointer"), part("detail")));
        }
        if !text("code").is_empty() {
            line.push_str(&format!(" ({})", text("code")));
        }
        line
    }
}

impl ApiClient {
    /// Signs in when first used.
    pub(crate) fn new(profile: Profile) -> Result<Self> {
        let key = load_pem(&profile.key_file)?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { profile, key, http, token: Mutex::new(None) })
    }

    /// A token that is good for at least half a minute.
    pub(crate) async fn token(&self) -> Result<SecretString> {
        let now = SystemClock.now();
        let mut held = self.token.lock().await;
        if let Some((token, until)) = held.as_ref()
            && now.plus(Duration::from_secs(30)) < *until
        {
            return Ok(token.clone());
        }
        let Profile { url, client_id, .. } = &self.profile;
        let assertion = client_assertion::make(client_id, url, &self.key, now)?;
        let response = self
            .http
            .post(format!("{url}/oauth/token"))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(token_form(&assertion, None).expose_secret().to_owned())
            .send()
            .await
            .with_context(|| format!("{url} does not answer: is `flowbridge dev` running?"))?;
        let status = response.status();
        let body: Value = response.json().await.context("the token endpoint did not answer with JSON")?;
        let Some(token) = body.get("access_token").and_then(Value::as_str) else {
            let why =
                body.get("error_description").or(body.get("error")).and_then(Value::as_str).unwrap_or("?");
            bail!("client {client_id} could not sign in at {url}: {} {why}", status.as_u16());
        };
        let life = body.get("expires_in").and_then(Value::as_u64).unwrap_or(60);
        let token = SecretString::from(token.to_owned());
        *held = Some((token.clone(), now.plus(Duration::from_secs(life))));
        Ok(token)
    }

    /// Calls the API. A body that is given is sent as JSON; a `key` makes the call one that can be repeated.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Answer> {
        let method = reqwest::Method::from_bytes(method.to_ascii_uppercase().as_bytes())
            .with_context(|| format!("{method} is no HTTP method"))?;
        let url = format!("{}{path}", self.profile.url);
        let mut request = self.http.request(method, &url).bearer_auth(self.token().await?.expose_secret());
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = response.status().as_u16();
        let text = response.text().await.context("the answer broke off")?;
        let body = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        };
        Ok(Answer { status, body })
    }

    /// Sends a file as it is.
    pub(crate) async fn upload(&self, path: &str, file: Vec<u8>) -> Result<Answer> {
        let url = format!("{}{path}", self.profile.url);
        let response = self
            .http
            .post(&url)
            .bearer_auth(self.token().await?.expose_secret())
            .header("content-type", "application/octet-stream")
            .body(file)
            .send()
            .await
            .with_context(|| format!("{url} does not answer"))?;
        let status = response.status().as_u16();
        Ok(Answer { status, body: response.json().await.unwrap_or(Value::Null) })
    }

    /// Downloads what need not be JSON, or even text.
    pub(crate) async fn download(&self, path: &str) -> Result<Vec<u8>> {
        let url = format!("{}{path}", self.profile.url);
        let request = self.http.get(&url).bearer_auth(self.token().await?.expose_secret());
        let response = request.send().await.with_context(|| format!("{url} does not answer"))?;
        let status = response.status();
        let body = response.bytes().await.context("the answer broke off")?;
        if !status.is_success() {
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            bail!("{}", Answer { status: status.as_u16(), body }.problem());
        }
        Ok(body.to_vec())
    }

    /// Reads a resource.
    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, None, None).await?.success()
    }
}

/// A new idempotency key.
pub(crate) fn new_key() -> String {
    format!("{:032x}", rand::random::<u128>())
}
