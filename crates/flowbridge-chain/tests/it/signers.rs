//! Keys that are not in our memory: a hardware module (SoftHSM), a key service (moto as AWS KMS), an encrypted file.

use crate::node::{Node, Who, key};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use flowbridge_chain::deploy::Admin;
use flowbridge_chain::signer::{self, HardwareKey, KmsConfig, KmsKey, Pkcs11Config, Unsigned};
use flowbridge_chain::{At, Chain as _, ChainError, Key, Signer};
use flowbridge_domain::party::EvmAddress;
use flowbridge_domain::time::{Clock, Timestamp};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PATIENCE: Duration = Duration::from_secs(20);

/// A transaction that this signer signed is taken by a real node.
async fn is_taken_by_a_node(signer: &dyn Signer) {
    let node = Node::start().await;
    let own = signer.address();
    let deployer = key(Who::Deployer);
    let admin = Admin { chain: &node.chain, chain_id: 31337, key: &deployer, patience: PATIENCE };
    admin.send_coins(&[own], 1_000_000_000_000_000_000).await.unwrap();
    for nonce in 0..4 {
        let unsigned = Unsigned {
            chain_id: 31337,
            nonce,
            to: Some(&own),
            calldata: &[],
            value: 1,
            gas_limit: 21_000,
            fee_per_gas: 10_000_000_000,
            priority_fee: 1_000_000_000,
        };
        node.chain.send(&signer::sign(signer, &unsigned).await.unwrap().raw).await.unwrap();
    }
    let included = tokio::time::timeout(PATIENCE, async {
        while node.chain.nonce(&own, At::Latest).await.unwrap() < 4 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    assert!(included.await.is_ok());
}

/// SoftHSM finds its tokens by a file that the environment names: the test runs once more, in a process that has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_hardware_module_signs() {
    let Some(module) = soft_hsm() else {
        skip("SoftHSM is not installed (apt-get install softhsm2)");
        return;
    };
    if std::env::vars().any(|(name, _)| name == CONFIG) {
        return in_a_process_with_tokens(module).await;
    }
    let folder = tempfile::tempdir().unwrap();
    let tokens = folder.path().join("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let config = folder.path().join("softhsm2.conf");
    std::fs::write(&config, format!("directories.tokendir = {}\n", tokens.display())).unwrap();
    let run = |program: &Path, arguments: &[&str]| {
        let done = Command::new(program).env(CONFIG, &config).args(arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    };
    let initialise = ["--init-token", "--free", "--label", "lanes", "--so-pin", "0000", "--pin", "1234"];
    run(Path::new("softhsm2-util"), &initialise);
    let again = ["--exact", "signers::a_key_in_a_hardware_module_signs", "--nocapture"];
    run(&std::env::current_exe().unwrap(), &again);
}

const CONFIG: &str = "SOFTHSM2_CONF";

async fn in_a_process_with_tokens(module: PathBuf) {
    make_key(&module);
    let config = Pkcs11Config { module, token: "lanes".into(), key: "settler".into(), pin: "1234".into() };
    let key = HardwareKey::open(config.clone()).await.unwrap();
    assert!(!format!("{key:?} {config:?}").contains("1234"));
    is_taken_by_a_node(&key).await;
    let elsewhere = HardwareKey::open(Pkcs11Config { key: "nobody".into(), ..config }).await;
    assert!(matches!(elsewhere, Err(ChainError::Wrong(why)) if why.contains("0 keys")));
}

fn soft_hsm() -> Option<PathBuf> {
    ["/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"]
        .map(PathBuf::from)
        .into_iter()
        .find(|library| library.exists())
}

/// A key "settler" in the token "lanes".
fn make_key(module: &Path) {
    let library = Pkcs11::new(module).unwrap();
    match library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => panic!("{error}"),
    }
    let slots = library.get_slots_with_initialized_token().unwrap();
    let slot =
        slots.into_iter().find(|slot| library.get_token_info(*slot).unwrap().label() == "lanes").unwrap();
    let session = library.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&"1234".into())).unwrap();
    // The object identifier of secp256k1, 1.3.132.0.10.
    let curve = vec![0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a];
    let label = Attribute::Label(b"settler".to_vec());
    let public = [Attribute::Token(true), Attribute::Verify(true), Attribute::EcParams(curve), label.clone()];
    let private = [Attribute::Token(true), Attribute::Sensitive(true), Attribute::Sign(true), label];
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).unwrap();
}

