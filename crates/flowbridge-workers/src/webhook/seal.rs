//! The keys of endpoints at rest: opened to sign, and sealed anew when there is a newer sealing key, or when they are from
//! before they were sealed at all.

use crate::context::{Context, chain};
use flowbridge_domain::id::WebhookEndpointId;
use flowbridge_security::sealing::{OpenError, Sealed, SealingKeys};
use flowbridge_security::webhook::EndpointKeys;
use flowbridge_store::StoreError;
use flowbridge_store::webhook::{self as store, SealedAnew, SealedKeys, StoredKeys, ToSeal};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Endpoints sealed in one transaction.
const SLICE_MAX: i64 = 500;

/// Keys that were opened, as many as are in use: opening them takes longer than signing with them.
#[derive(Debug, Default)]
pub(super) struct OpenedKeys(Mutex<HashMap<(WebhookEndpointId, Vec<u8>), Arc<EndpointKeys>>>);

/// Endpoints whose keys are remembered; beyond that everything is forgotten and learned again.
const OPENED_MAX: usize = 1_024;

impl OpenedKeys {
    /// An endpoint's keys, to sign with.
    pub(super) fn open(
        &self,
        stored: &StoredKeys,
        endpoint: WebhookEndpointId,
        keys: &SealingKeys,
    ) -> Result<Arc<EndpointKeys>, OpenError> {
        let StoredKeys::Sealed(sealed) = stored else {
            return open_keys(stored, endpoint, keys).map(Arc::new);
        };
        let place = (endpoint, sealed.bytes.clone());
        let mut opened = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = opened.get(&place) {
            return Ok(known.clone());
        }
        let new = Arc::new(open_keys(stored, endpoint, keys)?);
        if opened.len() >= OPENED_MAX {
            opened.clear();
        }
        opened.insert(place, new.clone());
        Ok(new)
    }
}

fn open_keys(
    stored: &StoredKeys,
    endpoint: WebhookEndpointId,
    keys: &SealingKeys,
) -> Result<EndpointKeys, OpenError> {
    match stored {
        StoredKeys::Sealed(sealed) => {
            let sealed = Sealed { key_id: sealed.key_id.clone(), bytes: sealed.bytes.clone() };
            EndpointKeys::open(&sealed, endpoint, keys)
        }
        StoredKeys::Plain { hmac_key, ed25519_seed } => {
            EndpointKeys::from_stored(hmac_key, ed25519_seed).map_err(|_| OpenError::Damaged)
        }
    }
}

/// Seals with the newest key what is not sealed with it yet. One whose keys cannot be opened is told and left as it is.
pub async fn seal_anew(context: &Context, keys: &SealingKeys) -> Result<usize, StoreError> {
    if let Err(error) = keys.reload() {
        tracing::error!(error = chain(&error), "the key folder cannot be read");
        return Ok(0);
    }
    let newest = keys.newest();
    let tx = context.db.begin().await?;
    let mut sealed = Vec::new();
    for endpoint in store::to_seal(&tx, &newest, SLICE_MAX).await? {
        match sealed_anew(&endpoint, keys) {
            Ok(anew) => sealed.push(anew),
            Err(error) => {
                tracing::error!(endpoint.id = %endpoint.id, error = chain(&error), "the keys of a webhook endpoint cannot be sealed anew");
            }
        }
    }
    if sealed.is_empty() {
        tx.rollback().await?;
        return Ok(0);
    }
    store::seal(&tx, &sealed).await?;
    tx.commit().await?;
    let key_id = sealed.last().map(|last| last.keys.key_id.as_str());
    tracing::info!(
        endpoints = sealed.len(),
        key_id,
        "sealed the keys of webhook endpoints with the newest key"
    );
    Ok(sealed.len())
}

fn sealed_anew(endpoint: &ToSeal, keys: &SealingKeys) -> Result<SealedAnew, OpenError> {
    let seal = |stored: &StoredKeys| -> Result<SealedKeys, OpenError> {
        let Sealed { key_id, bytes } = open_keys(stored, endpoint.id, keys)?.seal(endpoint.id, keys)?;
        Ok(SealedKeys { key_id, bytes })
    };
    Ok(SealedAnew {
        id: endpoint.id,
        keys: seal(&endpoint.keys)?,
        previous: endpoint.previous.as_ref().map(seal).transpose()?,
    })
}
