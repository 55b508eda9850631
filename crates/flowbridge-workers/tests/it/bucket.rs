//! A bucket of S3, played by moto, that a test drops files into and looks into from outside.

use flowbridge_workers::place::{Bucket, BucketConfig, Place};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// moto wants to be told which service is meant, and believes whoever asks.
const AUTHORIZATION: &str =
    "AWS4-HMAC-SHA256 Credential=AKIA/20261128/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";

/// The bucket `statements`; its server ends with it.
pub(crate) struct TestBucket {
    server: Child,
    http: reqwest::Client,
    endpoint: String,
    folder: TempDir,
}

impl Drop for TestBucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl TestBucket {
    pub(crate) async fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let python = root.join(".tools/moto/bin/python");
        assert!(python.exists(), "moto is not installed: cargo xtask setup");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(python);
        command.arg(root.join("tools/aws_server.py")).args(["127.0.0.1", &port.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let folder = tempfile::tempdir().unwrap();
        let credentials = json!({ "access_key_id": "AKIA", "secret_access_key": "s3cret" });
        std::fs::write(folder.path().join("credentials.json"), credentials.to_string()).unwrap();
        let bucket = Self {
            server: command.spawn().unwrap(),
            http: reqwest::Client::new(),
            endpoint: format!("http://127.0.0.1:{port}"),
            folder,
        };
        bucket.create().await;
        bucket
    }

    /// One in which nothing can be deleted or changed for a day, whoever asks.
    pub(crate) async fn locked() -> Self {
        let bucket = Self::start().await;
        // moto takes the lock of a bucket that exists, as S3 does of one with versions.
        let versions = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        assert!(bucket.try_put("?versioning", versions.to_owned()).await);
        let lock = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
            <Mode>COMPLIANCE</Mode><Days>1</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        assert!(bucket.try_put("?object-lock", lock.to_owned()).await);
        bucket
    }

    /// What the service says to whoever wants an object's only version gone for good.
    pub(crate) async fn delete_version(&self, key: &str) -> reqwest::StatusCode {
        let url = format!("{}/statements/{key}", self.endpoint);
        let head = self.http.head(&url).header("authorization", AUTHORIZATION).send().await.unwrap();
        let version = head.headers()["x-amz-version-id"].to_str().unwrap().to_owned();
        let url = format!("{url}?versionId={version}");
        self.http.delete(url).header("authorization", AUTHORIZATION).send().await.unwrap().status()
    }

    /// The same as an archive is reached.
    pub(crate) fn archive(&self, prefix: &str) -> Place {
        self.reached(prefix, true)
    }

    /// As the bank role sees it, from a prefix on.
    pub(crate) fn place(&self, prefix: &str) -> Place {
        self.reached(prefix, false)
    }

    fn reached(&self, prefix: &str, is_locked: bool) -> Place {
        let config = BucketConfig {
            url: format!("s3://statements/{prefix}"),
            region: "us-east-1".to_owned(),
            endpoint: Some(self.endpoint.clone()),
            credentials_file: self.folder.path().join("credentials.json"),
            is_locked,
        };
        Place::Bucket(Bucket::open(&config).unwrap())
    }

    /// Puts an object there.
    pub(crate) async fn put(&self, key: &str, text: String) {
        assert!(self.try_put(&format!("/{key}"), text).await, "{key}");
    }

    /// What an object holds, if it is there.
    pub(crate) async fn get(&self, key: &str) -> Option<String> {
        let url = format!("{}/statements/{key}", self.endpoint);
        let answer = self.http.get(url).header("authorization", AUTHORIZATION).send().await.unwrap();
        if answer.status() == reqwest::StatusCode::NOT_FOUND {
            return None;
        }
        Some(answer.error_for_status().unwrap().text().await.unwrap())
    }

    /// Waits until the service is there.
    async fn create(&self) {
        let created = tokio::time::timeout(Duration::from_secs(60), async {
            while !self.try_put("", String::new()).await {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        created.await.unwrap();
    }

    async fn try_put(&self, below: &str, text: String) -> bool {
        let url = format!("{}/statements{below}", self.endpoint);
        let request = self.http.put(url).header("authorization", AUTHORIZATION).body(text);
        request.send().await.is_ok_and(|answer| answer.status().is_success())
    }
}
