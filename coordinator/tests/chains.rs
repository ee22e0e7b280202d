//! One workload certificate chains to the mesh CA and, through the intermediate, to the root:
//! judged by OpenSSL and by webpki.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

mod claims;

use attestation::identity::{SpiffeId, TrustDomain};
use attestation::{Tee, oid};
use coordinator::pki::{Curve, PkiDir, PrivateKey, Root, Validity, WorkloadNames, write_tls_dir};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, UnixTime};
use tempfile::TempDir;
use time::OffsetDateTime;
use webpki::{ALL_VERIFICATION_ALGS, EndEntityCert, Error, KeyUsage, anchor_from_trusted_cert};

#[test]
fn a_workload_chains_to_the_mesh_ca_alone() {
    let bed = Bed::new(now());
    assert_eq!(bed.openssl("mesh-ca.pem", &[]), Ok(()));
    assert_eq!(bed.webpki("mesh-ca.pem", Sent::LeafAlone, now()), Ok(()));
}

#[test]
fn a_workload_chains_to_the_root_through_the_intermediate_that_it_sends() {
    let bed = Bed::new(now());
    let untrusted = ["-untrusted", "certChain.pem"];
    assert_eq!(bed.openssl("coordinator-root-ca.pem", &untrusted), Ok(()));
    assert_eq!(
        bed.webpki("coordinator-root-ca.pem", Sent::WholeChain, now()),
        Ok(())
    );
}

#[test]
fn the_root_does_not_vouch_for_a_workload_without_the_intermediate() {
    let bed = Bed::new(now());
    assert!(bed.openssl("coordinator-root-ca.pem", &[]).is_err());
    assert_eq!(
        bed.webpki("coordinator-root-ca.pem", Sent::LeafAlone, now()),
        Err(Error::UnknownIssuer)
    );
}

#[test]
fn an_unrelated_pki_of_the_same_trust_domain_is_not_trusted() {
    let bed = Bed::new(now());
    let other = Bed::new(now());
    for trusted in ["mesh-ca.pem", "coordinator-root-ca.pem"] {
        std::fs::copy(other.tls(trusted), bed.tls(trusted)).unwrap();
        let untrusted = ["-untrusted", "certChain.pem"];
        assert!(bed.openssl(trusted, &untrusted).is_err());
        assert_eq!(
            bed.webpki(trusted, Sent::WholeChain, now()),
            Err(Error::UnknownIssuer)
        );
    }
}

#[test]
fn a_chain_is_good_from_five_minutes_before_its_issue_until_it_expires() {
    let issued = now();
    let bed = Bed::new(issued);
    let at = |time| bed.webpki("mesh-ca.pem", Sent::LeafAlone, time);
    let (begin, end) = (
        issued - Validity::BACKDATED,
        issued + Duration::from_hours(24),
    );
    let second = Duration::from_secs(1);
    assert_eq!(at(begin), Ok(()));
    assert!(matches!(
        at(begin - second),
        Err(Error::CertNotValidYet { .. })
    ));
    assert_eq!(at(end), Ok(()));
    assert!(matches!(at(end + second), Err(Error::CertExpired { .. })));
}

#[test]
fn a_workload_that_proved_a_tee_of_hardware_is_good_for_tls_with_everybody() {
    for tee in [Tee::SevSnp, Tee::Tdx] {
        let bed = Bed::attested(tee);
        for purpose in ["sslserver", "sslclient"] {
            let purpose = ["-purpose", purpose];
            assert_eq!(bed.openssl("mesh-ca.pem", &purpose), Ok(()));
            let untrusted = [purpose[0], purpose[1], "-untrusted", "certChain.pem"];
            assert_eq!(bed.openssl("coordinator-root-ca.pem", &untrusted), Ok(()));
        }
        assert_eq!(bed.webpki("mesh-ca.pem", Sent::LeafAlone, now()), Ok(()));
        assert_eq!(
            bed.webpki("coordinator-root-ca.pem", Sent::WholeChain, now()),
            Ok(())
        );
    }
}

#[test]
fn a_workload_of_a_simulated_tee_is_good_for_tls_with_nobody_who_does_not_ask_for_it() {
    let bed = Bed::attested(Tee::Simulated);
    // The chain is sound: what is refused is the purpose.
    let untrusted = ["-untrusted", "certChain.pem"];
    assert_eq!(bed.openssl("coordinator-root-ca.pem", &untrusted), Ok(()));
    for purpose in ["sslserver", "sslclient"] {
        let refused = bed.openssl("mesh-ca.pem", &["-purpose", purpose]);
        let refused = refused.unwrap_err();
        assert!(
            refused.contains("unsuitable certificate purpose"),
            "{refused}"
        );
    }
    for (trusted, sent) in [
        ("mesh-ca.pem", Sent::LeafAlone),
        ("coordinator-root-ca.pem", Sent::WholeChain),
    ] {
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            assert!(matches!(
                bed.webpki_for(usage, trusted, sent, now()),
                Err(Error::RequiredEkuNotFoundContext(_))
            ));
        }
        let simulated = KeyUsage::required_if_present(oid::SIMULATED.der());
        assert_eq!(bed.webpki_for(simulated, trusted, sent, now()), Ok(()));
    }
}

