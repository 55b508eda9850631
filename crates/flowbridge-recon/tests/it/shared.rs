//! Data that others made, which is not in this repository.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A folder of that data; without it the test says loudly that it proved nothing.
pub(crate) fn folder(path: &str) -> Option<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "where data outside the repository lies is up to the machine"
    )]
    let root = std::env::var("FLOWBRIDGE_TEST_DATA")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"), PathBuf::from);
    let folder = root.join(path);
    if folder.exists() {
        return Some(folder);
    }
    skipped(&format!("no {}; set FLOWBRIDGE_TEST_DATA", folder.display()));
    None
}

/// Says that a test proved nothing, and why; past the capture of test output, so that it is seen when all is green.
pub(crate) fn skipped(why: &str) {
    let notice = format!("SKIPPED, NOTHING PROVED: {why}\n");
    std::io::stderr().write_all(notice.as_bytes()).expect("standard error is open");
}
