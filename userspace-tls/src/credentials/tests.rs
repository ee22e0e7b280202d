use super::*;
use crate::testing::{Ca, Issued, Leaf, spiffe_id};

#[test]
fn matching_files_are_accepted_and_name_the_workload() {
    let ca = Ca::new("mesh");
    let credentials = load(&ca.issue(&Leaf::workload("a")), &ca.pem()).unwrap();
    assert_eq!(credentials.identity, spiffe_id("a"));
    assert!(credentials.validity.contains(SystemTime::now()));
}

#[test]
fn an_expired_certificate_is_accepted_and_says_so() {
    let ca = Ca::new("mesh");
    let (from, until) = (-time::Duration::DAY * 2, -time::Duration::DAY);
    let issued = ca.issue(&Leaf {
        from,
        until,
        ..Leaf::workload("a")
    });
    let credentials = load(&issued, &ca.pem()).unwrap();
    assert!(credentials.validity.not_after < SystemTime::now());
}

#[test]
fn any_of_several_trust_anchors_will_do() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let bundle = old.pem() + &new.pem();
    for ca in [&old, &new] {
        load(&ca.issue(&Leaf::workload("a")), &bundle).unwrap();
    }
}

#[test]
fn each_kind_of_certificate_is_loaded_as_what_it_is_alone() {
    let ca = Ca::new("mesh");
    let pem = ca.pem();
    let (hardware, simulated) = (
        ca.issue(&Leaf::workload("a")),
        ca.issue(&Leaf::simulated("a")),
    );
    assert!(load(&hardware, &pem).is_ok());
    assert!(load_simulated(&simulated, &pem).is_ok());
    let error = load(&simulated, &pem).unwrap_err();
    assert!(matches!(error, CredentialsError::Simulated), "{error}");
    let error = load_simulated(&hardware, &pem).unwrap_err();
    assert!(matches!(error, CredentialsError::NotSimulated), "{error}");
}

#[test]
fn a_chain_through_an_intermediate_is_accepted_whichever_kind_it_is() {
    let root = Ca::new("root");
    let intermediate = root.intermediate("intermediate");
    let issue = |leaf: &Leaf| {
        let Issued { chain, key } = intermediate.issue(leaf);
        Issued {
            chain: chain + &intermediate.pem(),
            key,
        }
    };
    load(&issue(&Leaf::workload("a")), &root.pem()).unwrap();
    load_simulated(&issue(&Leaf::simulated("a")), &root.pem()).unwrap();
}

#[test]
fn a_foreign_mesh_ca_is_refused() {
    let issued = Ca::new("one").issue(&Leaf::workload("a"));
    let error = load(&issued, &Ca::new("other").pem()).unwrap_err();
    assert!(matches!(&error, CredentialsError::NotFromMeshCa { issuer } if issuer == "CN=one"));
}

#[test]
fn a_key_that_does_not_match_is_refused() {
    let ca = Ca::new("mesh");
    let leaf = Leaf::workload("a");
    let issued = Issued {
        key: ca.issue(&leaf).key,
        ..ca.issue(&leaf)
    };
    let error = load(&issued, &ca.pem()).unwrap_err();
    assert!(
        matches!(error, CredentialsError::KeyMismatch { .. }),
        "{error}"
    );
}

#[test]
fn a_chain_in_the_wrong_order_is_told_from_a_wrong_key() {
    let ca = Ca::new("mesh");
    let Issued { chain, key } = ca.issue(&Leaf::workload("a"));
    let error = load(
        &Issued {
            chain: ca.pem() + &chain,
            key,
        },
        &ca.pem(),
    )
    .unwrap_err();
    assert!(
        matches!(error, CredentialsError::WrongOrder { position: 2 }),
        "{error}"
    );
}

#[test]
fn a_leaf_without_spiffe_id_is_refused() {
    let ca = Ca::new("mesh");
    let issued = ca.issue(&Leaf {
        uris: vec![],
        ..Leaf::workload("a")
    });
    let error = load(&issued, &ca.pem()).unwrap_err();
    assert!(
        matches!(error, CredentialsError::NoIdentity(IdentityProblem::NoUri)),
        "{error}"
    );
}

#[test]
fn a_leaf_for_one_purpose_only_is_refused() {
    let ca = Ca::new("mesh");
    let usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let error = load(
        &ca.issue(&Leaf {
            usages,
            ..Leaf::workload("a")
        }),
        &ca.pem(),
    );
    assert!(
        matches!(error, Err(CredentialsError::Refused(_))),
        "{error:?}"
    );
}

#[test]
fn each_unreadable_file_is_named_with_what_is_wrong() {
    let ca = Ca::new("mesh");
    let Issued { chain, key } = ca.issue(&Leaf::workload("a"));
    let good = [chain.as_bytes(), key.as_bytes(), ca.pem().as_bytes()].map(<[u8]>::to_vec);
    let der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    let damaged = b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
    let cases: [(&[u8], [&str; 3]); 4] = [
        (
            b" \n",
            [
                "certChain.pem is empty",
                "key.pem is empty",
                "mesh-ca.pem is empty",
            ],
        ),
        (
            &der,
            [
                "`openssl x509 -inform DER",
                "`openssl pkey -inform DER",
                "mesh-ca.pem is DER",
            ],
        ),
        (
            b"hello",
            [
                "certChain.pem is not PEM",
                "key.pem is not PEM",
                "mesh-ca.pem is not PEM",
            ],
        ),
        (
            damaged,
            [
                "the PEM of certChain.pem",
                "the PEM of key.pem",
                "the PEM of mesh-ca.pem",
            ],
        ),
    ];
    for (contents, expected) in cases {
        for (file, expected) in expected.into_iter().enumerate() {
            let mut files = good.clone();
            files[file] = contents.to_vec();
            let error = Credentials::from_pem(&files[0], &files[1], &files[2]).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
    let error = Credentials::from_pem(&good[0], &good[0], &good[2]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("key.pem contains no private key"),
        "{error}"
    );
    let error = Credentials::from_pem(&good[1], &good[1], &good[2]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("certChain.pem contains no certificate"),
        "{error}"
    );
}

fn load(issued: &Issued, mesh_ca: &str) -> Result<Credentials, CredentialsError> {
    Credentials::from_pem(
        issued.chain.as_bytes(),
        issued.key.as_bytes(),
        mesh_ca.as_bytes(),
    )
}

fn load_simulated(issued: &Issued, mesh_ca: &str) -> Result<Credentials, CredentialsError> {
    Credentials::simulated_from_pem(
        issued.chain.as_bytes(),
        issued.key.as_bytes(),
        mesh_ca.as_bytes(),
    )
}
