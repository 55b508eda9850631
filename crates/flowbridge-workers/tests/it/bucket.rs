//! A bucket of S3, played by moto, that a test drops statements into and looks into from outside.

use flowbridge_workers::reconciliation::{Bucket, BucketConfig, Place};
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

    /// As the bank role sees it, from a prefix on.
    pub(crate) fn place(&self, prefix: &str) -> Place {
        let config = BucketConfig {
            url: format!("s3://statements/{prefix}"),
            region: "us-east-1".to_owned(),
            endpoint: Some(self.endpoint.clone()),
            credentials_file: self.folder.path().join("credentials.json"),
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
