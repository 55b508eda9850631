//! The key folder.

use flowbridge_security::jose::Algorithm;
use flowbridge_security::keys::{KeyFolder, KeyFolderError, SigningKey, create_private};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

#[test]
fn a_folder_is_made_once_and_is_for_its_owner_only() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("keys/tokens");
    let made = KeyFolder::new(&path).load_or_create().unwrap();
    let cursor = KeyFolder::new(&path).cursor_key().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["current.pem", "cursor.key", "next.pem"]);

    let again = KeyFolder::new(&path).load_or_create().unwrap();
    assert_eq!(again.jwks(), made.jwks());
    assert_eq!(KeyFolder::new(&path).cursor_key().unwrap(), cursor);
}

#[test]
fn processes_that_start_together_agree_on_one_key_set() {
    let home = tempfile::tempdir().unwrap();
    let sets = std::thread::scope(|scope| {
        let starts: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| KeyFolder::new(home.path()).load_or_create().unwrap().jwks()))
            .collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(sets.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn rotation_signs_with_what_was_published_and_still_verifies_what_was_signed() {
    let home = tempfile::tempdir().unwrap();
    let folder = KeyFolder::new(home.path());
    let before = folder.load_or_create().unwrap();
    let after = folder.rotate().unwrap();
    assert_eq!(after.current.key_id(), before.next.key_id());
    assert_eq!(after.retired.len(), 1);
    assert_eq!(after.retired[0].key_id(), before.current.key_id());
    assert_ne!(after.next.key_id(), before.next.key_id());
    assert_eq!(after.jwks().keys.len(), 3);
    assert!(after.public_keys().is_ok());
}

#[test]
fn a_rotation_cut_short_leaves_a_folder_that_loads() {
    let home = tempfile::tempdir().unwrap();
    let folder = KeyFolder::new(home.path());
    let before = folder.load_or_create().unwrap();
    let path = |name: &str| home.path().join(name);
    let retired = format!("retired-{}.pem", before.current.key_id());

    fs::hard_link(path("current.pem"), path(&retired)).unwrap();
    let linked = folder.load_or_create().unwrap();
    assert_eq!(linked.jwks(), before.jwks(), "cut after the link: nothing has changed");

    fs::rename(path("next.pem"), path("current.pem")).unwrap();
    let renamed = folder.load_or_create().unwrap();
    assert_eq!(renamed.current.key_id(), before.next.key_id());
    assert_eq!(renamed.retired[0].key_id(), before.current.key_id());
}

#[test]
fn a_folder_that_cannot_be_written_says_so() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let error = KeyFolder::new(file.join("keys")).load_or_create().unwrap_err();
    assert!(matches!(&error, KeyFolderError::Io { path, .. } if *path == file.join("keys")), "{error}");
    let error = create_private(&home.path().join("no/such/folder.pem"), b"").unwrap_err();
    let KeyFolderError::Io { source, .. } = error else { panic!("{error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = KeyFolder::new(home.path());
    folder.load_or_create().unwrap();
    let path = home.path().join("next.pem");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let error = folder.load_or_create().unwrap_err();
    assert!(matches!(error, KeyFolderError::Exposed { mode: 0o640, .. }), "{error}");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, "not a key").unwrap();
    assert!(matches!(folder.load().unwrap_err(), KeyFolderError::Unreadable { .. }));
}

#[test]
fn a_key_survives_its_file_and_never_shows_itself() {
    for algorithm in [Algorithm::EdDsa, Algorithm::Es256] {
        let key = SigningKey::generate(algorithm).unwrap();
        let pem = key.to_pem().unwrap();
        let read = SigningKey::from_pem(&pem).unwrap();
        assert_eq!((read.key_id(), read.algorithm()), (key.key_id(), algorithm));
        let shown = format!("{key:?}");
        assert!(pem.lines().all(|line| !shown.contains(line)), "{shown}");
    }
    assert!(SigningKey::generate(Algorithm::Ps256).is_err());
    assert!(SigningKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").is_err());
}

/// Written by `openssl genpkey -algorithm ED25519` (the key of RFC 8410, section 10.3).
#[test]
fn a_key_made_by_openssl_is_read() {
    let pem = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
    let key = SigningKey::from_pem(pem).unwrap();
    let public = serde_json::to_value(key.public()).unwrap();
    assert_eq!(public["x"], "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE");
}
