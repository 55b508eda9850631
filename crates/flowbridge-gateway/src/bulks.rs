//! How many bulk requests a gateway works on at the same time.
//!
//! Each has up to 16 MB of text and ten thousand payments. A place is taken before the body is read, so that the memory of all of them
//! has an end; who finds none is told to ask again. One client has half of them at most: who sends its bodies slowly, or
//! ever more of them, keeps back itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bulk requests at the same time.
const BULKS_MAX: usize = 4;
/// Those of one client.
const BULKS_OF_A_CLIENT_MAX: usize = BULKS_MAX / 2;

/// Whose bulk requests are worked on.
#[derive(Debug, Default)]
pub(crate) struct Bulks(Mutex<Vec<String>>);

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    bulks: &'a Bulks,
    client_id: &'a str,
}

impl Bulks {
    /// A place for one more, if there is one for this client.
    pub(crate) fn take_place<'a>(&'a self, client_id: &'a str) -> Option<Place<'a>> {
        let mut clients = self.clients();
        let own = clients.iter().filter(|other| *other == client_id).count();
        if clients.len() >= BULKS_MAX || own >= BULKS_OF_A_CLIENT_MAX {
            return None;
        }
        clients.push(client_id.to_owned());
        Some(Place { bulks: self, client_id })
    }

    fn clients(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut clients = self.bulks.clients();
        if let Some(place) = clients.iter().position(|client| client == self.client_id) {
            clients.swap_remove(place);
        }
    }
}
