//! The bearer token that an endpoint's proxy wants to see, as that of a Prividium does.
//!
//! Tokens expire, so one that lies in a file is read again when it is refused, and whenever a socket is opened: who renews the file
//! restarts nothing. A file that cannot be read, or is empty because it is just being written, leaves the token that is known. The
//! token never appears in debug output or errors.

use crate::error::ChainError;
use secrecy::SecretString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// A bearer token, and where a newer one is found. Clones share what they know.
#[derive(Debug, Clone)]
pub struct Bearer(Arc<Kept>);

#[derive(Debug)]
struct Kept {
    file: Option<PathBuf>,
    token: Mutex<SecretString>,
}

impl Bearer {
    /// A token that nobody renews.
    pub fn fixed(token: impl Into<SecretString>) -> Self {
        Self(Arc::new(Kept { file: None, token: Mutex::new(token.into()) }))
    }

    /// The token in `file`, without the line break that an editor leaves. [`ChainError::Wrong`] if there is none.
    pub fn in_file(file: PathBuf) -> Result<Self, ChainError> {
        let wrong = |why: String| ChainError::Wrong(format!("{} holds no token: {why}", file.display()));
        let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
        let token = parse(&text).ok_or_else(|| wrong("it is empty".to_owned()))?;
        Ok(Self(Arc::new(Kept { file: Some(file), token: Mutex::new(token) })))
    }

    /// As it is known.
    pub fn token(&self) -> SecretString {
        self.0.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// As the file has it now; from here on this is the one that is known.
    pub async fn newest(&self) -> SecretString {
        let text = match &self.0.file {
            Some(file) => tokio::fs::read_to_string(file).await.ok(),
            None => None,
        };
        if let Some(token) = text.as_deref().and_then(parse) {
            *self.0.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
        }
        self.token()
    }
}

fn parse(text: &str) -> Option<SecretString> {
    let token = text.trim();
    (!token.is_empty()).then(|| token.into())
}
