//! Who may sign in: registered clients with their public keys, and the assertions that have been used.

use crate::db::{Db, StoreError};
use crate::sql::{At, statements};
use flowbridge_domain::id::ParticipantId;
use flowbridge_domain::time::Timestamp;
use serde_json::Value;
use uuid::Uuid;

statements! {
    REGISTER = "insert into oauth_client (client_id, participant_id, name, scopes, jwks, created_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (client_id) do update set scopes = excluded.scopes, jwks = excluded.jwks, name = excluded.name
            where oauth_client.participant_id is not distinct from excluded.participant_id";

    FIND = "select participant_id, scopes, jwks, status from oauth_client where client_id = $1";

    // The first use inserts; a repeat finds the row.
    USE_ASSERTION = "insert into used_assertion (jti_hash, expires_at) values ($1, $2) on conflict do nothing returning 1";
}

/// A registered client.
#[derive(Debug, Clone)]
pub struct OauthClient {
    /// Its id.
    pub client_id: String,
    /// Whose it is; none for an operator of ours.
    pub participant: Option<ParticipantId>,
    /// For people.
    pub name: String,
    /// The scopes it may have.
    pub scopes: Vec<String>,
    /// Its public keys, a JWK set.
    pub jwks: Value,
    /// May it sign in?
    pub active: bool,
}

/// Registers a client, or changes the keys and scopes of one that the same participant has.
pub async fn register_client(db: &Db, client: &OauthClient, now: Timestamp) -> Result<(), StoreError> {
    db.query(
        REGISTER,
        &[
            &client.client_id,
            &client.participant.map(|participant| participant.as_uuid()),
            &client.name,
            &client.scopes,
            &client.jwks,
            &At(now),
        ],
    )
    .await?;
    Ok(())
}

/// Finds a client.
pub async fn find_client(db: &Db, client_id: &str) -> Result<Option<OauthClient>, StoreError> {
    let rows = db.query(FIND, &[&client_id]).await?;
    rows.first()
        .map(|row| {
            Ok(OauthClient {
                client_id: client_id.to_owned(),
                participant: row.try_get::<_, Option<Uuid>>("participant_id")?.map(ParticipantId::from_uuid),
                name: String::new(),
                scopes: row.try_get("scopes")?,
                jwks: row.try_get("jwks")?,
                active: row.try_get::<_, &str>("status")? == "active",
            })
        })
        .transpose()
}

/// Is this the first use of an assertion? Remembered until it has expired.
pub async fn first_use(db: &Db, digest: [u8; 32], until: Timestamp) -> Result<bool, StoreError> {
    Ok(!db.query(USE_ASSERTION, &[&digest.to_vec(), &At(until)]).await?.is_empty())
}
