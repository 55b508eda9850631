//! Where files lie: a folder that the role can write to, or a bucket. Both do the same few things, told by paths below themselves.
//!
//! Statements are dropped into one, and the archive is another. What is written is there whole or not at all, also after the machine
//! loses its power, and what is written once stays as it is: whoever writes the same again changes nothing.

mod bucket;

pub use bucket::{Bucket, BucketConfig, OpenBucketError};

use flowbridge_recon::statement::FILE_BYTES_MAX;
use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tokio::fs;
use tokio::task::spawn_blocking;

/// Where files lie.
#[derive(Debug, Clone)]
pub enum Place {
    /// A folder, on a file system that can rename.
    Folder(PathBuf),
    /// A bucket of S3, from a prefix on.
    Bucket(Bucket),
}

/// A file as it is listed. Its state is part of it: one that has changed is another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dropped {
    /// Below the place, such as `alpha/monday.sta`.
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) changed_at: Option<SystemTime>,
}

impl Dropped {
    /// What it is called, without its folder.
    pub(crate) fn name(&self) -> String {
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
    pub(crate) async fn folders(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Folder(root) => folders_in(root).await,
            Self::Bucket(bucket) => bucket.folders().await,
        }
    }

    /// The files of one of its folders, not those of folders in it.
    pub(crate) async fn files(&self, folder: &str) -> io::Result<Vec<Dropped>> {
        match self {
            Self::Folder(root) => files_in(root, folder).await,
            Self::Bucket(bucket) => bucket.files(folder).await,
        }
    }

    /// A file's contents. [`io::ErrorKind::NotFound`]: there is none.
    pub(crate) async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match self {
            Self::Folder(root) => {
                let path = root.join(path);
                let about = fs::metadata(&path).await?;
                if !about.is_file() || about.len() > FILE_BYTES_MAX as u64 {
                    let why = format!("{} is no file, or larger than any that is read", path.display());
                    return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
                }
                fs::read(path).await
            }
            Self::Bucket(bucket) => bucket.read(path).await,
        }
    }

    /// Is that name taken?
    pub(crate) async fn holds(&self, path: &Path) -> io::Result<bool> {
        match self {
            Self::Folder(root) => fs::try_exists(root.join(path)).await,
            Self::Bucket(bucket) => bucket.holds(path).await,
        }
    }

    /// Writes a file, in the place of what has its name.
    pub(crate) async fn write(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Folder(root) => {
                let path = root.join(path);
                blocking(move || Aside::write(&path, &bytes)?.replace()).await
            }
            Self::Bucket(bucket) => bucket.write(path, bytes).await,
        }
    }

    /// Writes a file that is never to change. One that is there already stays; [`io::ErrorKind::AlreadyExists`] if it holds something
    /// else.
    pub(crate) async fn keep(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let is_new = match self {
            Self::Folder(root) => {
                let (path, bytes) = (root.join(path), bytes.clone());
                blocking(move || Aside::write(&path, &bytes)?.keep()).await?
            }
            Self::Bucket(bucket) => bucket.create(path, bytes.clone()).await?,
        };
        if is_new || self.read(path).await? == bytes {
            return Ok(());
        }
        let why = format!("{} holds something else than what was to be kept there", path.display());
        Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
    }

    /// Moves a file to a name that is not taken.
    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// A file that is written and flushed under another name than it will have; removed unless it was given that.
struct Aside<'a> {
    path: PathBuf,
    will_be: &'a Path,
}

impl<'a> Aside<'a> {
    fn write(will_be: &'a Path, bytes: &[u8]) -> io::Result<Self> {
        let name = will_be.file_name().unwrap_or_default().to_string_lossy();
        let path = will_be.with_file_name(format!(".{name}.{:016x}.new", rand::random::<u64>()));
        if let Some(folder) = will_be.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let aside = Self { path, will_be };
        let mut file = std::fs::File::create_new(&aside.path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(aside)
    }

    /// Gives it its name, whoever had that.
    fn replace(self) -> io::Result<()> {
        std::fs::rename(&self.path, self.will_be)?;
        self.flush_folder()
    }

    /// Gives it its name; false if somebody has that.
    fn keep(self) -> io::Result<bool> {
        match std::fs::hard_link(&self.path, self.will_be) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
            Ok(()) => self.flush_folder().map(|()| true),
        }
    }

    fn flush_folder(&self) -> io::Result<()> {
        self.will_be.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
    }
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        // Renamed, it is gone.
        drop(std::fs::remove_file(&self.path));
    }
}
