//! What participants and the operator may do with webhook endpoints, and what they see of them.

use flowbridge_domain::id::{ParticipantId, PaymentId};
use flowbridge_domain::time::Timestamp;
use flowbridge_embedded::EmbeddedPostgres;
use flowbridge_gateway::webhooks::{
    Asker, CreateWebhookEndpoint, DisableWebhookEndpoint, EVENT_KINDS, EndpointStatus, RecoverWebhooks,
    UpdateWebhookEndpoint, WebhookEndpointWithKeys, WebhookError, WebhookLimits,
};
use flowbridge_security::keys::KeyFolder;
use flowbridge_security::sealing::SealingKeys;
use flowbridge_store::event_data::EventData;
use flowbridge_store::event_log::{self, NewEvent};
use flowbridge_store::party::{self, Participant};
use flowbridge_store::webhook::EndpointOwner;
use flowbridge_store::{Db, DbSettings};
use serde_json::json;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::sync::OnceCell;

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);

#[tokio::test]
async fn endpoints_are_their_owner_s_alone_and_secrets_are_shown_once() {
    let db = database().await;
    let limits = WebhookLimits { endpoints_max: 2, ..WebhookLimits::default() };
    let asker = |owner| Asker { db: &db, sealing: sealing(), owner, limits: &limits, now: NOW };
    let (owner, stranger) = (asker(participant(&db).await), asker(participant(&db).await));

    let made = create(&owner, "https://bank.example/hook", &["payment.settled"]).await.unwrap();
    assert!(made.secret.starts_with("whsec_") && made.public_key.starts_with("whpk_"));
    assert!(!format!("{made:?}").contains("whsec_"));
    let shown = serde_json::to_value(owner.get(made.endpoint.id.0).await.unwrap()).unwrap();
    assert_eq!(
        shown,
        json!({
            "id": made.endpoint.id.0.to_string(),
            "url": "https://bank.example/hook",
            "event_kinds": ["payment.settled"],
            "status": "active",
            "disabled_reason": null,
            "failure_streak": 0,
            "failing_since": null,
            "paused_until": null,
            "previous_keys_until": null,
            "created_at": "2027-01-15T08:00:00Z",
            "updated_at": "2027-01-15T08:00:00Z",
        })
    );

    create(&owner, "https://bank.example/second", &[]).await.unwrap();
    assert_eq!(
        code(create(&owner, "https://bank.example/third", &[]).await),
        Some("webhook_endpoints_too_many")
    );
    assert_eq!(owner.list(None, 10).await.unwrap().len(), 2);

    let id = made.endpoint.id.0;
    let missing = Some("webhook_endpoint_not_found");
    let tx = db.begin().await.unwrap();
    let new_url = UpdateWebhookEndpoint { url: Some("https://evil.example/".to_owned()), event_kinds: None };
    assert_eq!(stranger.list(None, 10).await.unwrap().len(), 0);
    assert_eq!(code(stranger.get(id).await), missing);
    assert_eq!(code(stranger.update(&tx, id, &new_url).await), missing);
    assert_eq!(code(stranger.rotate(&tx, id).await), missing);
    assert_eq!(code(stranger.enable(&tx, id).await), missing);
    assert_eq!(code(stranger.delete(&tx, id).await), missing);
    assert_eq!(code(stranger.deliveries(id, &[], None, 10).await), missing);
    assert_eq!(code(stranger.recover(id, &since("2027-01-15T08:00:00Z")).await), missing);
    tx.commit().await.unwrap();
    assert_eq!(owner.get(id).await.unwrap().url, "https://bank.example/hook");
}