#[derive(Debug)]
struct RealClock;

impl Clock for RealClock {
    #[expect(clippy::disallowed_methods, reason = "a real service looks at the time")]
    fn now(&self) -> Timestamp {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros();
        Timestamp::from_micros(i64::try_from(micros).unwrap())
    }
}

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_a_key_service_signs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join(".tools/moto/bin/python");
    if !python.exists() {
        skip("moto is not installed (cargo xtask setup)");
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(python);
    command.arg(root.join("tools/aws_server.py")).args(["127.0.0.1", &port.to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let _server = Server(command.spawn().unwrap());
    let endpoint = format!("http://127.0.0.1:{port}/");
    let key_id = create_key(&endpoint).await;
    let folder = tempfile::tempdir().unwrap();
    let credentials_file = folder.path().join("credentials.json");
    let credentials = json!({ "access_key_id": "AKIA", "secret_access_key": "s3cret" });
    std::fs::write(&credentials_file, credentials.to_string()).unwrap();
    let config = KmsConfig {
        region: "eu-central-1".into(),
        endpoint: Some(endpoint),
        key_id,
        credentials_file,
        timeout: Duration::from_secs(10),
    };
    let key = KmsKey::open(config.clone(), Arc::new(RealClock)).await.unwrap();
    assert!(!format!("{key:?} {config:?}").contains("s3cret"));
    is_taken_by_a_node(&key).await;
    let unknown = KmsConfig { key_id: "00000000-0000-0000-0000-000000000000".into(), ..config };
    assert!(matches!(KmsKey::open(unknown, Arc::new(RealClock)).await, Err(ChainError::Wrong(_))));
}

/// Waits until the service is there.
async fn create_key(endpoint: &str) -> String {
    let http = reqwest::Client::new();
    let asked = async || -> Option<String> {
        let answer = http
            .post(endpoint)
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", "TrentService.CreateKey")
            .header(
                "authorization",
                "AWS4-HMAC-SHA256 Credential=AKIA/20261128/eu-central-1/kms/aws4_request, SignedHeaders=host, Signature=0",
            )
            .body(json!({ "KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY" }).to_string())
            .send()
            .await
            .ok()?;
        let answer: Value = answer.json().await.ok()?;
        answer.pointer("/KeyMetadata/KeyId")?.as_str().map(str::to_owned)
    };
    let found = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Some(id) = asked().await {
                return id;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    found.await.unwrap()
}

/// The keystore of the format's own description, "testpassword", with the key that it says is in it.
#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_keystore_opens_with_its_password_and_no_other() {
    let keystore = json!({
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": { "iv": "6087dab2f9fdbbfaddc31a909735c1e6" },
            "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
            "kdf": "pbkdf2",
            "kdfparams": {
                "c": 262_144, "dklen": 32, "prf": "hmac-sha256",
                "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"
            },
            "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"
        },
        "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
        "version": 3
    });
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), keystore.to_string()).unwrap();
    let opened = Key::read_keystore(file.path(), &SecretString::from("testpassword")).unwrap();
    assert_eq!(opened.reveal(), "7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d");
    let expected = EvmAddress::parse("0x008aeeda4d805471df9b2a5b0f38a0c3bcba786b").unwrap();
    assert_eq!(opened.address(), expected);
    assert!(Key::read_keystore(file.path(), &SecretString::from("guess")).is_err());
}

#[expect(clippy::print_stderr, reason = "a check that did not happen is loud")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
