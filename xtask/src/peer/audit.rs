//! The audit log's archive, checked by libraries that know nothing of FlowBridge: `cryptography` verifies the checkpoint, `pymerkle`
//! builds the tree. They must refuse it, too, once a byte of an entry, of a report or of the checkpoint is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::stage::Stage;
use crate::{setup, shell};

/// How long reports may take into the archive.
const PATIENCE: Duration = Duration::from_secs(120);

/// Checks the archive in `folder` with the key that `flowbridge audit key` printed.
pub(crate) fn verify(folder: &Path, key: &str) -> Result<()> {
    setup::peers()?;
    let folder = folder.canonicalize().with_context(|| format!("there is no folder {}", folder.display()))?;
    shell::run(script(&folder, key))
}

/// Has everything reconciled, waits until it is archived, and checks that, and what somebody has changed.
pub(crate) fn reconcile_and_verify(stage: &Stage) -> Result<()> {
    shell::output(stage.flowbridge(&["recon", "start"]))?;
    let key = shell::output(stage.flowbridge(&["audit", "key"]))?.trim().to_owned();
    let entries =
        || Ok::<_, anyhow::Error>(shell::output(stage.flowbridge(&["audit", "list"]))?.lines().count());
    let deadline = Instant::now() + PATIENCE;
    let count = loop {
        let count = entries()?;
        // Nothing is published yet, or not all of it.
        let verified = shell::output(stage.flowbridge(&["audit", "verify"])).unwrap_or_default();
        let is_whole =
            count > 2 && verified.contains(&format!("{count} entries")) && !verified.contains(" 0 reports");
        if is_whole && entries()? == count {
            break count;
        }
        ensure!(Instant::now() < deadline, "the reports are not in the archive: {verified}");
        thread::sleep(Duration::from_millis(500));
    };
    let archive = stage.file(".flowbridge/archive");
    verify(&archive, &key)?;
    let changed = stage.file("changed-archive");
    let report = first_file(&archive.join("reports"))?;
    // One bundle holds them all; those of earlier checkpoints lie beside it.
    let bundle = archive.join(format!("audit/tile/entries/000.p/{count}"));
    for file in [bundle, report, archive.join("audit/checkpoint")] {
        copy(&archive, &changed)?;
        let file = changed.join(file.strip_prefix(&archive)?);
        let mut bytes = fs::read(&file)?;
        let place = bytes.len() / 2;
        let byte = bytes.get_mut(place).with_context(|| format!("{} is empty", file.display()))?;
        *byte ^= 1;
        fs::write(&file, bytes)?;
        if shell::output(script(&changed, &key)).is_ok() {
            bail!("they believe an archive in which a byte of {} is another", file.display());
        }
    }
    println!("    and refuse it with a byte of an entry, of a report or of the checkpoint changed");
    Ok(())
}

fn script(folder: &Path, key: &str) -> std::process::Command {
    let python = shell::root().join(".tools/python/bin/python");
    shell::command(python, &["tools/verify_audit.py", &folder.display().to_string(), key])
}

/// A file that is not empty, somewhere below.
fn first_file(folder: &Path) -> Result<PathBuf> {
    files(folder)?
        .into_iter()
        .find(|file| fs::metadata(file).is_ok_and(|about| about.len() > 0))
        .with_context(|| format!("nothing is in {}", folder.display()))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to)?;
    }
    for file in files(from)? {
        let copy = to.join(file.strip_prefix(from)?);
        if let Some(folder) = copy.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(&file, &copy)?;
    }
    Ok(())
}
