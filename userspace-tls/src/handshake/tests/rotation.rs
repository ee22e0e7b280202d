//! A mesh CA gives way to the next: trust comes before the first certificate, and goes after the
//! last.

use super::*;
use crate::Credentials;
use crate::testing::Issued;

/// Two generations of a mesh CA, and a certificate of each.
struct Rotation {
    old: Ca,
    new: Ca,
    under_old: Issued,
    under_new: Issued,
}

impl Rotation {
    fn new() -> Self {
        let (old, new) = (Ca::new("old"), Ca::new("new"));
        Self {
            under_old: old.issue(&Leaf::workload("early")),
            under_new: new.issue(&Leaf::workload("late")),
            old,
            new,
        }
    }

    fn both(&self) -> String {
        self.old.pem() + &self.new.pem()
    }
}

#[tokio::test]
async fn while_both_are_trusted_every_pair_of_certificates_meets_in_both_roles() {
    let rotation = Rotation::new();
    let early = load(&rotation.under_old, &rotation.both());
    let late = load(&rotation.under_new, &rotation.both());
    for (client, server, names) in [
        (&early, &late, ["early", "late"]),
        (&late, &early, ["late", "early"]),
        (&early, &early, ["early", "early"]),
        (&late, &late, ["late", "late"]),
    ] {
        let (connected, accepted) = handshake(client, server, ClientAuth::Required).await;
        assert_eq!(accepted.unwrap().peer, Some(spiffe_id(names[0])));
        assert_eq!(connected.unwrap().peer, Some(spiffe_id(names[1])));
    }
}

#[tokio::test]
async fn who_trusts_the_old_alone_refuses_the_new_in_both_roles() {
    let rotation = Rotation::new();
    let behind = load(&rotation.under_old, &rotation.old.pem());
    let late = load(&rotation.under_new, &rotation.both());
    assert_unknown(&behind, &late).await;
}

#[tokio::test]
async fn once_the_old_is_withdrawn_its_certificates_are_refused_even_if_they_were_accepted_before()
{
    let rotation = Rotation::new();
    let early = load(&rotation.under_old, &rotation.both());
    let trusting = load(&rotation.under_new, &rotation.both());
    for (client, server) in [(&early, &trusting), (&trusting, &early)] {
        let (connected, accepted) = handshake(client, server, ClientAuth::Required).await;
        assert!(connected.is_ok() && accepted.is_ok());
    }
    let withdrawn = load(&rotation.under_new, &rotation.new.pem());
    assert_unknown(&withdrawn, &early).await;
}

#[test]
fn an_own_certificate_whose_ca_is_withdrawn_is_not_loaded() {
    let rotation = Rotation::new();
    let Issued { chain, key } = &rotation.under_old;
    let error = Credentials::from_pem(
        chain.as_bytes(),
        key.as_bytes(),
        rotation.new.pem().as_bytes(),
    );
    assert!(
        matches!(
            error,
            Err(crate::CredentialsError::NotFromMeshCa { ref issuer }) if issuer == "CN=old"
        ),
        "{error:?}"
    );
}

async fn assert_unknown(judge: &MeshTls, peer: &MeshTls) {
    let (connected, _) = handshake(judge, peer, ClientAuth::Required).await;
    let (_, accepted) = handshake(peer, judge, ClientAuth::Required).await;
    for error in [connected.unwrap_err(), accepted.unwrap_err()] {
        let reason = error.reason();
        assert_eq!(reason, HandshakeRefusal::PeerUnknownIssuer, "{error}");
    }
}

fn load(issued: &Issued, mesh_ca: &str) -> MeshTls {
    let Issued { chain, key } = issued;
    Credentials::from_pem(chain.as_bytes(), key.as_bytes(), mesh_ca.as_bytes())
        .and_then(MeshTls::new)
        .unwrap()
}
