//! A bucket of S3, or of anything that speaks its protocol, as a place where files lie (docs/adr/0041).
//!
//! An object appears whole, under its key. It is moved by copying it and deleting it afterwards: who is stopped in between leaves
//! both, and the one that is still there counts as a repeat at the next look. Credentials are read from their file at each call, so
//! that whoever renews them need not restart anything.

use super::Dropped;
use flowbridge_chain::ChainError;
use flowbridge_chain::signer::AwsCredentials;
use flowbridge_recon::statement::FILE_BYTES_MAX;
use object_store::aws::{AmazonS3Builder, AwsCredential, Checksum};
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, CredentialProvider, Error as S3Error, ObjectStore, ObjectStoreExt as _, PutMode,
    RetryConfig,
};
use reqwest::Url;
use secrecy::ExposeSecret as _;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long a call may take, with a body of 256 MiB, and how long it may say nothing meanwhile.
const CALL_MAX: Duration = Duration::from_secs(300);
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How often a call is tried again, and for how long; then the next look tries.
const RETRIES_MAX: usize = 2;
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Which bucket, and how it is reached.
#[derive(Debug, Clone)]
pub struct BucketConfig {
    /// `s3://BUCKET` or `s3://BUCKET/PREFIX`.
    pub url: String,
    /// Such as `eu-central-1`.
    pub region: String,
    /// Another address than the region's own.
    pub endpoint: Option<String>,
    /// See [`AwsCredentials::read`].
    pub credentials_file: PathBuf,
    /// May what is written be under Object Lock?
    pub is_locked: bool,
}

