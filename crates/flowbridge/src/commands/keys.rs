//! `flowbridge keys`: exchanging the keys of the key folder.

use super::say;
use crate::config::Config;
use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use flowbridge_security::keys::KeyFolder;
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Put a new key in the place of the one in use; the old one stays for what it has signed or sealed
    Rotate {
        /// Which
        key: Rotated,
    },
}

/// A key that can be exchanged.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Rotated {
    /// Signs access tokens
    Tokens,
    /// Seals webhook secrets in the database
    Sealing,
}

pub(super) fn run(command: &KeysCommand, config: &Config) -> Result<ExitCode> {
    let folder = KeyFolder::new(&config.security.keys);
    let KeysCommand::Rotate { key } = command;
    match key {
        Rotated::Tokens => {
            let keys = folder.rotate()?;
            say(format_args!(
                "{} signs access tokens from the next start of each gateway on; after that, and the life of a token, delete retired-*.pem",
                keys.current.key_id()
            ));
        }
        Rotated::Sealing => {
            let id = folder.rotate_sealing_key()?;
            say(format_args!(
                "{id} seals from now on; the webhooks role seals anew what others sealed, and logs how much. \
                 Restart the gateways; 72 hours later, when their kept answers are gone, delete sealing-retired-*.key"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}
