//! Who may sign in: registered clients with their public keys, and the assertions that have been used.

use crate::db::{Db, StoreError};
use crate::sql::{At, statements};
use flowbridge_domain::id::ParticipantId;
use flowbridge_domain::time::Timestamp;
use serde_json::Value;
use std::collections::HashSet;
use tokio_postgres::Row;
use uuid::Uuid;

statements! {
    REGISTER = "insert into oauth_client (client_id, participant_id, name, scopes, jwks, created_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (client_id) do update set scopes = excluded.scopes, jwks = excluded.jwks, name = excluded.name
            where oauth_client.participant_id is not distinct from excluded.participant_id
        returning client_id";

    LIST = "select client_id, participant_id, name, scopes, jwks, status from oauth_client
        where client_id > $1 order by client_id limit $2";

    SET_STATUS = "update oauth_client set status = $2 where client_id = $1 returning client_id";

    DISABLED = "select client_id from oauth_client where status = 'disabled'";

    FIND = "select client_id, participant_id, name, scopes, jwks, status from oauth_client where client_id = $1";

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

/// Registers a client, or changes the keys and scopes of one that the same participant has. False if the id is another's.
pub async fn register_client(db: &Db, client: &OauthClient, now: Timestamp) -> Result<bool, StoreError> {
    let rows = db
        .query(
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
    Ok(!rows.is_empty())
}

/// Finds a client.
pub async fn find_client(db: &Db, client_id: &str) -> Result<Option<OauthClient>, StoreError> {
    db.query(FIND, &[&client_id]).await?.first().map(read).transpose()
}

/// Clients after an id, in the order of their ids.
pub async fn clients(db: &Db, after: &str, limit: i64) -> Result<Vec<OauthClient>, StoreError> {
    db.query(LIST, &[&after, &limit]).await?.iter().map(read).collect()
}

/// Lets a client sign in, or not any more. False if there is none.
pub async fn set_client_status(db: &Db, client_id: &str, active: bool) -> Result<bool, StoreError> {
    let status = if active { "active" } else { "disabled" };
    Ok(!db.query(SET_STATUS, &[&client_id, &status]).await?.is_empty())
}

/// The clients that may not sign in.
pub async fn disabled_clients(db: &Db) -> Result<HashSet<String>, StoreError> {
    db.query(DISABLED, &[]).await?.iter().map(|row| Ok(row.try_get("client_id")?)).collect()
}

fn read(row: &Row) -> Result<OauthClient, StoreError> {
    Ok(OauthClient {
        client_id: row.try_get("client_id")?,
        participant: row.try_get::<_, Option<Uuid>>("participant_id")?.map(ParticipantId::from_uuid),
        name: row.try_get("name")?,
        scopes: row.try_get("scopes")?,
        jwks: row.try_get("jwks")?,
        active: row.try_get::<_, &str>("status")? == "active",
    })
}

/// Is this the first use of an assertion? Remembered until it has expired.
pub async fn first_use(db: &Db, digest: [u8; 32], until: Timestamp) -> Result<bool, StoreError> {
    Ok(!db.query(USE_ASSERTION, &[&digest.to_vec(), &At(until)]).await?.is_empty())
}
