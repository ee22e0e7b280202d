//! Certificates come from evidence: who is given one, for which names, and who is not.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::BTreeSet;

use api::client::{ClientError, mesh_api};
use api::v1;
use attested_tls::Offer;
use serde_json::json;
use support::agent::{Agent, Failure, fresh_key};
use support::bed::Bed;
use support::code;
use support::manifest::{COORDINATOR, spiffe_id};
use support::platform::Platform;
use support::user::expected;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

#[tokio::test]
async fn names_are_exactly_those_of_the_manifest() {
    let bed = Bed::new();
    let sans = json!(["web", "web.default.svc", "192.0.2.7", "2001:db8::7"]);
    let manifest = bed.manifest().policy("web", json!({ "SANs": sans }));
    let running = bed.ready(&manifest).await;
    let answer = Agent::new(&bed.platform, "web")
        .enrol(&running)
        .await
        .unwrap();
    let [certificate] = answer.certificates.as_slice() else {
        panic!("one key, one certificate");
    };
    assert_eq!(certificate.spiffe_id, spiffe_id("web"));
    let leaf = &ders(&certificate.chain)[0];
    let leaf = X509Certificate::from_der(leaf).unwrap().1;
    let names = leaf.subject_alternative_name().unwrap().unwrap().value;
    let GeneralName::URI(first) = names.general_names[0] else {
        panic!("the SPIFFE ID comes first");
    };
    assert_eq!(first, spiffe_id("web"));
    let all: BTreeSet<_> = names.general_names.iter().map(text).collect();
    let wanted = [
        &spiffe_id("web"),
        "web",
        "web.default.svc",
        "192.0.2.7",
        "2001:db8::7",
    ];
    assert_eq!(all, wanted.map(str::to_owned).into());
    assert_eq!(all.len(), names.general_names.len());
}

#[tokio::test]
async fn a_certificate_chains_to_the_mesh_ca_and_lasts_as_long_as_the_manifest_says() {
    let bed = Bed::new();
    let manifest = bed
        .manifest()
        .workload("web")
        .with("CertificateLifetime", json!("90m"));
    let running = bed.ready(&manifest).await;
    let mut agent = Agent::new(&bed.platform, "web");
    let answer = agent.enrol(&running).await.unwrap();
    let state = answer.state.unwrap();
    let chain = ders(&answer.certificates[0].chain);
    assert_eq!(chain.len(), 2);
    let certificates: Vec<_> = chain
        .iter()
        .map(|it| X509Certificate::from_der(it).unwrap().1)
        .collect();
    let mesh_ca = &ders(&state.mesh_cas[0])[0];
    let mesh_ca = X509Certificate::from_der(mesh_ca).unwrap().1;
    let root = &ders(&state.root_ca)[0];
    let root = X509Certificate::from_der(root).unwrap().1;
    let [leaf, intermediate] = certificates.as_slice() else {
        unreachable!()
    };
    leaf.verify_signature(Some(mesh_ca.public_key())).unwrap();
    leaf.verify_signature(Some(intermediate.public_key()))
        .unwrap();
    intermediate
        .verify_signature(Some(root.public_key()))
        .unwrap();
    let validity = leaf.validity();
    let seconds = validity.not_after.timestamp() - validity.not_before.timestamp();
    assert_eq!(seconds, 90 * 60 + 5 * 60, "and backdated for late clocks");
}

#[tokio::test]
async fn a_key_that_the_evidence_does_not_vouch_for_is_refused() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest().workload("web")).await;
    let agent = Agent::new(&bed.platform, "web");
    let mut session = agent.connect(&running.mesh_api).await.unwrap();
    let mut request = session.request(&[""]);
    request.keys[0].public_key = fresh_key();
    let refused = session.client.enrol(request).await.err().unwrap();
    assert_eq!(code(&refused), "not-allowed");
    assert!(!refused.message().contains("vouch"), "{refused}");
    let reason = bed.reason(support::id(&refused)).await;
    assert!(reason.contains("does not vouch for key"), "{reason}");
    // Nor the key of another connection of the same agent.
    let other = agent.connect(&running.mesh_api).await.unwrap();
    let refused = session.client.enrol(other.request(&[""])).await;
    assert_eq!(code(&refused.err().unwrap()), "not-allowed");
    session.enrol(&[""]).await.unwrap();
}

