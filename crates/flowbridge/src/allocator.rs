//! The allocator, set for what is run.
//!
//! mimalloc as it is serves the roles: it asks for huge pages and keeps what was freed for a second, because the next request
//! wants it. A command that matches files asks for much once and ends: there a huge page is mostly empty, and what was freed
//! is missing elsewhere. mimalloc reads its settings from the environment before `main`, so such a command starts itself once
//! more with them, as the same process. Whoever has set one of them is left alone; and where it cannot be done, the command
//! runs as it is, with more memory. What it saves: docs/adr/0008.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FRUGAL: [(&str, &str); 2] = [("MIMALLOC_ALLOW_THP", "0"), ("MIMALLOC_PURGE_DELAY", "0")];

/// Goes on with an allocator that keeps nothing. Comes back only where it does already, or will not be set.
pub(crate) fn keep_nothing() {
    if FRUGAL.iter().any(|(setting, _)| std::env::var_os(setting).is_some()) {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        let _ = Command::new(program).args(std::env::args_os().skip(1)).envs(FRUGAL).exec();
    }
}
