//! `cargo xtask …`: everything that sets up, runs and checks this repository. There is no other task runner, so that a
//! newcomer, a maintainer and CI run the same commands.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task runner talks to its user")]

mod contracts;
mod dev;
mod mutants;
mod mutate;
mod peer;
mod proof;
mod setup;
mod shell;
mod steps;
mod storm;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask dev [ARGS…]              set up what is missing, build, and run `flowbridge dev ARGS…`
cargo xtask setup                    only the set-up, with the tools that the tests need
cargo xtask test [--long] [FILTER]   every check, as CI runs it; with FILTER only the Rust tests whose name contains it
cargo xtask tidy                     architecture and style checks that no compiler makes
cargo xtask faults [NAME]            each fault a payment must survive, by name, through the public API
cargo xtask storm [ARGS…]            kill everything while payments flow, then prove that nothing was lost; `--help` says more
cargo xtask mutants [NAME]           break each of our guarantees in a copy of the sources, and see that a test notices
cargo xtask contracts build|check|test|prove|inspect
cargo xtask contracts mutate         break the contracts in every way, one at a time, and see who notices; goes on where it stopped
cargo xtask contracts mutate report  write down what runs so far have found out
cargo xtask contracts mutate NAME    break one function of the contracts, and see which properties that breaks
cargo xtask peers                    every peer below against a FlowBridge that is started for it
cargo xtask peer audit DIR KEY                   check an archive of the audit log with cryptography and pymerkle
cargo xtask peer spectral FILE|URL               lint an OpenAPI description
cargo xtask peer schemathesis URL [TOKEN]        fuzz a running FlowBridge against its own OpenAPI description
cargo xtask peer splink DIR                      match the public set in DIR with Splink, and with this program
cargo xtask peer webhooks FILE                   verify recorded deliveries with the Standard Webhooks libraries";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["dev", arguments @ ..] => dev::run(arguments),
        ["setup"] => setup::everything(),
        ["test", options @ ..] => test::run(options),
        ["tidy"] => tidy::run(),
        ["faults"] => storm::named(""),
        ["faults", only] => storm::named(only),
        ["storm", arguments @ ..] => storm::run(arguments),
        ["mutants"] => mutants::run(""),
        ["mutants", only] => mutants::run(only),
        ["contracts", "build"] => contracts::build(),
        ["contracts", "check"] => contracts::check(),
        ["contracts", "test"] => contracts::test(),
        ["contracts", "prove"] => proof::prove(),
        ["contracts", "inspect"] => proof::inspect(),
        ["contracts", "mutate"] => mutate::run(),
        ["contracts", "mutate", "report"] => mutate::report_so_far(),
        ["contracts", "mutate", function] => mutate::run_in(function),
        ["peers"] => setup::peers().and_then(|()| peer::run(&mut steps::Steps::default())),
        ["peer", "audit", folder, key] => peer::audit::verify(folder.as_ref(), key),
        ["peer", "spectral", document] => peer::spectral::lint(document),
        ["peer", "schemathesis", url] => peer::schemathesis::fuzz(url, None),
        ["peer", "schemathesis", url, token] => peer::schemathesis::fuzz(url, Some(token)),
        ["peer", "splink", folder] => peer::splink::compare(folder.as_ref()),
        ["peer", "webhooks", file] => peer::webhooks::verify(file.as_ref()),
        [] | ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        unknown => Err(anyhow::anyhow!("`{}` is no task. There are:\n{USAGE}", unknown.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}