#[tokio::test]
async fn requests_that_cannot_be_are_refused_with_their_place() {
    let db = database().await;
    let limits = WebhookLimits::default();
    let owner =
        Asker { db: &db, sealing: sealing(), owner: participant(&db).await, limits: &limits, now: NOW };
    let place = |error: WebhookError| (error.status(), error.pointer());
    let at = |pointer: &str| (Some(422), Some(pointer.to_owned()));

    for url in [
        "http://bank.example/",
        "https://127.0.0.1/",
        "https://u:p@bank.example/",
        "https://bank.example:25/",
        "hook",
    ] {
        assert_eq!(place(create(&owner, url, &[]).await.unwrap_err()), at("/url"), "{url}");
    }
    let kinds = ["payment.settled", "payment.sent"];
    assert_eq!(
        place(create(&owner, "https://bank.example/", &kinds).await.unwrap_err()),
        at("/event_kinds/1")
    );
    let repeated = [EVENT_KINDS[0]; 10];
    assert_eq!(
        place(create(&owner, "https://bank.example/", &repeated).await.unwrap_err()),
        at("/event_kinds/9")
    );

    let id = create(&owner, "https://bank.example/", &[]).await.unwrap().endpoint.id.0;
    assert_eq!(place(owner.recover(id, &since("yesterday")).await.unwrap_err()), at("/since"));
    let after = RecoverWebhooks { after: Some("1".to_owned()), ..since("2027-01-15T08:00:00Z") };
    assert_eq!(place(owner.recover(id, &after).await.unwrap_err()), at("/after"));
    let odd = create(&owner, "HTTPS://Bank.Example:443/\0\tä", &[]).await.unwrap();
    assert_eq!(odd.endpoint.url, "https://bank.example/%00%C3%A4", "kept as it will be called");
    let grows = format!("https://bank.example/{}", "ä".repeat(900));
    assert_eq!(place(create(&owner, &grows, &[]).await.unwrap_err()), at("/url"));
    for early in ["-009000-01-01T00:00:00Z", "9999-12-30T00:00:00Z"] {
        assert_eq!(owner.recover(id, &since(early)).await.unwrap().queued, 0, "{early}");
    }
    let tx = db.begin().await.unwrap();
    for reason in ["", "  ", "\0", "x".repeat(201).as_str()] {
        let request = DisableWebhookEndpoint { reason: reason.to_owned() };
        assert_eq!(place(owner.disable(&tx, id, &request).await.unwrap_err()), at("/reason"), "{reason:?}");
    }
}

#[tokio::test]
async fn an_endpoint_is_changed_rotated_disabled_enabled_and_deleted() {
    let db = database().await;
    let limits = WebhookLimits::default();
    let owner =
        Asker { db: &db, sealing: sealing(), owner: participant(&db).await, limits: &limits, now: NOW };
    let made = create(&owner, "https://bank.example/", &["payment.settled"]).await.unwrap();
    let id = made.endpoint.id.0;

    let tx = db.begin().await.unwrap();
    let all_kinds = UpdateWebhookEndpoint { url: None, event_kinds: Some(vec![]) };
    let changed = owner.update(&tx, id, &all_kinds).await.unwrap();
    assert_eq!((changed.url.as_str(), changed.event_kinds.len()), ("https://bank.example/", 0));
    let rotated = owner.rotate(&tx, id).await.unwrap();
    assert!(rotated.secret != made.secret && rotated.public_key != made.public_key);
    assert_eq!(rotated.endpoint.previous_keys_until.unwrap().0.to_string(), "2027-01-16T08:00:00Z");
    let why = DisableWebhookEndpoint { reason: " maintenance ".to_owned() };
    let disabled = owner.disable(&tx, id, &why).await.unwrap();
    assert_eq!(
        (disabled.status, disabled.disabled_reason.as_deref()),
        (EndpointStatus::Disabled, Some("maintenance"))
    );
    tx.commit().await.unwrap();

    assert_eq!(
        code(owner.recover(id, &since("2027-01-15T08:00:00Z")).await),
        Some("webhook_endpoint_disabled")
    );
    let tx = db.begin().await.unwrap();
    assert_eq!(owner.enable(&tx, id).await.unwrap().status, EndpointStatus::Active);
    tx.commit().await.unwrap();
    let recovered = owner.recover(id, &since("2027-01-15T08:00:00Z")).await.unwrap();
    assert_eq!((recovered.queued, recovered.continue_after), (0, None), "nothing has happened");

    let tx = db.begin().await.unwrap();
    owner.delete(&tx, id).await.unwrap();
    assert_eq!(code(owner.delete(&tx, id).await), Some("webhook_endpoint_not_found"));
    tx.commit().await.unwrap();
    assert_eq!(owner.list(None, 10).await.unwrap().len(), 0);
}

