//! The drop folder: a folder per bank, whose files are taken in and put away.
//!
//! `alpha/statement.xml` goes to `alpha/processed/` or, with a file beside it that says why, to `alpha/refused/`. A file that is
//! still being written has changed since the last look, or is called `.something` or `something.part`, and is left for the
//! next. What the database cannot take now, or what cannot be read or moved, stays where it is, and the other files go on.
//! `alpha/mapping.json` says how CSV files are read.

use super::Settings;
use super::intake::{Upload, UploadError, file};
use crate::context::{Context, chain as causes};
use flowbridge_domain::party::BankCode;
use flowbridge_recon::statement::{FILE_BYTES_MAX, ReadStatementError};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::fs;
use tokio_util::sync::CancellationToken;

/// Files taken in during one look at most.
const FILES_MAX: usize = 100;
const MAPPING: &str = "mapping.json";

/// How a file was the last time: a file that grows is not whole.
type Seen = BTreeMap<PathBuf, (u64, Option<SystemTime>)>;

/// Looks until told to stop.
pub(super) async fn watch(context: &Context, settings: &Settings, stop: &CancellationToken) {
    let Some(folder) = &settings.folder else { return };
    let mut seen = Seen::new();
    while !stop.is_cancelled() {
        match look(context, folder, &mut seen).await {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(folder = %folder.display(), error = causes(&error), "cannot look into the drop folder");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(settings.poll) => {}
            () = stop.cancelled() => {}
        }
    }
}

async fn look(context: &Context, folder: &Path, seen: &mut Seen) -> io::Result<()> {
    let mut now = Seen::new();
    let mut taken = 0;
    let mut banks = fs::read_dir(folder).await?;
    while let Some(entry) = banks.next_entry().await? {
        let Ok(bank) = BankCode::parse(&entry.file_name().to_string_lossy()) else { continue };
        if !entry.file_type().await?.is_dir() {
            continue;
        }
        let mut files = fs::read_dir(entry.path()).await?;
        while let Some(entry) = files.next_entry().await? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let meta = entry.metadata().await?;
            if !meta.is_file() || name.starts_with('.') || name.ends_with(".part") || name == MAPPING {
                continue;
            }
            let path = entry.path();
            let is = (meta.len(), meta.modified().ok());
            if seen.get(&path) != Some(&is) || taken == FILES_MAX {
                now.insert(path, is);
                continue;
            }
            taken += 1;
            if let Err(error) = take_in(context, &bank, &path, (&name, meta.len())).await {
                tracing::error!(
                    bank = bank.as_str(),
                    file = name,
                    error = causes(&error),
                    "cannot read a dropped file, or put it away; the next look tries again"
                );
                now.insert(path, is);
            }
        }
    }
    *seen = now;
    Ok(())
}

async fn take_in(
    context: &Context,
    bank: &BankCode,
    path: &Path,
    (name, bytes): (&str, u64),
) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    if bytes > FILE_BYTES_MAX as u64 {
        return refuse((bank, path, name), &ReadStatementError::TooLarge).await;
    }
    let is_csv = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"));
    let mapping = if is_csv { fs::read_to_string(folder.join(MAPPING)).await.ok() } else { None };
    let upload = Upload {
        bank: bank.clone(),
        channel: "folder",
        name: name.to_owned(),
        by: context.instance.clone(),
        mapping,
        file: fs::read(path).await?,
    };
    match file(context, upload).await {
        Ok(_) => put_away(path, &folder.join("processed"), name).await.map(|_| ()),
        Err(UploadError::Store(error)) => {
            tracing::warn!(
                bank = bank.as_str(),
                error = causes(&error),
                "could not take a dropped statement in; it stays where it is"
            );
            Ok(())
        }
        Err(refused) => refuse((bank, path, name), &refused).await,
    }
}

/// Puts a file aside, with the reason beside it.
async fn refuse(
    (bank, path, name): (&BankCode, &Path, &str),
    refused: &(dyn std::error::Error + Sync),
) -> io::Result<()> {
    let why = causes(refused);
    tracing::warn!(bank = bank.as_str(), file = name, why, "a dropped statement is refused");
    let put = put_away(path, &path.parent().unwrap_or(path).join("refused"), name).await?;
    let mut reason = put.into_os_string();
    reason.push(".reason.txt");
    fs::write(reason, format!("{why}\n")).await
}

/// Moves a file, under another name if its own is taken.
async fn put_away(path: &Path, to: &Path, name: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(to).await?;
    let mut target = to.join(name);
    let mut number = 1;
    while fs::try_exists(&target).await? {
        number += 1;
        target = to.join(format!("{number}-{name}"));
    }
    fs::rename(path, &target).await?;
    Ok(target)
}
