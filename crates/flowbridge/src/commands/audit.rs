//! `flowbridge audit`: what is in the audit log, proofs of it, and the check of an archive from outside.

use super::contracts::administrator;
use super::say;
use crate::audit::{log_key, trusted};
use crate::chain::{connect, read_deployments};
use crate::config::Config;
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, Subcommand};
use flowbridge_audit::checkpoint::{Checkpoint, Trusted, parse_proof, proof};
use flowbridge_audit::leaf::Leaf;
use flowbridge_audit::{Hash, tree};
use flowbridge_chain::governance::pinned;
use flowbridge_chain::{Key, call};
use flowbridge_domain::party::EvmAddress;
use flowbridge_store::Db;
use flowbridge_store::audit as rows;
use flowbridge_workers::audit::verify as check_archive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Print what others verify checkpoints and proofs with
    Key,
    /// List entries, newest first
    List(ListArgs),
    /// Write the proof that an entry is in the log, and the entry itself
    Prove(ProveArgs),
    /// Check an entry against its proof
    Check(CheckArgs),
    /// Check an archive: its checkpoint, every entry, every tile, every report
    Verify(VerifyArgs),
    /// Pin the newest checkpoint on chain, where nobody can take it back
    Anchor(AnchorArgs),
    /// Have everything written into the archive once more, which has moved, or was lost
    ArchiveAgain,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only what was done to this: a reconciliation, an exception, a model's proposal
    #[arg(long, value_name = "ID")]
    object: Option<String>,
    /// Only entries before this one
    #[arg(long, value_name = "SEQUENCE")]
    before: Option<u64>,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Print each entry as it was hashed
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ProveArgs {
    /// The entry
    sequence: u64,
    /// Where they go: SEQUENCE.tlog-proof and SEQUENCE.json
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The proof (C2SP tlog-proof)
    proof: PathBuf,
    /// The entry, as it was hashed
    entry: PathBuf,
    #[command(flatten)]
    keys: Keys,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A folder, or s3://BUCKET/PREFIX; without it [audit] archive
    #[arg(long, value_name = "PLACE")]
    archive: Option<String>,
    /// A checkpoint that you have kept: the log must go on from it; once for each
    #[arg(long, value_name = "FILE")]
    since: Vec<PathBuf>,
    /// The log must go on from what is pinned on chain, too
    #[arg(long)]
    chain: bool,
    /// Compare with the entries in the database as well
    #[arg(long)]
    database: bool,
    #[command(flatten)]
    keys: Keys,
}

#[derive(Debug, Args)]
pub(crate) struct AnchorArgs {
    /// File with the key that may pin: the anchorer of `flowbridge contracts deploy`
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
}