#[tokio::test]
async fn one_refused_key_is_no_certificate_for_the_others() {
    let bed = Bed::new();
    let manifest = bed.manifest().workload("web").workload("other");
    let running = bed.ready(&manifest).await;
    let agent = Agent::new(&bed.platform, "web");
    let mut session = agent.connect_with_keys(&running.mesh_api, 2).await.unwrap();
    let refused = session.enrol(&["", "other"]).await.err().unwrap();
    assert_eq!(code(&refused), "not-allowed");
    assert!(!has_enrolled(&bed));
}

#[tokio::test]
async fn a_workload_is_not_given_the_identity_of_another() {
    let bed = Bed::new();
    let manifest = bed.manifest().workload("web").workload("bank");
    let running = bed.ready(&manifest).await;
    let agent = Agent::new(&bed.platform, "web");
    let mut session = agent.connect(&running.mesh_api).await.unwrap();
    for other in ["bank", COORDINATOR, "nobody"] {
        let refused = session.enrol(&[other]).await.err().unwrap();
        assert_eq!(code(&refused), "not-allowed", "{other}");
    }
    let own = session.enrol(&["web"]).await.unwrap();
    assert_eq!(own.certificates[0].spiffe_id, spiffe_id("web"));
}

#[tokio::test]
async fn a_node_may_ask_for_what_it_hosts_and_nothing_else() {
    let bed = Bed::new();
    let manifest = bed
        .manifest()
        .workload("web")
        .workload("bank")
        .policy("node", json!({ "Role": "node", "Hosts": ["web"] }));
    let running = bed.ready(&manifest).await;
    let agent = Agent::new(&bed.platform, "node");
    let mut session = agent.connect_with_keys(&running.mesh_api, 2).await.unwrap();
    let answer = session.enrol(&["", "web"]).await.unwrap();
    let given: Vec<_> = answer.certificates.iter().map(|it| &it.spiffe_id).collect();
    assert_eq!(given, [&spiffe_id("node"), &spiffe_id("web")]);
    let access: BTreeSet<_> = answer
        .state
        .unwrap()
        .access
        .into_iter()
        .map(|it| it.spiffe_id)
        .collect();
    assert_eq!(access, [spiffe_id("node"), spiffe_id("web")].into());
    for other in ["bank", COORDINATOR] {
        let refused = session.enrol(&[other]).await.err().unwrap();
        assert_eq!(code(&refused), "not-allowed", "{other}");
    }
}

#[tokio::test]
async fn who_is_not_in_the_manifest_is_refused_with_a_code_and_the_reason_is_written_down() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest().workload("web")).await;
    let other_guest = bed.platform.measured_as([8; 48]);
    let strangers = [
        ("HOST_DATA", Agent::new(&bed.platform, "unknown")),
        (
            "measurement",
            Agent::new(&bed.platform, "web").on(&other_guest, "web"),
        ),
        (
            "key",
            Agent::new(&bed.platform, "web").on(&Platform::new(), "web"),
        ),
    ];
    let failures = running.metric("attestation_failures_total").await;
    for (of, mut stranger) in strangers {
        let failure = stranger.enrol(&running).await.err().unwrap();
        assert_eq!(failure.code(), "attestation-refused", "{of}");
        let reason = bed.reason(&failure.id()).await;
        assert!(
            reason.to_lowercase().contains(&of.to_lowercase()),
            "{of}: {reason}"
        );
    }
    let more = running.metric("attestation_failures_total").await - failures;
    assert!((more - 3.0).abs() < f64::EPSILON, "{more}");
    assert!(!has_enrolled(&bed));
}

#[tokio::test]
async fn who_has_no_evidence_is_refused() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest().workload("web")).await;
    let connected = mesh_api(&running.mesh_api, expected(&bed.platform), Offer::default());
    let Err(ClientError::NoEvidenceSource { id }) = connected.await.map(drop) else {
        panic!("a stranger has a connection");
    };
    let reason = bed.reason(&id.to_string()).await;
    assert!(reason.contains("absent"), "{reason}");
}

