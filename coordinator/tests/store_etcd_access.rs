//! Who gets into etcd: TLS in both directions, and users with passwords.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod store;

use std::fs;
use std::path::Path;
use std::time::Duration;

use coordinator::store::{
    AppendError, ClientCertificate, Denial, EtcdOptions, EtcdOptionsError, EtcdStore, Login, Store,
    StoreError,
};
use etcd_client::{Client, Permission, PermissionType};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use store::etcd::{Etcd, PROGRAM, address};
use store::skip;
use store::transition::{Step, append, operations};

#[tokio::test]
async fn tls_admits_those_with_the_right_certificates_alone() {
    if !skip::has(PROGRAM) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Ca::new("ours"), Ca::new("theirs"));
    let etcd = Etcd::start_with(&serve_tls(dir.path(), &ours));
    let good = EtcdOptions {
        ca_pem: Some(ours.pem()),
        client: Some(ours.client()),
        ..etcd.options()
    };
    let store = EtcdStore::connect(good.clone()).await.unwrap();
    let head = append(&store, "over-tls", vec![]).await;
    store
        .watch()
        .wait_for(|it| *it == Some(head))
        .await
        .unwrap();
    assert_eq!(operations(&store, Some(head)).await, ["over-tls"]);

    let wrong = [
        (
            EtcdOptions {
                ca_pem: Some(theirs.pem()),
                ..good.clone()
            },
            Denial::ServerCertificate,
        ),
        (
            EtcdOptions {
                client: Some(theirs.client()),
                ..good.clone()
            },
            Denial::ClientCertificate,
        ),
        (
            EtcdOptions {
                client: None,
                ..good.clone()
            },
            Denial::ClientCertificate,
        ),
    ];
    for (options, wanted) in wrong {
        assert_denied(
            &EtcdStore::connect(options).await.unwrap_err(),
            wanted,
            &etcd,
        );
    }

    let mixed = ClientCertificate {
        key_pem: theirs.client().key_pem,
        ..ours.client()
    };
    let mixed = EtcdOptions {
        client: Some(mixed),
        ..good
    };
    match EtcdStore::connect(mixed).await {
        Err(StoreError::Options(EtcdOptionsError::Tls { endpoint, .. })) => {
            assert_eq!(endpoint, etcd.endpoint());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn passwords_admit_those_who_have_rights_alone() {
    if !skip::has(PROGRAM) {
        return;
    }
    let etcd = Etcd::start();
    let as_user = |user: &str, password: &str| EtcdOptions {
        login: Some(Login {
            user: user.to_owned(),
            password: password.to_owned().into(),
        }),
        ..etcd.options()
    };
    drop(etcd.store().await);
    let too_early = EtcdStore::connect(as_user("sealwire", "right"))
        .await
        .unwrap_err();
    assert_denied(&too_early, Denial::LoginNotEnabled, &etcd);

    let opened_before = etcd.store().await;
    turn_authentication_on(&etcd).await;
    let store = EtcdStore::connect(as_user("sealwire", "right"))
        .await
        .unwrap();
    let head = append(&store, "as a user", vec![]).await;
    store
        .watch()
        .wait_for(|it| *it == Some(head))
        .await
        .unwrap();

    for (options, wanted) in [
        (as_user("sealwire", "wrong"), Denial::Login),
        (as_user("nobody", "right"), Denial::Login),
        (etcd.options(), Denial::Login),
        (as_user("stranger", "right"), Denial::Permission),
    ] {
        assert_denied(
            &EtcdStore::connect(options).await.unwrap_err(),
            wanted,
            &etcd,
        );
    }
    assert_denied(
        &opened_before.head().await.unwrap_err(),
        Denial::Login,
        &etcd,
    );
    let reader = EtcdStore::connect(as_user("reader", "right"))
        .await
        .unwrap();
    assert_eq!(reader.head().await.unwrap(), Some(head));
    match Step::after(Some(head), "not allowed", vec![])
        .append(&reader)
        .await
    {
        Err(AppendError::Store(error)) => assert_denied(&error, Denial::Permission, &etcd),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_login_outlives_its_token() {
    if !skip::has(PROGRAM) {
        return;
    }
    // etcd forgets its tokens when it is restarted; a token is also good for five minutes alone.
    let mut etcd = Etcd::start();
    drop(etcd.store().await);
    turn_authentication_on(&etcd).await;
    let options = EtcdOptions {
        login: Some(Login {
            user: "sealwire".to_owned(),
            password: "right".to_owned().into(),
        }),
        ..etcd.options()
    };
    let store = EtcdStore::connect(options.clone()).await.unwrap();
    let head = append(&store, "before", vec![]).await;
    let mut watcher = store.watch();
    watcher.wait_for(|it| *it == Some(head)).await.unwrap();
    etcd.kill();
    etcd.run();
    append(&store, "after", vec![]).await;
    let other = EtcdStore::connect(options).await.unwrap();
    let head = append(&other, "by another", vec![]).await;
    watcher.wait_for(|it| *it == Some(head)).await.unwrap();
}

#[tokio::test]
async fn what_is_not_etcd_is_not_taken_for_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = EtcdOptions {
        endpoints: vec![format!("http://{address}")],
        prefix: "/sealwire".to_owned(),
        ca_pem: None,
        client: None,
        login: None,
        timeout: Duration::from_millis(500),
    };
    // Nobody answers; then nobody is there.
    for _ in 0..2 {
        match EtcdStore::connect(options.clone()).await {
            Err(error @ StoreError::Unavailable { .. }) => {
                assert!(error.to_string().contains(&address.to_string()), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
    drop(listener);
    assert!(matches!(
        EtcdStore::connect(options).await,
        Err(StoreError::Unavailable { .. })
    ));
}

async fn turn_authentication_on(etcd: &Etcd) {
    let mut admin = Client::connect([etcd.endpoint()], None).await.unwrap();
    for (user, role) in [
        ("root", "root"),
        ("sealwire", "writer"),
        ("reader", "reader"),
        ("stranger", "strange"),
    ] {
        admin.user_add(user, "right", None).await.unwrap();
        admin.role_add(role).await.unwrap();
        admin.user_grant_role(user, role).await.unwrap();
    }
    for (role, prefix, permission) in [
        ("writer", "/sealwire/", PermissionType::Readwrite),
        ("reader", "/sealwire/", PermissionType::Read),
        ("strange", "/elsewhere/", PermissionType::Readwrite),
    ] {
        let permission = Permission::new(permission, prefix).with_prefix();
        admin.role_grant_permission(role, permission).await.unwrap();
    }
    admin.auth_enable().await.unwrap();
}

fn assert_denied(error: &StoreError, wanted: Denial, etcd: &Etcd) {
    match error {
        StoreError::Unauthorised {
            endpoint, denial, ..
        } => {
            assert_eq!((denial, endpoint), (&wanted, &etcd.endpoint()), "{error:?}");
        }
        other => panic!("{other:?}"),
    }
}

/// etcd's arguments, with a server certificate that `ca` issues.
fn serve_tls(dir: &Path, ca: &Ca) -> Vec<String> {
    let (cert, key) = ca.issue("etcd", ExtendedKeyUsagePurpose::ServerAuth);
    let file = |name: &str, contents: &str| {
        let path = dir.join(name);
        fs::write(&path, contents).unwrap();
        path.display().to_string()
    };
    vec![
        format!("--cert-file={}", file("server.pem", &cert)),
        format!("--key-file={}", file("server-key.pem", &key)),
        format!("--trusted-ca-file={}", file("ca.pem", &ca.pem())),
        "--client-cert-auth".to_owned(),
    ]
}

struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    fn client(&self) -> ClientCertificate {
        let (cert_pem, key_pem) = self.issue("coordinator", ExtendedKeyUsagePurpose::ClientAuth);
        ClientCertificate {
            cert_pem,
            key_pem: key_pem.into(),
        }
    }

    fn issue(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> (String, String) {
        let mut params = CertificateParams::new(vec![address().to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}