#[derive(Debug, Args)]
struct Keys {
    /// What `flowbridge audit key` printed on the machine that signs; without it the configured key
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

impl Keys {
    fn trusted(&self, config: &Config) -> Result<Trusted> {
        if self.keys.is_empty() {
            return trusted(config, &log_key(config)?.verifier_key());
        }
        Ok(Trusted::new(self.keys.iter().map(String::as_str))?)
    }
}

/// Runs a command.
pub(super) async fn run(
    command: AuditCommand,
    config: &Config,
    database: impl Fn() -> Result<Db>,
) -> Result<ExitCode> {
    match command {
        AuditCommand::Key => say(log_key(config)?.verifier_key()),
        AuditCommand::List(args) => list(&args, &database()?).await?,
        AuditCommand::Prove(args) => prove(&args, config, &database()?).await?,
        AuditCommand::Check(args) => return check(&args, config),
        AuditCommand::Verify(args) => return verify(&args, config, database).await,
        AuditCommand::Anchor(args) => anchor(&args, config, &database()?).await?,
        AuditCommand::ArchiveAgain => {
            rows::archive_again(&database()?).await?;
            say(
                "the role jobs writes all reports and the whole log into the archive that it is configured with",
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &ListArgs, db: &Db) -> Result<()> {
    for entry in rows::list(db, args.before, args.object.as_deref(), args.limit.into()).await? {
        if args.json {
            say(String::from_utf8_lossy(&entry.leaf));
        } else {
            // As it was hashed: what stands beside it serves to look for it.
            let leaf = Leaf::parse(&entry.leaf).with_context(|| format!("entry {}", entry.sequence))?;
            let actor = leaf.actor.as_deref().unwrap_or("-");
            say(format_args!(
                "{:>8}  {}  {:<26}  {:<30}  {actor}",
                entry.sequence, leaf.recorded_at, leaf.action, leaf.object
            ));
        }
    }
    Ok(())
}

/// The newest checkpoint, and its note.
async fn newest(config: &Config, db: &Db) -> Result<(Checkpoint, String)> {
    let saved = rows::newest_checkpoint(db).await?;
    let saved = saved.context("no checkpoint was signed yet: does the role jobs run?")?;
    let checkpoint = trusted(config, &log_key(config)?.verifier_key())?.open(saved.note.as_bytes())?;
    Ok((checkpoint, saved.note))
}

async fn prove(args: &ProveArgs, config: &Config, db: &Db) -> Result<()> {
    let sequence = args.sequence;
    let (checkpoint, note) = newest(config, db).await?;
    if sequence >= checkpoint.size {
        bail!(
            "the newest checkpoint covers {} entries, 0 to {}",
            checkpoint.size,
            checkpoint.size.saturating_sub(1)
        );
    }
    let needed = tree::inclusion_needs(checkpoint.size, sequence)?;
    let stored = rows::hashes(db, &needed).await?;
    let hashes = stored.into_iter().map(|(number, hash)| (number, Hash(hash))).collect();
    let hashes = tree::inclusion(checkpoint.size, sequence, &hashes)?;
    let entries = rows::entries(db, sequence, sequence + 1).await?;
    let leaf = &entries.first().context("there is no such entry")?.leaf;
    if !tree::is_included(&hashes, (checkpoint.size, checkpoint.root), sequence, leaf) {
        bail!("entry {sequence} is not what was signed: see docs/runbooks/audit-log.md");
    }
    let write = |name: String, bytes: &[u8]| {
        let path = args.out.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        say(path.display());
        anyhow::Ok(())
    };
    write(format!("{sequence}.tlog-proof"), proof(sequence, &hashes, &note).as_bytes())?;
    write(format!("{sequence}.json"), leaf)
}

fn check(args: &CheckArgs, config: &Config) -> Result<ExitCode> {
    let text = String::from_utf8(read(&args.proof)?).context("the proof is no text")?;
    let (sequence, hashes, note) =
        parse_proof(&text).with_context(|| format!("{} is no C2SP tlog-proof", args.proof.display()))?;
    let checkpoint = args.keys.trusted(config)?.open(note.as_bytes())?;
    let entry = read(&args.entry)?;
    if tree::is_included(&hashes, (checkpoint.size, checkpoint.root), sequence, &entry) {
        say(format_args!("it is entry {sequence} of {}", checkpoint.size));
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("it is not entry {sequence} of the {} that were signed", checkpoint.size));
    Ok(ExitCode::FAILURE)
}

async fn verify(args: &VerifyArgs, config: &Config, database: impl Fn() -> Result<Db>) -> Result<ExitCode> {
    let trusted = args.keys.trusted(config)?;
    let archive = config
        .archive(args.archive.as_deref())?
        .context("there is no archive: name one with --archive, or in [audit] archive")?;
    let mut since = args.since.iter().map(|file| earlier(&trusted, file)).collect::<Result<Vec<_>>>()?;
    if args.chain {
        let pin = pinned(&*connect(config).await?, &anchor_address(config)?).await?;
        since.extend(pin.map(|(size, root)| Checkpoint { size, root: Hash(root) }));
        match pin {
            Some((size, _)) => say(format_args!("{size} entries are pinned on chain")),
            None => say("nothing is pinned on chain"),
        }
    }
    let db = args.database.then(database).transpose()?;
    let verified = check_archive(&archive, &trusted, &since, db.as_ref())
        .await
        .with_context(|| format!("cannot read {archive}"))?;
    for problem in &verified.problems {
        say(problem);
    }
    if verified.more > 0 {
        say(format_args!("and {} more", verified.more));
    }
    let is_right = verified.problems.is_empty();
    say(format_args!(
        "{} entries, {} reports: {}",
        verified.entries,
        verified.reports,
        if is_right { "all as they were signed" } else { "NOT as they were signed" }
    ));
    Ok(if is_right { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn anchor(args: &AnchorArgs, config: &Config, db: &Db) -> Result<()> {
    let (checkpoint, _) = newest(config, db).await?;
    let (chain, address, key) = (connect(config).await?, anchor_address(config)?, Key::read(&args.key)?);
    let before = pinned(&*chain, &address).await?.unwrap_or_default();
    let pin = Checkpoint { size: before.0, root: Hash(before.1) };
    let before = pin.size;
    ensure!(
        before <= checkpoint.size,
        "{before} entries are pinned on chain, and the newest checkpoint has {}: nothing can be pinned before it has more. Was a new log begun? See \
         docs/runbooks/audit-log.md",
        checkpoint.size
    );
    let stored = rows::hashes(db, &tree::extends_needs(checkpoint.size, before)?).await?;
    let hashes = stored.into_iter().map(|(number, hash)| (number, Hash(hash))).collect();
    ensure!(
        pin.is_continued_by(checkpoint.size, &hashes)?,
        "the log does not go on from the {before} entries that are pinned on chain: it is another log, or was written anew. See \
         docs/runbooks/audit-log.md"
    );
    if before == checkpoint.size {
        say(format_args!("all {before} entries that are signed are pinned already"));
        return Ok(());
    }
    administrator(config, &*chain, &key)
        .send(Some(&address), &call::anchor(&checkpoint.root.0, checkpoint.size))
        .await
        .with_context(|| {
            format!("nothing was pinned with the key of {}: is it the anchorer's?", key.address())
        })?;
    say(format_args!("{} entries are pinned on chain, {before} were before", checkpoint.size));
    Ok(())
}

/// The audit log's anchor, which all currencies share.
fn anchor_address(config: &Config) -> Result<EvmAddress> {
    let deployments = read_deployments(config)?;
    let governance = deployments.iter().find_map(|deployment| deployment.governance.as_ref());
    let governance = governance
        .context("there is no anchor: contracts under a vault have one (`flowbridge contracts govern`)")?;
    Ok(governance.anchor_address()?)
}

fn earlier(trusted: &Trusted, file: &Path) -> Result<Checkpoint> {
    trusted.open(&read(file)?).with_context(|| file.display().to_string())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