#[tokio::test]
async fn simulated_evidence_takes_the_operators_leave() {
    let mut bed = Bed::new();
    let refused = {
        bed.settings.simulated = attestation::SimulatedTee::Refused;
        let running = bed.start().await;
        let refused = running.set_first(&bed.manifest()).await.err().unwrap();
        assert_eq!(code(&refused), "manifest-invalid");
        assert!(refused.message().contains("--allow-simulated-tee"));
        running.set_first(&hardware(&bed)).await.unwrap();
        Agent::new(&bed.platform, "web").enrol(&running).await
    };
    let failure = refused.err().unwrap();
    assert_eq!(failure.code(), "attestation-refused");
    let reason = bed.reason(&failure.id()).await;
    assert!(reason.contains("simulated"), "{reason}");
}

#[tokio::test]
async fn simulated_evidence_takes_a_manifest_that_lists_it() {
    let bed = Bed::new();
    let running = bed.ready(&hardware(&bed)).await;
    let refused = Agent::new(&bed.platform, "web").enrol(&running).await;
    let failure = refused.err().unwrap();
    assert_eq!(failure.code(), "attestation-refused");
    let reason = bed.reason(&failure.id()).await;
    assert!(reason.contains("simulated"), "{reason}");
}

#[tokio::test]
async fn of_twenty_at_once_as_many_are_given_certificates_as_the_cap_allows() {
    let bed = Bed::new();
    let manifest = bed.manifest().policy("web", json!({ "MaxInstances": 7 }));
    let running = bed.ready(&manifest).await;
    let mut sessions = Vec::new();
    for _ in 0..20 {
        let agent = Agent::new(&bed.platform, "web");
        sessions.push(agent.connect(&running.mesh_api).await.unwrap());
    }
    let tasks: Vec<_> = sessions
        .into_iter()
        .map(|mut session| {
            tokio::spawn(async move {
                let answer = session.enrol(&[""]).await;
                (session, answer)
            })
        })
        .collect();
    let mut admitted = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (session, Ok(_)) => admitted.push(session),
            (_, Err(refused)) => assert_eq!(code(&refused), "too-many-instances"),
        }
    }
    assert_eq!(admitted.len(), 7);
    for session in &mut admitted {
        session.enrol(&[""]).await.unwrap();
    }
    let late = Agent::new(&bed.platform, "web").enrol(&running).await;
    assert_eq!(late.err().unwrap().code(), "too-many-instances");
}

#[tokio::test]
async fn what_nodes_host_has_no_more_instances_than_it_may() {
    let bed = Bed::new();
    let manifest = bed
        .manifest()
        .policy("web", json!({ "MaxInstances": 1 }))
        .policy("node", json!({ "Role": "node", "Hosts": ["web"] }));
    let running = bed.ready(&manifest).await;
    let (first, second) = (
        Agent::new(&bed.platform, "node"),
        Agent::new(&bed.platform, "node"),
    );
    let mut first = first.connect(&running.mesh_api).await.unwrap();
    let mut second = second.connect(&running.mesh_api).await.unwrap();
    first.enrol(&["web"]).await.unwrap();
    let refused = second.enrol(&["web"]).await.err().unwrap();
    assert_eq!(code(&refused), "too-many-instances");
    second.enrol(&[""]).await.unwrap();
}

#[tokio::test]
async fn a_coordinator_is_given_no_certificate() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest()).await;
    let refused = Agent::new(&bed.platform, COORDINATOR).enrol(&running).await;
    assert_eq!(refused.err().unwrap().code(), "not-allowed");
}

#[tokio::test]
async fn a_workload_secret_is_given_where_the_policy_names_one_and_stays_the_same() {
    let bed = Bed::new();
    let named = |id: &str| json!({ "WorkloadSecretID": id });
    let manifest = bed
        .manifest()
        .policy("web", named("shared"))
        .policy("api", named("shared"))
        .policy("db", named("db"))
        .workload("none");
    let running = bed.ready(&manifest).await;
    let before = secrets(&bed, &running).await;
    assert_eq!(before[0].as_ref().unwrap().len(), 64);
    assert_eq!(before[0], before[1]);
    assert_ne!(before[0], before[2]);
    assert_eq!(before[3], None);
    running.stop().await;
    let running = bed.start().await;
    running.recover().await;
    assert_eq!(secrets(&bed, &running).await, before);
    running
        .update(&manifest.rotation("strict", 5))
        .await
        .unwrap();
    assert_eq!(secrets(&bed, &running).await, before);
}

