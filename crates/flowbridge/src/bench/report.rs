//! What a run prints: a small table for people, one JSON object on the last line for programs.

use super::journal::Latencies;
use super::usage::Origin;
use crate::commands::say;
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

/// The figures of a run of payments. Rates are per second, latencies in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) bench: &'static str,
    /// `ok`, or what failed.
    pub(super) proof: String,
    pub(super) completed_per_s: f64,
    pub(super) accepted_per_s: f64,
    pub(super) declined_per_s: f64,
    pub(super) accept_ms: Latencies,
    pub(super) end_to_end_ms: Latencies,
    pub(super) decline_ms: Latencies,
    /// Processor time of each process by the payments that ended meanwhile.
    pub(super) cpu_us_per_payment: BTreeMap<&'static str, f64>,
    pub(super) wal_bytes_per_payment: f64,
    pub(super) commits_per_payment: f64,
    pub(super) rss_bytes_max: u64,
    pub(super) refused: usize,
    pub(super) load: String,
    pub(super) duration_s: f64,
    pub(super) policy: BTreeMap<String, String>,
    pub(super) yardstick_tpc_b_per_s: Option<f64>,
    #[serde(flatten)]
    pub(super) origin: Origin,
}

/// Prints the figures, in the form that was asked for. A proof that failed is exit code 1.
pub(super) fn print(figures: &Figures, as_json: bool) -> Result<ExitCode> {
    if as_json {
        say(serde_json::to_string(figures)?);
    } else {
        table(figures);
    }
    Ok(if figures.proof == PROVEN { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The word for a proof without a difference.
pub(super) const PROVEN: &str = "ok";

fn table(figures: &Figures) {
    let line = |name: &str, value: String| say(format_args!("  {name:<22}{value}"));
    let latencies = |ms: &Latencies| {
        format!("p50 {:.1}  p95 {:.1}  p99 {:.1}  max {:.1} ms", ms.p50, ms.p95, ms.p99, ms.max)
    };
    say(format_args!("\n{} for {:.0} s: {}", figures.bench, figures.duration_s, figures.load));
    if figures.proof != PROVEN {
        say(format_args!("  THE PROOF FAILED: {}\n  What follows is no figure.", figures.proof));
    }
    if figures.bench == super::payments::NAME {
        line("completed", format!("{:.1}/s", figures.completed_per_s));
        line("declined", format!("{:.1}/s", figures.declined_per_s));
    }
    line("accepted", format!("{:.1}/s, {} requests refused", figures.accepted_per_s, figures.refused));
    line("accept", latencies(&figures.accept_ms));
    if figures.bench == super::payments::NAME {
        line("end to end", latencies(&figures.end_to_end_ms));
        line("declined after", latencies(&figures.decline_ms));
    }
    let cpu: Vec<String> =
        figures.cpu_us_per_payment.iter().map(|(name, micros)| format!("{name} {micros:.0}")).collect();
    line("processor", format!("{} µs per payment", cpu.join(", ")));
    let (wal, commits) = (figures.wal_bytes_per_payment, figures.commits_per_payment);
    line("database", format!("{wal:.0} bytes of WAL and {commits:.3} commits per payment"));
    line("memory", format!("{:.0} MB at most (flowbridge)", mega(figures.rss_bytes_max)));
    if let Some(tpc_b) = figures.yardstick_tpc_b_per_s {
        line("pgbench TPC-B", format!("{tpc_b:.0} transactions/s on the same server"));
    }
    line("proof", figures.proof.clone());
    for (name, value) in figures.origin.lines() {
        line(name, value);
    }
    let policy: Vec<String> = figures.policy.iter().map(|(name, value)| format!("{name} {value}")).collect();
    line("policy", policy.join(", "));
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A line that says how it goes, where somebody looks.
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} [{elapsed}] {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self(bar)
    }

    pub(super) fn say(&self, text: impl Into<String>) {
        self.0.set_message(text.into());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