#[test]
fn a_root_made_again_from_its_key_vouches_for_what_was_issued_before() {
    let now = now();
    let lifetime = Duration::from_hours(24);
    let validity = Validity::lasting(now, lifetime).unwrap();
    let mesh = TrustDomain::parse("mesh.local").unwrap();
    let create = |key| Root::create(&mesh, key, validity).unwrap();
    let first = create(PrivateKey::generate(Curve::P384).unwrap());
    let mesh_ca = first.new_mesh_ca(validity).unwrap();
    let second = create(PrivateKey::from_pem(&first.key().to_pem()).unwrap());
    assert_ne!(first.certificate(), second.certificate());

    let key = PrivateKey::generate(Curve::P256).unwrap();
    let issued = mesh_ca.issue(&web(), validity, &key.public_key()).unwrap();
    let bed = Bed(tempfile::tempdir().unwrap());
    write_tls_dir(
        &bed.0.path().join("tls"),
        &issued,
        &key,
        mesh_ca.certificate(),
        second.certificate(),
    )
    .unwrap();
    let untrusted = ["-untrusted", "certChain.pem"];
    assert_eq!(bed.openssl("coordinator-root-ca.pem", &untrusted), Ok(()));
    assert_eq!(
        bed.webpki("coordinator-root-ca.pem", Sent::WholeChain, now),
        Ok(())
    );
}

/// Which certificates of `certChain.pem` the verifier gets to see.
#[derive(Clone, Copy)]
enum Sent {
    LeafAlone,
    WholeChain,
}

/// A fresh PKI that has issued one certificate.
struct Bed(TempDir);

impl Bed {
    fn new(now: OffsetDateTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mesh = TrustDomain::parse("mesh.local").unwrap();
        let pki = PkiDir::init(&dir.path().join("pki"), &mesh, now).unwrap();
        let validity = Validity::lasting(now, Duration::from_hours(24)).unwrap();
        pki.issue_to_dir(&web(), validity, &dir.path().join("tls"))
            .unwrap();
        Self(dir)
    }

    /// The same with a certificate that claims this TEE.
    fn attested(tee: Tee) -> Self {
        let bed = Self::new(now());
        let pki = PkiDir::open(&bed.0.path().join("pki")).unwrap();
        let validity = Validity::lasting(now(), Duration::from_hours(24)).unwrap();
        let key = PrivateKey::generate(Curve::P256).unwrap();
        let evidence = claims::evidence(tee);
        let claims = claims::claims(&evidence);
        let issued = pki
            .mesh_ca()
            .issue_attested(&web(), validity, &key.public_key(), &claims)
            .unwrap();
        write_tls_dir(
            &bed.0.path().join("tls"),
            &issued,
            &key,
            pki.mesh_ca().certificate(),
            pki.root(),
        )
        .unwrap();
        bed
    }

    fn tls(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("tls").join(name)
    }

    fn openssl(&self, trusted: &str, more: &[&str]) -> Result<(), String> {
        let output = Command::new("openssl")
            .current_dir(self.0.path().join("tls"))
            .args(["verify", "-x509_strict", "-no-CApath", "-no-CAstore"])
            .args(["-CAfile", trusted])
            .args(more)
            .arg("certChain.pem")
            .output()
            .unwrap();
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn webpki(&self, trusted: &str, sent: Sent, at: OffsetDateTime) -> Result<(), Error> {
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            self.webpki_for(usage, trusted, sent, at)?;
        }
        Ok(())
    }

    fn webpki_for(
        &self,
        usage: KeyUsage,
        trusted: &str,
        sent: Sent,
        at: OffsetDateTime,
    ) -> Result<(), Error> {
        let trusted = certificates(&self.tls(trusted));
        let anchor = anchor_from_trusted_cert(&trusted[0])?;
        let chain = certificates(&self.tls("certChain.pem"));
        let intermediates = match sent {
            Sent::LeafAlone => &[],
            Sent::WholeChain => &chain[1..],
        };
        let at = u64::try_from(at.unix_timestamp()).unwrap();
        EndEntityCert::try_from(&chain[0])?
            .verify_for_usage(
                ALL_VERIFICATION_ALGS,
                std::slice::from_ref(&anchor),
                intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(at)),
                usage,
                None,
                None,
            )
            .map(drop)
    }
}

fn web() -> WorkloadNames {
    let mesh = TrustDomain::parse("mesh.local").unwrap();
    WorkloadNames::new(SpiffeId::workload(&mesh, "default", "web").unwrap())
}

fn certificates(file: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(file)
        .unwrap()
        .map(Result::unwrap)
        .collect()
}

/// OpenSSL looks at the real clock.
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc().truncate_to_second()
}