/// Why a bucket cannot be used: somebody has to change the configuration. What is wrong may hold a secret, and is not repeated.
#[derive(Debug, thiserror::Error)]
pub enum OpenBucketError {
    /// Not a bucket's name.
    #[error("the bucket is not named as s3://BUCKET or s3://BUCKET/PREFIX")]
    Url,
    /// Not a region's name.
    #[error(
        "region has to name the bucket's region, such as eu-central-1; services without any take us-east-1"
    )]
    Region,
    /// Not an address.
    #[error("endpoint is no http:// or https:// address; without one the region's own is asked")]
    Endpoint,
    /// The file of the credentials.
    #[error("credentials_file has to name a file with the credentials of somebody who may use the bucket")]
    Credentials(#[source] ChainError),
    /// What the library refuses.
    #[error("the bucket cannot be used")]
    Refused(#[source] S3Error),
}

/// A bucket, from a prefix on.
#[derive(Clone)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    prefix: Key,
    url: String,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.url)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl Bucket {
    /// Checks the configuration and that there are credentials. Nobody is called yet: a service that is away keeps no role from
    /// starting.
    pub fn open(config: &BucketConfig) -> Result<Self, OpenBucketError> {
        let (name, prefix) = parse(&config.url).ok_or(OpenBucketError::Url)?;
        if !is_plain(&config.region) {
            return Err(OpenBucketError::Region);
        }
        let endpoint = config.endpoint.as_deref().map(parse_endpoint).transpose()?;
        AwsCredentials::read(&config.credentials_file).map_err(OpenBucketError::Credentials)?;
        let client = ClientOptions::new()
            .with_timeout(CALL_MAX)
            .with_read_timeout(SILENCE_MAX)
            .with_allow_http(endpoint.as_ref().is_some_and(|url| url.scheme() == "http"));
        let retries =
            RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRY_MAX, ..RetryConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(name)
            .with_region(&config.region)
            .with_credentials(Arc::new(CredentialsFile(config.credentials_file.clone())))
            .with_client_options(client)
            .with_retry(retries)
            // Not every service has the call that deletes many.
            .with_disable_bulk_delete(true);
        if config.is_locked {
            // A bucket with Object Lock takes nothing without.
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let store = Arc::new(builder.build().map_err(OpenBucketError::Refused)?);
        Ok(Self { store, prefix, url: config.url.clone() })
    }

    pub(crate) async fn folders(&self) -> io::Result<Vec<String>> {
        let listed = self.store.list_with_delimiter(Some(&self.prefix)).await?;
        Ok(listed.common_prefixes.iter().filter_map(Key::filename).map(str::to_owned).collect())
    }

    pub(crate) async fn files(&self, folder: &str) -> io::Result<Vec<Dropped>> {
        let key = self.key(Path::new(folder))?;
        let listed = self.store.list_with_delimiter(Some(&key)).await?;
        let inside = format!("{key}/");
        let dropped = listed.objects.into_iter().filter_map(|object| {
            // What a console makes as a folder is an object of the folder's own name.
            let name = object.location.as_ref().strip_prefix(inside.as_str())?;
            let path = Path::new(folder).join(name);
            Some(Dropped { path, bytes: object.size, changed_at: Some(object.last_modified.into()) })
        });
        Ok(dropped.collect())
    }

    pub(crate) async fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let answer = self.store.get(&self.key(path)?).await?;
        if answer.meta.size > FILE_BYTES_MAX as u64 {
            let why = "it is larger than it was when it was listed";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(answer.bytes().await?.into())
    }

    pub(crate) async fn holds(&self, path: &Path) -> io::Result<bool> {
        match self.store.head(&self.key(path)?).await {
            Ok(_) => Ok(true),
            Err(S3Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn write(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        self.store.put(&self.key(path)?, bytes.into()).await?;
        Ok(())
    }

    /// Makes an object; false if there is one of that name.
    pub(crate) async fn create(&self, path: &Path, bytes: Vec<u8>) -> io::Result<bool> {
        match self.store.put_opts(&self.key(path)?, bytes.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(S3Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(self.store.rename(&self.key(from)?, &self.key(to)?).await?)
    }

    /// The key of what is at a path below the prefix.
    fn key(&self, path: &Path) -> io::Result<Key> {
        let key = Key::parse(format!("{}/{}", self.prefix, path.display()));
        Ok(key.map_err(S3Error::from)?)
    }
}

/// Credentials as their file has them now.
#[derive(Debug)]
struct CredentialsFile(PathBuf);

#[async_trait::async_trait]
impl CredentialProvider for CredentialsFile {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let read = AwsCredentials::read_now(&self.0)
            .await
            .map_err(|error| S3Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(Arc::new(AwsCredential {
            key_id: read.access_key_id,
            secret_key: read.secret_access_key.expose_secret().to_owned(),
            token: read.session_token.map(|token| token.expose_secret().to_owned()),
        }))
    }
}

/// The bucket's name and the prefix. Neither may hold what belongs elsewhere in a URL: a user, a port, a query.
fn parse(url: &str) -> Option<(&str, Key)> {
    let below = url.strip_prefix("s3://")?;
    let (name, prefix) = below.split_once('/').unwrap_or((below, ""));
    let is_bucket = (3..=63).contains(&name.len()) && is_plain(name);
    let is_prefix = !prefix.starts_with('/') && !prefix.contains(['?', '#']);
    Key::parse(prefix).ok().filter(|_| is_bucket && is_prefix).map(|prefix| (name, prefix))
}

/// Letters, digits and what joins them.
fn is_plain(name: &str) -> bool {
    name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.bytes().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'.' | b'_'))
}

fn parse_endpoint(text: &str) -> Result<Url, OpenBucketError> {
    let url = text.parse::<Url>().ok().filter(|url| ["http", "https"].contains(&url.scheme()));
    url.ok_or(OpenBucketError::Endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_named_with_or_without_a_prefix_and_nothing_else() {
        let read = |url| parse(url).map(|(name, prefix)| (name.to_owned(), prefix.to_string()));
        let named = |name: &str, prefix: &str| Some((name.to_owned(), prefix.to_owned()));
        assert_eq!(read("s3://statements"), named("statements", ""));
        assert_eq!(read("s3://our.statements/"), named("our.statements", ""));
        assert_eq!(read("s3://statements/drop/in/"), named("statements", "drop/in"));
        for wrong in [
            "s3://",
            "s3:///drop",
            "s3://..",
            "s3://KEY:SECRET@statements",
            "s3://statements:9000/drop",
            "s3://statements/drop?region=x",
            "s3://statements//drop",
            "s3://statements/../drop",
            "https://statements.s3.amazonaws.com",
        ] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
