//! A run of named steps: each says what it does and how long it took, the first failure ends the run with its remedy, and
//! a table closes it either way.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// How a step that did not fail ended.
pub(crate) enum Outcome {
    Passed,
    /// Not done, and why; shown loudly, in the table too.
    Skipped(String),
}

#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(&'static str, Duration, String)>,
}

impl Steps {
    /// Runs one step. `remedy` is what to do when it fails.
    pub(crate) fn step(
        &mut self,
        name: &'static str,
        remedy: &str,
        work: impl FnOnce() -> Result<Outcome>,
    ) -> Result<()> {
        println!("\n==> {name}");
        let start = Instant::now();
        let outcome = work();
        let time = start.elapsed();
        let verdict = match &outcome {
            Ok(Outcome::Passed) => "passed".to_owned(),
            Ok(Outcome::Skipped(why)) => format!("SKIPPED: {why}"),
            Err(_) => "FAILED".to_owned(),
        };
        println!("    {name}: {verdict} ({:.1} s)", time.as_secs_f64());
        self.done.push((name, time, verdict));
        outcome.map(drop).map_err(|error| anyhow!("{name}: {error:#}\nremedy: {remedy}"))
    }

    /// A step that cannot be skipped.
    pub(crate) fn must(
        &mut self,
        name: &'static str,
        remedy: &str,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        self.step(name, remedy, || work().map(|()| Outcome::Passed))
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let total: Duration = self.done.iter().map(|(_, time, _)| *time).sum();
        println!("\n{:<28} {:>9}", "step", "time");
        for (name, time, verdict) in &self.done {
            println!("{name:<28} {:>7.1} s  {verdict}", time.as_secs_f64());
        }
        println!("{:<28} {:>7.1} s", "in all", total.as_secs_f64());
        let skipped = self.done.iter().filter(|(.., verdict)| verdict.starts_with("SKIPPED")).count();
        if skipped > 0 {
            println!(
                "{skipped} of {} steps were SKIPPED: this run proves less than a whole one",
                self.done.len()
            );
        }
    }
}
