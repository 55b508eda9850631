//! Where statements are dropped: a folder that the bank role can write to, or a bucket. Both have a folder per bank, and do the
//! same few things, told by paths below themselves. What becomes of a file is decided in `folder` alone.

use super::bucket::Bucket;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::fs;

/// Where statements are dropped.
#[derive(Debug, Clone)]
pub enum Place {
    /// A folder, on a file system that can rename.
    Folder(PathBuf),
    /// A bucket of S3, from a prefix on.
    Bucket(Bucket),
}

/// A file as it is listed. Its state is part of it: one that has changed is another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Dropped {
    /// Below the place, such as `alpha/monday.sta`.
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
    pub(super) changed_at: Option<SystemTime>,
}

impl Dropped {
    /// What it is called, without its folder.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(root) => write!(f, "{}", root.display()),
            Self::Bucket(bucket) => write!(f, "{bucket}"),
        }
    }
}

impl Place {
    /// The names of its folders.
    pub(super) async fn folders(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Folder(root) => folders_in(root).await,
            Self::Bucket(bucket) => bucket.folders().await,
        }
    }

    /// The files of one of its folders, not those of folders in it.
    pub(super) async fn files(&self, folder: &str) -> io::Result<Vec<Dropped>> {
        match self {
            Self::Folder(root) => files_in(root, folder).await,
            Self::Bucket(bucket) => bucket.files(folder).await,
        }
    }

    /// A file's contents. [`io::ErrorKind::NotFound`]: there is none.
    pub(super) async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self {
            Self::Folder(root) => fs::read(root.join(path)).await,
            Self::Bucket(bucket) => bucket.read(path).await,
        }
    }

    /// Is that name taken?
    pub(super) async fn holds(&self, path: &Path) -> io::Result<bool> {
        match self {
            Self::Folder(root) => fs::try_exists(root.join(path)).await,
            Self::Bucket(bucket) => bucket.holds(path).await,
        }
    }

    /// Writes a small text.
    pub(super) async fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        match self {
            Self::Folder(root) => {
                let path = root.join(path);
                make_folder_of(&path).await?;
                fs::write(path, text).await
            }
            Self::Bucket(bucket) => bucket.write(path, text).await,
        }
    }

    /// Moves a file to a name that is not taken.
    pub(super) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        match self {
            Self::Folder(root) => {
                let to = root.join(to);
                make_folder_of(&to).await?;
                fs::rename(root.join(from), to).await
            }
            Self::Bucket(bucket) => bucket.rename(from, to).await,
        }
    }
}

async fn folders_in(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut entries = fs::read_dir(root).await?;
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_type().await?.is_dir() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    Ok(names)
}

async fn files_in(root: &Path, folder: &str) -> io::Result<Vec<Dropped>> {
    let mut files = Vec::new();
    let mut entries = fs::read_dir(root.join(folder)).await?;
    while let Some(entry) = entries.next_entry().await? {
        let meta = match entry.metadata().await {
            Ok(meta) => meta,
            // Renamed since it was listed: the next look finds it under its name.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if meta.is_file() {
            files.push(Dropped {
                path: Path::new(folder).join(entry.file_name()),
                bytes: meta.len(),
                changed_at: meta.modified().ok(),
            });
        }
    }
    Ok(files)
}

async fn make_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => fs::create_dir_all(folder).await,
        None => Ok(()),
    }
}
