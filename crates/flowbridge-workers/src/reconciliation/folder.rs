//! The drop folder: a folder per bank, whose files are taken in and put away.
//!
//! `alpha/statement.xml` goes to `alpha/processed/` or, with a file beside it that says why, to `alpha/refused/`. A file that is
//! still being written has changed since the last look, or is called `.something` or `something.part`, and is left for the
//! next. What the database cannot take now, or what cannot be read or moved, stays where it is, and the other files go on: a look that has
//! more than it may take in is followed by one that begins behind it. What the database will never take is refused.
//! `alpha/mapping.json` says how CSV files are read. All of this holds for a folder and for a bucket alike (`place`).

use super::Settings;
use super::intake::{self, Upload, UploadError};
use crate::context::{Context, chain as causes};
use crate::place::{Dropped, Place};
use flowbridge_domain::party::BankCode;
use flowbridge_recon::statement::{FILE_BYTES_MAX, ReadStatementError};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// Files taken in during one look at most.
const FILES_MAX: usize = 100;
const MAPPING: &str = "mapping.json";

/// What is known from the looks before.
#[derive(Default)]
struct Seen {
    /// How the files were the last time: one that grows is not whole.
    files: BTreeSet<Dropped>,
    /// The last one that was tried, where there were more.
    tried: Option<PathBuf>,
}

/// Looks until told to stop. A look that is cut off leaves nothing half done: what it took in and did not put away is a repeat
/// when it is taken in again.
pub(super) async fn watch(context: &Context, settings: &Settings, stop: &CancellationToken) {
    let Some(place) = &settings.folder else { return };
    let mut seen = Seen::default();
    while stop.run_until_cancelled(look(context, place, &mut seen)).await.is_some() {
        stop.run_until_cancelled(tokio::time::sleep(settings.poll)).await;
    }
}

async fn look(context: &Context, place: &Place, seen: &mut Seen) {
    let folders = match place.folders().await {
        Ok(folders) => folders,
        Err(error) => {
            tracing::error!(folder = %place, error = causes(&error), "cannot look into the drop folder");
            return;
        }
    };
    let (mut now, mut whole) = (BTreeSet::new(), BTreeMap::new());
    for folder in folders {
        let Ok(bank) = BankCode::parse(&folder) else { continue };
        for file in files_of(place, &bank).await {
            if seen.files.contains(&file) {
                whole.insert(file.path.clone(), (bank.clone(), file));
            } else {
                now.insert(file);
            }
        }
    }
    let (tried, left) = in_turn(whole, seen.tried.as_deref());
    seen.tried = tried.last().filter(|_| !left.is_empty()).map(|(_, file)| file.path.clone());
    now.extend(left.into_iter().map(|(_, file)| file));
    for (bank, file) in tried {
        if let Err(error) = take_in(context, place, &bank, &file).await {
            tracing::error!(
                bank = bank.as_str(),
                file = file.name(),
                error = causes(&error),
                "cannot read a dropped file, or put it away; the next look tries again"
            );
            now.insert(file);
        }
    }
    seen.files = now;
}

/// The files for this look, those behind the last one tried before the others, and the files for the next: what fails at each look keeps
/// none from its turn.
fn in_turn<T>(whole: BTreeMap<PathBuf, T>, tried: Option<&Path>) -> (Vec<T>, Vec<T>) {
    let (behind, before): (Vec<_>, Vec<_>) =
        whole.into_iter().partition(|(path, _)| tried.is_none_or(|tried| path.as_path() > tried));
    let mut files = behind.into_iter().chain(before).map(|(_, file)| file);
    (files.by_ref().take(FILES_MAX).collect(), files.collect())
}

/// What may be a bank's statements. A folder that cannot be listed keeps none of the others from being looked at.
async fn files_of(place: &Place, bank: &BankCode) -> Vec<Dropped> {
    match place.files(bank.as_str()).await {
        Ok(files) => files.into_iter().filter(may_be_statement).collect(),
        Err(error) => {
            tracing::error!(
                bank = bank.as_str(),
                error = causes(&error),
                "cannot look into a bank's part of the drop folder; the next look tries again"
            );
            Vec::new()
        }
    }
}

fn may_be_statement(file: &Dropped) -> bool {
    let name = file.name();
    !name.starts_with('.') && !name.ends_with(".part") && name != MAPPING
}

async fn take_in(context: &Context, place: &Place, bank: &BankCode, file: &Dropped) -> io::Result<()> {
    if file.bytes > FILE_BYTES_MAX as u64 {
        return refuse(place, bank, file, &ReadStatementError::TooLarge).await;
    }
    let upload = Upload {
        bank: bank.clone(),
        channel: "folder",
        name: file.name(),
        by: context.instance.clone(),
        mapping: mapping_for(place, bank, file).await?,
        file: place.read(&file.path).await?,
    };
    match intake::file(context, upload).await {
        Ok(_) => {
            let target = free_name(place, bank, "processed", file).await?;
            place.rename(&file.path, &target).await
        }
        Err(UploadError::Store(error)) if error.is_retryable() => {
            tracing::warn!(
                bank = bank.as_str(),
                error = causes(&error),
                "could not take a dropped statement in; it stays where it is"
            );
            Ok(())
        }
        Err(refused) => refuse(place, bank, file, &refused).await,
    }
}

/// How a bank's CSV files are read, if the file is one and that is said.
async fn mapping_for(place: &Place, bank: &BankCode, file: &Dropped) -> io::Result<Option<String>> {
    if !file.path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv")) {
        return Ok(None);
    }
    match place.read(&Path::new(bank.as_str()).join(MAPPING)).await {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts a file aside. The reason is there before it, so that none ever lies there without.
async fn refuse(
    place: &Place,
    bank: &BankCode,
    file: &Dropped,
    refused: &(dyn std::error::Error + Sync),
) -> io::Result<()> {
    let why = causes(refused);
    tracing::warn!(bank = bank.as_str(), file = file.name(), why, "a dropped statement is refused");
    let target = free_name(place, bank, "refused", file).await?;
    let mut reason = target.clone().into_os_string();
    reason.push(".reason.txt");
    place.write(Path::new(&reason), format!("{why}\n").into_bytes()).await?;
    place.rename(&file.path, &target).await
}

/// Where a file is put away: under another name if its own is taken.
async fn free_name(place: &Place, bank: &BankCode, shelf: &str, file: &Dropped) -> io::Result<PathBuf> {
    let (shelf, name) = (Path::new(bank.as_str()).join(shelf), file.name());
    let mut target = shelf.join(&name);
    let mut number = 1;
    while place.holds(&target).await? {
        number += 1;
        target = shelf.join(format!("{number}-{name}"));
    }
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_fail_at_each_look_keep_no_other_from_its_turn() {
        let dropped = |names: &[String]| -> BTreeMap<PathBuf, String> {
            names.iter().map(|name| (PathBuf::from(name), name.clone())).collect()
        };
        let mut names: Vec<String> = (0..=FILES_MAX).map(|number| format!("alpha/{number:03}")).collect();
        names.push("beta/monday".to_owned());
        let (first, left) = in_turn(dropped(&names), None);
        assert_eq!((first.len(), left.len()), (FILES_MAX, 2));
        let last = PathBuf::from(first.last().unwrap());
        let (next, _) = in_turn(dropped(&names), Some(&last));
        assert_eq!(next[..3], [names[100].clone(), names[101].clone(), names[0].clone()]);
    }
}