#[tokio::test]
async fn what_is_recovered_reaches_back_as_far_as_deliveries_are_kept() {
    let (db, limits, day) = (database().await, WebhookLimits::default(), Duration::from_secs(24 * 3_600));
    let owner = participant(&db).await;
    // Later than all that other tests have done.
    let now = NOW.plus(day * 10_000);
    let owner = Asker { db: &db, sealing: sealing(), owner, limits: &limits, now };
    let id = create(&owner, "https://bank.example/", &[]).await.unwrap().endpoint.id.0;
    for days in [40, 20] {
        let at = now.minus(day * days);
        let event = NewEvent {
            topic: "payments",
            key: PaymentId::generate(at, flowbridge_security::random_bytes().unwrap()),
            kind: "payment.settled".to_owned(),
            participants: Some((owner.owner.id(), owner.owner.id())),
            traceparent: String::new(),
            data: EventData::of(&json!({})),
        };
        let tx = db.begin().await.unwrap();
        event_log::append(&tx, &[event], at).await.unwrap();
        tx.commit().await.unwrap();
    }
    let first_page = RecoverWebhooks { after: Some("0-0".to_owned()), ..since("2027-01-15T08:00:00Z") };
    assert_eq!(owner.recover(id, &first_page).await.unwrap().queued, 1, "the other one may have been heard");
    assert_eq!(
        owner.recover(id, &since("2027-01-15T08:00:00Z")).await.unwrap().queued,
        0,
        "it is there already"
    );
}

async fn create(
    owner: &Asker<'_>,
    url: &str,
    kinds: &[&str],
) -> Result<WebhookEndpointWithKeys, WebhookError> {
    let event_kinds = Some(kinds.iter().map(|kind| (*kind).to_owned()).collect());
    let tx = owner.db.begin().await.unwrap();
    let made = owner.create(&tx, CreateWebhookEndpoint { url: url.to_owned(), event_kinds }).await?;
    tx.commit().await.unwrap();
    Ok(made)
}

fn code<T>(result: Result<T, WebhookError>) -> Option<&'static str> {
    result.err().and_then(|error| error.code())
}

fn since(instant: &str) -> RecoverWebhooks {
    RecoverWebhooks { since: instant.to_owned(), after: None }
}

async fn participant(db: &Db) -> EndpointOwner {
    let random = flowbridge_security::random_bytes().unwrap();
    let participant = Participant {
        id: ParticipantId::generate(NOW, random),
        name: "An institution of this test's own".to_owned(),
        lei: None,
        active: true,
        status_reason: None,
        fee_basis_points: 0,
        created_at: NOW,
    };
    let tx = db.begin().await.unwrap();
    party::add_participant(&tx, &participant).await.unwrap();
    tx.commit().await.unwrap();
    EndpointOwner::Participant(participant.id)
}

/// One database for all: each test has participants of its own.
fn sealing() -> &'static SealingKeys {
    static KEYS: OnceLock<(SealingKeys, tempfile::TempDir)> = OnceLock::new();
    let (keys, _) = KEYS.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        (SealingKeys::load_or_create(&KeyFolder::new(home.path())).unwrap(), home)
    });
    keys
}

/// Where the tests' PostgreSQL is.
pub(crate) fn server_url() -> String {
    static SERVER: OnceLock<EmbeddedPostgres> = OnceLock::new();
    SERVER.get_or_init(|| EmbeddedPostgres::temporary().unwrap()).url()
}

pub(crate) async fn database() -> Db {
    static MIGRATED: OnceCell<()> = OnceCell::const_new();
    let db = Db::new(&DbSettings::new(server_url())).unwrap();
    MIGRATED.get_or_init(async || db.migrate().await.unwrap()).await;
    db
}
