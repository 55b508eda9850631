//! Against a real node: the contracts do what our bytes say, and the watcher sees it all, reorganisations included.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod life;
mod node;
mod vault;
mod watching;