async fn secrets(bed: &Bed, running: &support::running::Running) -> Vec<Option<Vec<u8>>> {
    let mut secrets = Vec::new();
    for name in ["web", "api", "db", "none"] {
        let answer = Agent::new(&bed.platform, name).enrol(running).await;
        let certificate = answer.unwrap().certificates.remove(0);
        secrets.push(certificate.workload_secret);
    }
    secrets
}

#[tokio::test]
async fn a_node_is_not_given_a_secret_of_one_of_two_policies_that_it_may_host() {
    let bed = Bed::new();
    let image = |secret: &str| json!({ "SANs": ["web"], "WorkloadSecretID": secret });
    let manifest = bed
        .manifest()
        .policy("web-old", image("old"))
        .policy("web-new", image("new"))
        .policy(
            "node",
            json!({ "Role": "node", "Hosts": [spiffe_id("web")] }),
        );
    let running = bed.ready(&manifest).await;
    let node = Agent::new(&bed.platform, "node");
    let mut session = node.connect(&running.mesh_api).await.unwrap();
    let refused = session.enrol(&["web"]).await.err().unwrap();
    assert_eq!(code(&refused), "not-allowed");
    let reason = bed.reason(support::id(&refused)).await;
    assert!(reason.contains("different WorkloadSecretIDs"), "{reason}");
    // The workload itself says by its evidence which of them it is.
    Agent::new(&bed.platform, "web-new")
        .enrol(&running)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_old_connection_is_no_way_around_a_new_manifest() {
    let bed = Bed::new();
    let manifest = bed.manifest().workload("web").workload("bank");
    let running = bed.ready(&manifest).await;
    let mut web = Agent::new(&bed.platform, "web")
        .connect(&running.mesh_api)
        .await
        .unwrap();
    let mut bank = Agent::new(&bed.platform, "bank")
        .connect(&running.mesh_api)
        .await
        .unwrap();
    let without_web = manifest.without_policy("web");
    running.update(&without_web).await.unwrap();
    assert_eq!(code(&web.enrol(&[""]).await.err().unwrap()), "not-allowed");
    let refused = web.try_acknowledge(1, 1).await.err().unwrap();
    assert_eq!(code(&refused), "not-allowed");
    bank.enrol(&[""]).await.unwrap();
    // The measurement of both is trusted no more.
    let measured = json!([{
        "TrustedMeasurement": hex::encode([8; 48]),
        "PlatformKeys": [bed.platform.key_digest().to_string()],
    }]);
    let other_image = without_web.with("ReferenceValues", json!({ "simulated": measured }));
    running.update(&other_image).await.unwrap();
    let refused = bank.enrol(&[""]).await.err().unwrap();
    assert_eq!(code(&refused), "not-allowed");
    let reason = bed.reason(support::id(&refused)).await;
    assert!(reason.contains("measurement"), "{reason}");
}

#[tokio::test]
async fn what_is_not_well_formed_is_refused() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest().workload("web")).await;
    let agent = Agent::new(&bed.platform, "web");
    let mut session = agent.connect(&running.mesh_api).await.unwrap();
    let good = session.request(&[""]);
    let keys = |keys: Vec<v1::KeyRequest>| v1::EnrolRequest {
        keys,
        ..good.clone()
    };
    let bad = [
        keys(vec![]),
        keys(vec![good.keys[0].clone(); 1025]),
        keys(vec![v1::KeyRequest {
            spiffe_id: "http://mesh.local/web".to_owned(),
            ..good.keys[0].clone()
        }]),
        v1::EnrolRequest {
            instance: vec![1; 15],
            ..good.clone()
        },
        v1::EnrolRequest {
            known: vec![0; 100],
            ..good.clone()
        },
    ];
    for (number, request) in bad.into_iter().enumerate() {
        let refused = session.client.enrol(request).await.err().unwrap();
        assert_eq!(code(&refused), "malformed", "request {number}: {refused}");
    }
    session.enrol(&[""]).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_though_the_evidence_vouches_for_it() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest().workload("web")).await;
    let key = b"no SubjectPublicKeyInfo".to_vec();
    let offer = Offer {
        evidence: Some(bed.platform.source("web")),
        manifest: None,
        certified_keys: vec![attestation::Digest::of(&key)],
    };
    let (mut client, _) = mesh_api(&running.mesh_api, expected(&bed.platform), offer)
        .await
        .unwrap();
    let request = v1::EnrolRequest {
        keys: vec![v1::KeyRequest {
            public_key: key,
            spiffe_id: String::new(),
        }],
        instance: vec![1; 16],
        known: vec![],
    };
    let refused = client.enrol(request).await.err().unwrap();
    assert_eq!(code(&refused), "malformed");
    assert!(!has_enrolled(&bed));
}

