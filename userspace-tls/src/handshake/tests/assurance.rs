//! Those who rest on hardware and those who rest on a simulation never meet.

use super::*;
use crate::Assurance;
use crate::testing::unchecked;

#[tokio::test]
async fn two_simulated_workloads_know_each_other() {
    let ca = Ca::new("mesh");
    let simulated = |name| unchecked(&ca.issue(&Leaf::simulated(name)), &[&ca], SIMULATED);
    let (connected, accepted) =
        handshake(&simulated("a"), &simulated("b"), ClientAuth::Required).await;
    assert_eq!(connected.unwrap().peer, Some(spiffe_id("b")));
    assert_eq!(accepted.unwrap().peer, Some(spiffe_id("a")));
}

#[tokio::test]
async fn a_simulated_peer_is_refused_by_hardware_in_both_roles() {
    for error in refused_both_ways(|ca| ca.mesh_tls(&Leaf::simulated("x"))).await {
        assert_eq!(error.reason(), HandshakeRefusal::PeerSimulated, "{error}");
    }
}

#[tokio::test]
async fn the_simulated_purpose_among_others_is_refused_by_hardware_all_the_same() {
    let mut leaf = Leaf::workload("x");
    leaf.usages.extend(Leaf::simulated("x").usages);
    for error in refused_both_ways(|ca| ca.mesh_tls(&leaf)).await {
        assert_eq!(error.reason(), HandshakeRefusal::PeerSimulated, "{error}");
    }
}

#[tokio::test]
async fn a_peer_that_is_not_simulated_is_refused_by_a_simulated_one_in_both_roles() {
    let no_purpose = Leaf {
        usages: Vec::new(),
        ..Leaf::workload("x")
    };
    for leaf in [Leaf::workload("x"), no_purpose] {
        let ca = Ca::new("mesh");
        let simulated = unchecked(&ca.issue(&Leaf::simulated("a")), &[&ca], SIMULATED);
        let peer = ca.mesh_tls(&leaf);
        let (connected, _) = handshake(&simulated, &peer, ClientAuth::Required).await;
        // The peer does not go so far as to look at the simulated certificate.
        let peer = unchecked(&ca.issue(&leaf), &[&ca], SIMULATED);
        let (_, accepted) = handshake(&peer, &simulated, ClientAuth::Required).await;
        for error in [connected.unwrap_err(), accepted.unwrap_err()] {
            let reason = error.reason();
            assert_eq!(reason, HandshakeRefusal::PeerNotSimulated, "{error}");
        }
    }
}

#[tokio::test]
async fn a_simulated_peer_of_a_foreign_ca_is_as_unknown_as_any() {
    let (ca, foreign) = (Ca::new("mesh"), Ca::new("foreign"));
    let simulated = |issued: &_| unchecked(issued, &[&ca], SIMULATED);
    let good = simulated(&ca.issue(&Leaf::simulated("a")));
    let bad = simulated(&foreign.issue(&Leaf::simulated("x")));
    let (connected, _) = handshake(&good, &bad, ClientAuth::Required).await;
    let (_, accepted) = handshake(&bad, &good, ClientAuth::Required).await;
    for error in [connected.unwrap_err(), accepted.unwrap_err()] {
        let reason = error.reason();
        assert_eq!(reason, HandshakeRefusal::PeerUnknownIssuer, "{error}");
    }
}

const SIMULATED: Assurance = Assurance::Simulated;
