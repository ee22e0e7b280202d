//! `Manifest::parse`: any bytes. A manifest is the bytes that it was read from, keeps its own rules,
//! and differs from itself in nothing; what is refused is refused with reasons.
#![no_main]

use std::sync::LazyLock;

use attestation::Digest;
use attestation::identity::SpiffeId;
use fuzz::{Outcome, sample_manifests, start};
use libfuzzer_sys::fuzz_target;
use manifest::{AllowedPeers, Manifest, Role, diff, reference_values_of};

static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let simulated = sample_manifests::simulated(Digest([0x5b; 32]));
    let hardware = sample_manifests::hardware();
    vec![
        simulated.to_string().into_bytes(),
        hardware.to_string().into_bytes(),
        format!("{hardware:#}").into_bytes(),
    ]
});
static BEFORE: LazyLock<Manifest> =
    LazyLock::new(|| Manifest::parse(&SEEDS[0]).expect("a manifest"));

fuzz_target!(init: start(&SEEDS, attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn attempt(bytes: &[u8]) -> Outcome {
    let parsed = Manifest::parse(bytes);
    match &parsed {
        Ok(manifest) => check(manifest, bytes),
        Err(errors) => {
            assert!(errors.count() > 0);
            assert!(!errors.to_string().is_empty());
        }
    }
    Outcome::of(&parsed)
}

fn check(manifest: &Manifest, bytes: &[u8]) {
    assert_eq!(manifest.bytes(), bytes);
    assert_eq!(manifest.hash(), Digest::of(bytes));
    let json: serde_json::Result<serde_json::Value> = serde_json::from_slice(bytes);
    assert!(json.is_ok(), "another parser calls it no JSON");

    let policies = manifest.policies();
    let coordinators = policies.values().filter(|it| it.role == Role::Coordinator);
    assert_eq!(coordinators.count(), 1);
    for policy in policies.values() {
        assert_eq!(policy.spiffe_id.trust_domain(), manifest.trust_domain());
        if let AllowedPeers::Only(peers) = &policy.allowed_peers {
            let is_member = |peer: &SpiffeId| policies.values().any(|it| it.spiffe_id == *peer);
            assert!(peers.iter().all(is_member), "a peer that is nobody");
        }
    }
    for (quorum, owners) in [
        (manifest.update_quorum(), manifest.workload_owners().len()),
        (
            manifest.seedshare_quorum(),
            manifest.seedshare_owners().len(),
        ),
    ] {
        assert!(quorum <= owners && (quorum == 0) == (owners == 0));
    }
    let values = manifest.reference_values();
    let is_hardware = !values.snp.is_empty() || !values.tdx.is_empty();
    assert_ne!(is_hardware, !values.simulated.is_empty());
    assert_eq!(reference_values_of(bytes).as_ref(), Ok(values));

    assert!(diff(manifest, manifest).is_empty());
    for change in diff(&BEFORE, manifest)
        .iter()
        .chain(&diff(manifest, &BEFORE))
    {
        assert!(!change.to_string().is_empty());
    }
}
