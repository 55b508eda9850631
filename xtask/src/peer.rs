//! FlowBridge against implementations by others: their verdict counts, not ours.

pub(crate) mod audit;
pub(crate) mod schemathesis;
pub(crate) mod spectral;
pub(crate) mod splink;
pub(crate) mod stage;
pub(crate) mod webhooks;

use anyhow::Result;

use crate::setup;
use crate::steps::Steps;

/// The clients that the API is fuzzed as: a participant's, and an operator's, who may do what no participant may.
const CLIENTS: [&str; 2] = ["alpha", "operator"];

/// Every peer against a FlowBridge that is started for it.
pub(crate) fn run(steps: &mut Steps) -> Result<()> {
    let mut stage = None;
    steps.must("FlowBridge for its peers", "cargo xtask dev, and read what it says", || {
        stage = Some(stage::Stage::start()?);
        Ok(())
    })?;
    let Some(stage) = stage else { return Ok(()) };
    let document = format!("{}/openapi.json", stage.url);
    steps.must("spectral", "each line above names a rule and its place in docs/openapi.json", || {
        spectral::lint(&document)
    })?;
    steps.must("standardwebhooks", "read which delivery is not as the library wants it", || {
        webhooks::record_and_verify(&stage)
    })?;
    steps.step(
        "cryptography and pymerkle",
        "the line above says what of the archive they do not believe",
        || setup::unless_python_is_old(|| audit::reconcile_and_verify(&stage)),
    )?;
    let remedy = "the report names the request, what was answered and a curl command";
    steps.step("schemathesis", remedy, || {
        setup::unless_python_is_old(|| {
            CLIENTS
                .into_iter()
                .try_for_each(|client| schemathesis::fuzz(&document, Some(&stage.token(client)?)))
        })
    })?;
    steps.must("clean stop", "what was logged is a fault, or should not be logged", || stage.stop())
}
