//! What the receiver of webhooks proves itself with: certificates of an authority that was made for this storm.
//!
//! Whoever delivers is told to trust that authority as an operator would tell it, by `SSL_CERT_FILE`. Each endpoint has a
//! second certificate for the same address, of an authority that nobody was told of, and shows it when it is to. Sessions
//! are never taken up again: in those a client sees no certificate at all.

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

/// Whoever signs certificates.
#[derive(Debug)]
pub(crate) struct CertificateAuthority(CertifiedIssuer<'static, KeyPair>);

/// The certificates of one endpoint, and what clients made of them.
#[derive(Debug)]
pub(crate) struct Identity {
    trusted: Arc<ServerConfig>,
    untrusted: Arc<ServerConfig>,
    is_untrusted: AtomicBool,
    refused: AtomicU64,
    believed: AtomicU64,
}

/// What clients made of the certificate that they cannot trust: how often they went away, and how often they did not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Distrust {
    pub(crate) refused: u64,
    pub(crate) believed: u64,
}

impl CertificateAuthority {
    /// Makes one that goes by this name.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut about = CertificateParams::default();
        about.distinguished_name.push(DnType::CommonName, name);
        about.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        about.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Ok(Self(CertifiedIssuer::self_signed(about, KeyPair::generate()?)?))
    }

    /// Its own certificate, for those who are to trust it.
    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificates for an endpoint on this machine.
    pub(crate) fn identify(&self) -> Result<Identity> {
        Ok(Identity {
            trusted: self.certify()?,
            untrusted: Self::new("nobody knows this one")?.certify()?,
            is_untrusted: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            believed: AtomicU64::new(0),
        })
    }

    fn certify(&self) -> Result<Arc<ServerConfig>> {
        let key = KeyPair::generate()?;
        let about = CertificateParams::new([Ipv4Addr::LOCALHOST.to_string()])?;
        let certificate = about.signed_by(&key, &self.0)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.into()], key.into())?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl Identity {
    /// From now on, which certificate is shown.
    pub(crate) fn show_untrusted(&self, is_untrusted: bool) {
        self.is_untrusted.store(is_untrusted, Ordering::Relaxed);
    }

    pub(crate) fn distrust(&self) -> Distrust {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Distrust { refused: read(&self.refused), believed: read(&self.believed) }
    }

    /// Makes a connection a secret between two. None if the client did not want that, or has gone.
    pub(crate) async fn shake_hands(&self, client: TcpStream) -> Option<TlsStream<TcpStream>> {
        let is_untrusted = self.is_untrusted.load(Ordering::Relaxed);
        let shown = if is_untrusted { &self.untrusted } else { &self.trusted };
        let shaken = TlsAcceptor::from(Arc::clone(shown)).accept(client).await;
        let count = match &shaken {
            Ok(_) => Some(&self.believed),
            Err(error) => is_refusal(error).then_some(&self.refused),
        };
        if let (true, Some(count)) = (is_untrusted, count) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        shaken.ok()
    }
}

/// Whether a client has said that it goes away because of what it was shown, and did not just go.
fn is_refusal(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::AlertReceived(_)))
}
