//! Asks a language model to put explanations in other words, where the operator has allowed one.
//!
//! Off unless `[explanations] url` is set and stands in `urls_allowed`, and `--reword` is given. Answers are bounded in size
//! and time, redirects are not followed, and every answer is checked by the recon crate. Whatever fails, the report is
//! written with the engine's own sentences, and says how many answers were not shown.

use super::super::say;
use crate::config::Config;
use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowbridge_recon::report::Report;
use flowbridge_recon::reword::Facts;
use std::collections::BTreeMap;
use std::time::Duration;
use url::Url;

const ANSWER_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Args)]
pub(crate) struct RewordArgs {
    /// Have the model of `[explanations]` put the explanations in other words
    #[arg(long)]
    reword: bool,
}

impl RewordArgs {
    /// Sentences by the position of their match; none without `--reword`.
    pub(super) async fn sentences(
        &self,
        report: &Report<'_>,
        config: impl Fn() -> Result<Config>,
    ) -> Result<BTreeMap<usize, String>> {
        if !self.reword {
            return Ok(BTreeMap::new());
        }
        let model = LanguageModel::new(&config()?)?;
        let (mut sentences, mut refused) = (BTreeMap::new(), 0);
        for place in report.to_confirm() {
            if sentences.len() + refused >= model.asked_per_run_max {
                break;
            }
            let Some(facts) = Facts::of(&report.outcome.matches[place]) else { continue };
            let answer = model.ask(&facts.prompt()).await;
            match answer.and_then(|answer| Ok(facts.check(&answer)?)) {
                Ok(sentence) => drop(sentences.insert(place, sentence)),
                Err(error) => {
                    if refused == 0 {
                        say(format!("an explanation is kept as it was: {error:#}"));
                    }
                    refused += 1;
                }
            }
        }
        say(format!("{} explanations in other words, {refused} kept as they were", sentences.len()));
        Ok(sentences)
    }
}

struct LanguageModel {
    http: reqwest::Client,
    url: Url,
    name: String,
    key: Option<String>,
    asked_per_run_max: usize,
}

impl LanguageModel {
    fn new(config: &Config) -> Result<Self> {
        let section = &config.explanations;
        ensure!(
            !section.url.is_empty(),
            "no language model is configured: set [explanations] url and urls_allowed, or leave out --reword"
        );
        ensure!(
            section.urls_allowed.contains(&section.url),
            "[explanations] urls_allowed does not name {}",
            section.url
        );
        let base: Url = section.url.parse().context("[explanations] url")?;
        let is_local =
            base.host_str().is_some_and(|host| ["127.0.0.1", "[::1]", "localhost"].contains(&host));
        ensure!(base.scheme() == "https" || is_local, "[explanations] url must be https");
        let url = format!("{}/chat/completions", section.url.trim_end_matches('/')).parse()?;
        let key = if section.key_file.as_os_str().is_empty() {
            None
        } else {
            let key = std::fs::read_to_string(&section.key_file)
                .with_context(|| format!("cannot read {}", section.key_file.display()))?;
            Some(key.trim().to_owned())
        };
        let http = reqwest::Client::builder()
            .timeout(Duration::from_millis(section.timeout_ms))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, url, name: section.model.clone(), key, asked_per_run_max: section.asked_per_run_max })
    }

    async fn ask(&self, prompt: &str) -> Result<String> {
        let mut request = self.http.post(self.url.clone()).json(&serde_json::json!({
            "model": self.name,
            "temperature": 0,
            "messages": [{"role": "user", "content": prompt}],
        }));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let mut response = request.send().await.context("the language model does not answer")?;
        ensure!(response.status().is_success(), "the language model answers {}", response.status());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.context("the language model stopped in between")? {
            body.extend_from_slice(&chunk);
            ensure!(body.len() <= ANSWER_BYTES_MAX, "the answer is longer than {ANSWER_BYTES_MAX} bytes");
        }
        let answer: serde_json::Value = serde_json::from_slice(&body).context("the answer is not JSON")?;
        let text = answer["choices"][0]["message"]["content"].as_str();
        Ok(text.context("the answer has no choices[0].message.content")?.to_owned())
    }
}
