//! Against a real node: the contracts do what our bytes say, and the watcher sees it all, reorganisations included. And against
//! every order of events: models of the nonces and of finality.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod endpoints;
mod finality;
mod life;
mod node;
mod nonces;
mod signers;
mod vault;
mod watching;
mod zks;
