//! The audit log's key and whom it trusts, as the configuration has them.

use crate::config::Config;
use anyhow::{Context as _, Result};
use flowbridge_audit::checkpoint::{LogKey, Trusted};
use flowbridge_security::jose::Algorithm;
use flowbridge_security::keys::{SigningKey, create_private, load_pem};
use flowbridge_workers::audit::Keeping;

/// What the role jobs keeps the audit log with. A key that is missing is made.
pub(crate) fn keeping(config: &Config) -> Result<Keeping> {
    let file = &config.audit.key_file;
    if !file.exists() {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        create_private(file, SigningKey::generate(Algorithm::EdDsa)?.to_pem()?.as_bytes())?;
    }
    let key = log_key(config)?;
    Ok(Keeping { trusted: trusted(config, &key.verifier_key())?, key, archive: config.archive(None)? })
}

/// The key that signs. It has to be there.
pub(crate) fn log_key(config: &Config) -> Result<LogKey> {
    let key = load_pem(&config.audit.key_file).context("[audit] key_file")?;
    LogKey::new(&config.audit_origin(), key).context("[audit] origin and key_file")
}

/// A key, and those that signed before it.
pub(crate) fn trusted(config: &Config, key: &str) -> Result<Trusted> {
    let keys = config.audit.keys_before.iter().map(String::as_str).chain([key]);
    Trusted::new(keys).context("[audit] keys_before")
}
