//! The gateway's wiring.

use crate::config::Config;
use crate::proof;
use crate::roles::{Parts, Role, Running, internal_tokens, listen};
use anyhow::Result;
use flowbridge_gateway::reconciliations::{StatementIntake, StatementRefusal, StatementUpload};
use flowbridge_gateway::webhooks::WebhookLimits;
use flowbridge_gateway::{
    ACCEPT_CONNECTIONS, ClientQuota, GatewayParts, GatewaySettings, ProofSource, ServeLimits, router, serve,
};
use flowbridge_security::cursor::CursorKey;
use flowbridge_security::keys::KeyFolder;
use flowbridge_security::sealing::SealingKeys;
use flowbridge_security::token::{DenyList, TokenIssuer, TokenVerifier};
use flowbridge_store::accept::PaymentPolicy;
use flowbridge_store::access;
use flowbridge_store::{Db, DbSettings};
use flowbridge_workers::context::{Context, chain};
use flowbridge_workers::reconciliation::intake::{self, Upload, UploadError};
use std::sync::Arc;
use std::time::Duration;

/// Starts the partners' API.
pub(crate) async fn start(running: &Running, parts: &Parts) -> Result<()> {
    let config = &parts.config;
    let issuer = config.issuer();
    let folder = KeyFolder::new(&config.security.keys);
    let keys = folder.load_or_create()?;
    let deny_list = Arc::new(DenyList::default());
    let verifier = TokenVerifier::new(&issuer, &issuer, keys.public_keys()?, deny_list.clone());
    let jwks = keys.jwks();
    let life = Duration::from_secs(config.security.token_ttl_secs);
    let accept_db = Db::new(&DbSettings { pool_size_max: ACCEPT_CONNECTIONS, ..config.database() })?;
    let gateway = GatewayParts {
        db: parts.context.db.clone(),
        accept_db: accept_db.clone(),
        clock: parts.clock.clone(),
        wake: parts.context.wake.clone(),
        tokens: TokenIssuer::new(&issuer, &issuer, life, keys.current),
        verifier,
        jwks,
        cursors: CursorKey::new(&*folder.cursor_key()?),
        sealing: Arc::new(SealingKeys::load_or_create(&folder)?),
        proof: proof_source(parts, &folder)?,
        statements: statement_intake(&parts.context),
        shipped_model: flowbridge_recon::Model::shipped_sha256(),
        vault: crate::chain::vault_desk(config)?,
    };
    let router = router(gateway, settings(config)?);
    let listener = listen(config.gateway.listen, "[gateway] listen").await?;
    let (limits, stop) = (serve_limits(config), parts.stop.clone());
    running.spawn(Role::Gateway, async move {
        tokio::select! {
            () = serve(listener, router, limits, stop.cancelled_owned()) => {}
            () = deny_disabled(&accept_db, &deny_list) => {}
        }
        Ok(())
    });
    Ok(())
}

/// Whoever may not sign in any more is soon refused altogether, whatever tokens it has. Read over the connections on which payments are
/// accepted: however many questions a disabled client asks, they do not keep this one waiting.
async fn deny_disabled(db: &Db, deny_list: &DenyList) {
    loop {
        // Without the database nothing can be accepted anyway; what was read last stays.
        if let Ok(clients) = access::disabled_clients(db).await {
            deny_list.replace(clients);
        }
        tokio::time::sleep(DISABLED_READ_EVERY).await;
    }
}

const DISABLED_READ_EVERY: Duration = Duration::from_secs(1);

fn serve_limits(config: &Config) -> ServeLimits {
    let section = &config.gateway;
    ServeLimits {
        connections_max: section.connections_max,
        header_read_max: Duration::from_millis(section.header_read_ms_max),
        header_bytes_max: section.header_bytes_max,
        drain_max: Duration::from_millis(section.drain_ms_max),
    }
}

fn settings(config: &Config) -> Result<GatewaySettings> {
    let section = &config.gateway;
    let payments = &config.payments;
    Ok(GatewaySettings {
        issuer: config.issuer(),
        request_bytes_max: section.request_bytes_max,
        bulk_bytes_max: section.bulk_bytes_max,
        bulk_lines_max: section.bulk_lines_max,
        statement_bytes_max: config.reconciliation.statement_bytes_max,
        client_quota: ClientQuota {
            requests: section.client_requests_max,
            window: Duration::from_secs(section.client_window_secs.get().into()),
        },
        request_timeout: Duration::from_millis(section.request_timeout_ms),
        accept_slice_max: section.accept_slice_max,
        accept_pace: Duration::from_millis(section.accept_pace_ms),
        execution_days_max: payments.execution_days_max,
        policy: PaymentPolicy {
            execution_spread: Duration::from_secs(payments.execution_spread_secs),
            initiate_window: Duration::from_secs(payments.initiate_window_secs),
            expiry: Duration::from_secs(payments.expiry_secs),
            settle_margin: Duration::from_secs(payments.settle_margin_secs),
            hold_margin: Duration::from_secs(payments.hold_margin_secs),
        },
        webhooks: WebhookLimits {
            egress: config.webhooks()?.delivery.egress,
            deliveries_kept: config.monitor().kept.deliveries,
            ..WebhookLimits::default()
        },
    })
}

/// Statement files are read here and taken into the database.
fn statement_intake(context: &Context) -> StatementIntake {
    let context = context.clone();
    Arc::new(move |upload: StatementUpload| {
        let context = context.clone();
        let StatementUpload { bank, name, by, mapping, file } = upload;
        let upload = Upload { bank, channel: "api", name, by, mapping, file };
        Box::pin(async move {
            match intake::file(&context, upload).await {
                Ok(taken) => Ok((taken.statements, taken.is_repeat)),
                Err(error) => Err(statement_refusal(&error)),
            }
        })
    })
}

fn statement_refusal(error: &UploadError) -> StatementRefusal {
    let why = chain(error);
    match error {
        UploadError::Mapping(_) | UploadError::Unreadable(_) => StatementRefusal::Unreadable(why),
        UploadError::DoesNotAddUp { .. } => StatementRefusal::DoesNotAddUp(why),
        UploadError::NamedAlready { .. } => StatementRefusal::NamedAlready(why),
        UploadError::OtherSource(_) => StatementRefusal::OtherSource(why),
        UploadError::UnknownBank => StatementRefusal::UnknownBank,
        UploadError::Store(_) => {
            tracing::error!(error = why, "a statement could not be taken in");
            StatementRefusal::Unavailable
        }
    }
}

/// The proof is taken where the banks are known; the gateway asks there.
fn proof_source(parts: &Parts, folder: &KeyFolder) -> Result<ProofSource> {
    let tokens = internal_tokens(&parts.config, folder.load()?, parts.clock.clone())?;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
    let url = parts.config.bank.url.clone();
    Ok(Arc::new(move || {
        let (http, url, tokens) = (http.clone(), url.clone(), tokens.clone());
        Box::pin(async move { proof::ask(&http, &url, &tokens).await.map_err(|error| format!("{error:#}")) })
    }))
}