#[tokio::test]
async fn without_a_manifest_nobody_is_let_in() {
    let bed = Bed::new();
    let running = bed.start().await;
    let refused = Agent::new(&bed.platform, "web").enrol(&running).await;
    assert!(matches!(
        refused,
        Err(Failure::Connection(ClientError::RefusedByPeer { .. }))
    ));
}

#[tokio::test]
async fn every_certificate_is_written_down() {
    let bed = Bed::new();
    let running = bed.ready(&bed.manifest().workload("web")).await;
    let mut agent = Agent::new(&bed.platform, "web");
    agent.enrol(&running).await.unwrap();
    let lines = bed.audit();
    let line = lines.iter().find(|it| it["event"] == "enrolled").unwrap();
    assert_eq!(line["spiffe_id"], spiffe_id("web"));
    assert_eq!(line["tee"], "simulated");
    assert_eq!(line["instance"], hex::encode(agent.instance));
    assert_eq!(line["generation"], 1);
    let enrolments = running.metric("enrolments_total").await;
    assert!((enrolments - 1.0).abs() < f64::EPSILON, "{enrolments}");
}

#[test]
fn secrets_are_in_no_debug_output() {
    use coordinator::enrol::Issued;
    use coordinator::recover::PeerSecrets;
    use zeroize::Zeroizing;
    let issued = Issued {
        spiffe_id: spiffe_id("web").parse().unwrap(),
        chain: String::new(),
        generation: 1,
        workload_secret: Some(Zeroizing::new([0x5a; 64])),
    };
    let text = format!("{issued:?}");
    assert!(!text.contains("90"), "{text}");
    let secrets = PeerSecrets {
        seed: seed::Seed::generate().unwrap(),
        mesh_ca_keys: vec![(1, Zeroizing::new("PRIVATE KEY".to_owned()))],
    };
    assert_eq!(format!("{secrets:?}"), "PeerSecrets(..)");
}

/// A manifest that lists hardware alone, on which nobody here runs.
fn hardware(bed: &Bed) -> support::manifest::ManifestBuilder {
    let snp = json!([{
        "ProductName": "Milan",
        "TrustedMeasurement": hex::encode([7; 48]),
        "MinimumTCB": {
            "BootloaderVersion": 3, "TEEVersion": 0, "SNPVersion": 8, "MicrocodeVersion": 115
        },
        "GuestPolicy": { "SMT": true },
    }]);
    bed.manifest()
        .workload("web")
        .with("ReferenceValues", json!({ "snp": snp }))
}

fn has_enrolled(bed: &Bed) -> bool {
    bed.audit().iter().any(|it| it["event"] == "enrolled")
}

fn ders(pem: &str) -> Vec<Vec<u8>> {
    x509_parser::pem::Pem::iter_from_buffer(pem.as_bytes())
        .map(|it| it.unwrap().contents)
        .collect()
}

fn text(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(name) | GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress([a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
        GeneralName::IPAddress(address) => {
            let address: [u8; 16] = (*address).try_into().unwrap();
            std::net::Ipv6Addr::from(address).to_string()
        }
        other => panic!("{other:?} is no name of a workload"),
    }
}
