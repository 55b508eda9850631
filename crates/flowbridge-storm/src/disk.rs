//! A file system of its own for PostgreSQL's data, so that its disk can be full and nobody else's is.
//!
//! It is an image in the storm's folder, mounted over the data: that takes root and loop devices. Where they are missing, the
//! reason is told and the fault is left out. The image is sparse: it takes the room that the data takes.

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::FallocateFlags;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Disk {
    mounted: PathBuf,
    image: PathBuf,
}

impl Disk {
    /// Moves what is in `data` onto a file system of `bytes`, made in `image`. The server is not running.
    pub(crate) fn under(data: &Path, image: &Path, bytes: u64) -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "mounting a file system takes root");
        File::create(image)?.set_len(bytes)?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0"], &[image])?;
        let beside = image.with_extension("mount");
        std::fs::create_dir_all(&beside)?;
        let disk = Self { mounted: data.to_owned(), image: image.to_owned() };
        run("mount", &["-o", "loop"], &[image, &beside])?;
        let copied = run("cp", &["-a"], &[&data.join("."), &beside]);
        run("umount", &[], &[&beside])?;
        copied?;
        run("mount", &["-o", "loop"], &[image, data])?;
        Ok(disk)
    }

    /// Takes every byte that is free.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast())?;
        let mut size = 0;
        let mut piece = 1_u64 << 30;
        // The last blocks are taken by ever smaller pieces.
        while piece >= 4_096 {
            match rustix::fs::fallocate(&ballast, FallocateFlags::empty(), size, piece) {
                Ok(()) => size += piece,
                Err(rustix::io::Errno::NOSPC) => piece /= 2,
                Err(error) => return Err(error).context("fill PostgreSQL's disk"),
            }
        }
        let _ = ballast.write_all(&[1; 64]);
        Ok(())
    }

    /// Gives the room back.
    pub(crate) fn relieve(&self) -> Result<()> {
        std::fs::remove_file(self.ballast()).context("give PostgreSQL's disk its room back")
    }

    fn ballast(&self) -> PathBuf {
        self.mounted.join("storm.ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &[], &[&self.mounted]);
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Takes away what a storm that was killed has left mounted below `folder`.
pub(crate) fn clear(folder: &Path) -> Result<()> {
    let Ok(folder) = folder.canonicalize() else { return Ok(()) };
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    for place in mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
        if place.starts_with(&folder) {
            run("umount", &["--lazy"], &[place])?;
        }
    }
    Ok(())
}

/// How many bytes are free where `folder` lies.
pub(crate) fn free_bytes(folder: &Path) -> Result<u64> {
    let seen = rustix::fs::statvfs(folder).with_context(|| format!("look at {}", folder.display()))?;
    Ok(seen.f_bavail.saturating_mul(seen.f_frsize))
}

fn run(program: &str, options: &[&str], paths: &[&Path]) -> Result<()> {
    let output = Command::new(program)
        .args(options)
        .args(paths)
        .output()
        .with_context(|| format!("`{program}` cannot be run"))?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
