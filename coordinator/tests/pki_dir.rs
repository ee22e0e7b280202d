//! The development PKI on disk: which files, who may read them, what is never overwritten.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use attestation::identity::{SpiffeId, TrustDomain};
use coordinator::pki::{PkiDir, PkiDirError, PkiError, PrivateKey, Validity, WorkloadNames};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

#[test]
fn the_ca_keys_are_their_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    init(&pki);
    assert_eq!(mode(&pki), 0o700);
    assert_eq!(
        names_and_readers(&pki),
        [
            ("coordinator-root-ca.pem".into(), Readers::All),
            ("intermediate.pem".into(), Readers::All),
            ("mesh-ca-key.pem".into(), Readers::Owner),
            ("mesh-ca.pem".into(), Readers::All),
            ("root-key.pem".into(), Readers::Owner),
        ]
    );
}

#[test]
fn an_issue_leaves_what_an_agent_reads_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let pki = init(&dir.path().join("pki"));
    let tls = dir.path().join("deep/tls");
    let issued = issue(&pki, &tls);
    assert_eq!(
        names_and_readers(&tls),
        [
            ("certChain.pem".into(), Readers::All),
            ("coordinator-root-ca.pem".into(), Readers::All),
            ("key.pem".into(), Readers::Owner),
            ("mesh-ca.pem".into(), Readers::All),
        ]
    );
    assert_eq!(issued.files.last(), Some(&tls.join("certChain.pem")));
    assert!(key_belongs_to_leaf(&tls));
}

#[test]
fn init_refuses_a_directory_with_anything_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let pki = dir.path().join("pki");
    init(&pki);
    let before = fs::read(pki.join("root-key.pem")).unwrap();
    assert!(matches!(
        try_init(&pki),
        Err(PkiDirError::NotEmpty { path }) if path == pki
    ));
    assert_eq!(fs::read(pki.join("root-key.pem")).unwrap(), before);

    fs::write(dir.path().join("notes"), "").unwrap();
    assert!(matches!(
        try_init(dir.path()),
        Err(PkiDirError::NotEmpty { .. })
    ));
}

#[test]
fn init_closes_an_empty_directory_that_others_could_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    init(dir.path());
    assert_eq!(mode(dir.path()), 0o700);
}

#[test]
fn a_reopened_pki_issues_without_the_root_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pki");
    let made = init(&path);
    fs::remove_file(path.join("root-key.pem")).unwrap();
    let opened = PkiDir::open(&path).unwrap();
    assert_eq!(opened.root(), made.root());
    issue(&opened, &dir.path().join("tls"));
    assert!(key_belongs_to_leaf(&dir.path().join("tls")));
}

#[test]
fn open_names_the_file_that_is_missing_or_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pki");
    let missing = PkiDir::open(&path).unwrap_err();
    assert!(matches!(
        missing,
        PkiDirError::Missing { path: file } if file == path.join("coordinator-root-ca.pem")
    ));

    init(&path);
    fs::write(path.join("mesh-ca.pem"), "garbage").unwrap();
    let damaged = PkiDir::open(&path).unwrap_err();
    assert!(matches!(
        damaged,
        PkiDirError::Malformed { path: file, .. } if file == path.join("mesh-ca.pem")
    ));
}

#[test]
fn open_refuses_files_of_two_pkis() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (dir.path().join("a"), dir.path().join("b"));
    init(&path);
    init(&other);
    fs::copy(
        other.join("coordinator-root-ca.pem"),
        path.join("coordinator-root-ca.pem"),
    )
    .unwrap();
    assert!(matches!(
        PkiDir::open(&path),
        Err(PkiDirError::Inconsistent {
            source: PkiError::NotSignedByRoot,
            ..
        })
    ));
}

#[test]
fn a_reader_that_checks_the_pair_never_loads_halves_of_two_issues() {
    let dir = tempfile::tempdir().unwrap();
    let pki = init(&dir.path().join("pki"));
    let tls = dir.path().join("tls");
    issue(&pki, &tls);
    let first = fs::read(tls.join("certChain.pem")).unwrap();

    let done = AtomicBool::new(false);
    let pairs = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut pairs = 0;
            while !done.load(Ordering::Relaxed) {
                // Parsing unwraps: each file is whole at every moment.
                pairs += u32::from(key_belongs_to_leaf(&tls));
            }
            pairs
        });
        for _ in 0..20 {
            issue(&pki, &tls);
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    assert!(pairs > 0);
    assert!(key_belongs_to_leaf(&tls));
    assert_ne!(fs::read(tls.join("certChain.pem")).unwrap(), first);
    assert_eq!(names_and_readers(&tls).len(), 4);
}

fn init(path: &Path) -> PkiDir {
    try_init(path).unwrap()
}

fn try_init(path: &Path) -> Result<PkiDir, PkiDirError> {
    let mesh = TrustDomain::parse("mesh.local").unwrap();
    PkiDir::init(path, &mesh, OffsetDateTime::now_utc())
}

fn issue(pki: &PkiDir, tls: &Path) -> coordinator::pki::IssuedFiles {
    let mesh = pki.root().trust_domain();
    let names = WorkloadNames::new(SpiffeId::workload(mesh, "default", "web").unwrap());
    let validity = Validity::lasting(OffsetDateTime::now_utc(), Duration::from_hours(24)).unwrap();
    pki.issue_to_dir(&names, validity, tls).unwrap()
}

fn key_belongs_to_leaf(tls: &Path) -> bool {
    let key = PrivateKey::from_pem(&fs::read_to_string(tls.join("key.pem")).unwrap()).unwrap();
    let leaf = CertificateDer::from_pem_file(tls.join("certChain.pem")).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    leaf.public_key().raw == key.public_key().as_ref()
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Readers {
    Owner,
    /// As far as the umask of the test run allows.
    All,
}

fn names_and_readers(dir: &Path) -> Vec<(String, Readers)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let readers = match mode(&entry.path()) {
                0o400 => Readers::Owner,
                _ => Readers::All,
            };
            (name, readers)
        })
        .collect();
    files.sort();
    files
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
