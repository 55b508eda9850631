//! `flowbridge api`, `token` and `proof`: calls of the API, signed in.

use super::{AsClient, AsOperator, say};
use crate::client::new_key;
use anyhow::{Context as _, Result};
use clap::Args;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use std::io::Read as _;
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// GET, POST, PATCH or DELETE
    method: String,
    /// The path with its query, such as /v1/payments?limit=5
    path: String,
    /// The JSON body; - reads it from standard input
    body: Option<String>,
    /// Makes a call one that can be repeated; drawn at random if it is not given
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    client: AsClient,
}

pub(super) async fn run(args: ApiArgs) -> Result<ExitCode> {
    let text = match args.body.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            Some(text)
        }
        other => other.map(str::to_owned),
    };
    let body: Option<Value> =
        text.map(|text| serde_json::from_str(&text).context("the body is not JSON")).transpose()?;
    let key =
        (!args.method.eq_ignore_ascii_case("GET")).then(|| args.idempotency_key.unwrap_or_else(new_key));
    let answer = args.client.sign_in()?.call(&args.method, &args.path, body.as_ref(), key.as_deref()).await?;
    say(serde_json::to_string_pretty(&answer.body)?);
    Ok(if (200..300).contains(&answer.status) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(super) async fn token(client: &AsClient) -> Result<ExitCode> {
    say(client.sign_in()?.token().await?.expose_secret());
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn proof(client: &AsOperator) -> Result<ExitCode> {
    let proof = client.sign_in()?.get("/v1/proof").await?;
    say(serde_json::to_string_pretty(&proof)?);
    Ok(if proof.get("holds") == Some(&Value::Bool(true)) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
