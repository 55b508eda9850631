//! What checking one access token costs: `cargo bench -p flowbridge-security`.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use flowbridge_domain::id::ParticipantId;
use flowbridge_domain::time::Timestamp;
use flowbridge_security::jose::Algorithm;
use flowbridge_security::jwk::PublicKeys;
use flowbridge_security::keys::SigningKey;
use flowbridge_security::scope::ScopeSet;
use flowbridge_security::token::{TokenIssuer, TokenVerifier};
use secrecy::{ExposeSecret as _, SecretString};
use std::sync::Arc;
use std::time::{Duration, Instant};

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const ISSUER: &str = "https://api.flowbridge.example";
const TOKENS: usize = 5_000;

fn main() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        measure(algorithm).expect("keys can be made and used");
    }
}

fn measure(algorithm: Algorithm) -> Result<(), Box<dyn std::error::Error>> {
    let key = SigningKey::generate(algorithm)?;
    let jwks = serde_json::json!({ "keys": [key.public()] }).to_string();
    let verifier = TokenVerifier::new(ISSUER, ISSUER, PublicKeys::from_jwks(&jwks)?, Arc::default());
    let issuer = TokenIssuer::new(ISSUER, ISSUER, Duration::from_secs(300), key);
    let scopes = ScopeSet::parse("payments:read payments:write accounts:read events:read")?;
    let participant = ParticipantId::generate(NOW, [7; 10]);

    let started = Instant::now();
    let tokens: Vec<SecretString> = (0..TOKENS)
        .map(|_| Ok(issuer.issue("bank-a", Some(participant), scopes, NOW)?.token))
        .collect::<Result<_, flowbridge_security::CryptoFailure>>()?;
    let issued = started.elapsed();
    let first = time(&verifier, &tokens)?;
    let again = time(&verifier, &tokens)?;
    println!(
        "{:>5}: issue {:.1} us, verify {:.1} us the first time, {:.2} us when remembered ({} bytes)",
        algorithm.name(),
        per_token(issued),
        per_token(first),
        per_token(again),
        tokens[0].expose_secret().len(),
    );
    Ok(())
}

fn time(verifier: &TokenVerifier, tokens: &[SecretString]) -> Result<Duration, Box<dyn std::error::Error>> {
    let started = Instant::now();
    for token in tokens {
        verifier.verify(token.expose_secret(), NOW)?;
    }
    Ok(started.elapsed())
}

fn per_token(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1e6 / TOKENS as f64
}
