//! An attacker between two machines, or one that comes back with what it has seen. It has every
//! TLS key that would help it: what remains in its way is what evidence is bound to.

use ::attestation::{Binding, Evidence, ReportData, Role, Tee};
use tokio::io::copy_bidirectional;

use super::*;
use crate::frame;
use crate::session::Session;
use crate::wire::{Challenge, Proof};

/// What the victims are and which of their keys leaked: both.
struct Victims {
    machine: Machine,
    attester_key: SessionKey,
    verifier_key: SessionKey,
    attester: AttestedTls,
    verifier: AttestedTls,
}

impl Victims {
    fn new() -> Self {
        let machine = Machine::running(1);
        let (attester_key, verifier_key) = (key(), key());
        Self {
            attester: tls_with(attester_key.clone(), Demand::Nothing),
            verifier: tls_with(verifier_key.clone(), machine.demanded()),
            machine,
            attester_key,
            verifier_key,
        }
    }

    /// The verifier in `role`, which meets the attacker as the attester would be met.
    async fn verifier(&self, role: Role, stream: DuplexStream) -> Connection {
        match role {
            Role::Client => self.verifier.connect(stream, Offer::default()).await,
            Role::Server => self.verifier.accept(stream, Offer::default()).await,
        }
    }

    async fn attester(&self, role: Role, stream: DuplexStream) -> Connection {
        match role {
            Role::Client => self.attester.connect(stream, self.machine.offer()).await,
            Role::Server => self.attester.accept(stream, self.machine.offer()).await,
        }
    }

    /// Plays the attester towards the verifier, with the attester's key.
    async fn session_with_verifier(
        &self,
        role: Role,
        stream: DuplexStream,
    ) -> Session<DuplexStream> {
        session(
            &tls_with(self.attester_key.clone(), Demand::Nothing),
            role,
            stream,
        )
        .await
    }

    /// Plays the verifier towards the attester, with the verifier's key.
    async fn session_with_attester(
        &self,
        role: Role,
        stream: DuplexStream,
    ) -> Session<DuplexStream> {
        session(
            &tls_with(self.verifier_key.clone(), Demand::Nothing),
            role,
            stream,
        )
        .await
    }

    /// What the evidence must carry in the session whose exporter value is given.
    fn report_data(&self, role: Role, nonce: &[u8; 32], exporter: &[u8; 32]) -> ReportData {
        Binding {
            role,
            tee: Tee::Simulated,
            nonce,
            exporter,
            own_key: self.attester_key.digest(),
            peer_key: self.verifier_key.digest(),
            manifest: None,
            certified_keys: &[],
        }
        .report_data()
    }
}

async fn session(tls: &AttestedTls, role: Role, stream: DuplexStream) -> Session<DuplexStream> {
    match role {
        Role::Client => tls.client_handshake(stream).await.unwrap(),
        Role::Server => tls.server_handshake(stream).await.unwrap(),
    }
}

fn opposite(role: Role) -> Role {
    crate::session::opposite(role)
}

async fn pass_on(from: &mut Session<DuplexStream>, to: &mut Session<DuplexStream>) -> Vec<u8> {
    let limit = Proof::MAX_BYTES;
    let message = frame::read(&mut from.tls, "message", limit).await.unwrap();
    frame::write(&mut to.tls, &message).await.unwrap();
    message
}

/// The report data that simulated evidence carries.
fn carried(proof: &[u8]) -> ReportData {
    let evidence = Proof::decode(proof).unwrap().evidence.unwrap();
    let Evidence::Simulated(evidence) = Evidence::decode(&evidence).unwrap() else {
        panic!("of another TEE");
    };
    ::attestation::simulated::authenticate(&evidence)
        .unwrap()
        .report()
        .report_data
}

/// Passes all messages on, unchanged, between two sessions in which it has the keys of both
/// victims, so that both have the keys, the nonces and the roles that they expect.
async fn relay(role_of_attester: Role) {
    let victims = Victims::new();
    let role_of_verifier = opposite(role_of_attester);
    let (verifier_end, to_verifier) = duplex(16 * 1024);
    let (attester_end, to_attester) = duplex(16 * 1024);
    let attacker = async {
        let (mut verifier, mut attester) = tokio::join!(
            victims.session_with_verifier(role_of_attester, to_verifier),
            victims.session_with_attester(role_of_verifier, to_attester)
        );
        assert_eq!(verifier.peer_key, victims.verifier_key.digest());
        assert_eq!(attester.peer_key, victims.attester_key.digest());
        let challenge = pass_on(&mut verifier, &mut attester).await;
        pass_on(&mut attester, &mut verifier).await;
        pass_on(&mut verifier, &mut attester).await;
        let proof = pass_on(&mut attester, &mut verifier).await;
        pass_on(&mut verifier, &mut attester).await;
        let _ = frame::read(&mut attester.tls, "verdict", 128).await;

        // All that tells the two sessions apart is the exporter value.
        let nonce = Challenge::decode(&challenge).unwrap().nonce;
        let of = |session: &Session<_>| {
            let exporter = session.exporter(&nonce).unwrap();
            victims.report_data(role_of_attester, &nonce, &exporter)
        };
        assert_eq!(carried(&proof), of(&attester));
        of(&verifier)
    };
    let (at_verifier, at_attester, wanted) = tokio::join!(
        victims.verifier(role_of_verifier, verifier_end),
        victims.attester(role_of_attester, attester_end),
        attacker
    );
    let shown = at_verifier.as_ref().unwrap_err().to_string();
    assert!(shown.contains(&format!("must be {wanted:?}")), "{shown}");
    let (codes, refusal_id) = refused(at_verifier);
    assert_eq!(codes, [Code::ReportData]);
    let (code, id) = refused_by_peer(at_attester);
    assert_eq!((code.as_str(), id), ("attestation-refused", refusal_id));
}

#[tokio::test]
async fn a_servers_evidence_relayed_into_another_session_is_refused_despite_the_leaked_keys() {
    Box::pin(relay(Role::Server)).await;
}

#[tokio::test]
async fn a_clients_evidence_relayed_into_another_session_is_refused_despite_the_leaked_keys() {
    Box::pin(relay(Role::Client)).await;
}

#[tokio::test]
async fn who_passes_on_ciphertext_alone_is_no_relay() {
    let victims = Victims::new();
    let (verifier_end, mut to_verifier) = duplex(16 * 1024);
    let (attester_end, mut to_attester) = duplex(16 * 1024);
    let both = async {
        let (at_verifier, at_attester) = tokio::join!(
            victims.verifier(Role::Client, verifier_end),
            victims.attester(Role::Server, attester_end)
        );
        at_attester.unwrap();
        at_verifier.unwrap()
    };
    let verifier = tokio::select! {
        stream = both => stream,
        end = copy_bidirectional(&mut to_verifier, &mut to_attester) => panic!("{end:?}"),
    };
    assert!(verifier.peer().result.is_some());
}

#[tokio::test]
async fn evidence_of_an_earlier_session_is_refused() {
    let victims = Victims::new();
    // The attacker meets the attester and keeps its proof.
    let (attester_end, to_attester) = duplex(16 * 1024);
    let record = async {
        let mut session = victims
            .session_with_attester(Role::Client, to_attester)
            .await;
        let challenge = Challenge {
            nonce: [0x77; 32],
            wants_evidence: true,
            manifest: None,
            certified_keys: Vec::new(),
        };
        frame::write(&mut session.tls, &challenge.encode())
            .await
            .unwrap();
        frame::read(&mut session.tls, "challenge", Challenge::MAX_BYTES)
            .await
            .unwrap();
        let nothing = Proof { evidence: None };
        frame::write(&mut session.tls, &nothing.encode())
            .await
            .unwrap();
        frame::read(&mut session.tls, "proof", Proof::MAX_BYTES)
            .await
            .unwrap()
    };
    let (_, proof) = tokio::join!(victims.attester(Role::Server, attester_end), record);
    assert!(Proof::decode(&proof).unwrap().evidence.is_some());

    let (verifier_end, to_verifier) = duplex(16 * 1024);
    let replay = async {
        let mut session = victims
            .session_with_verifier(Role::Server, to_verifier)
            .await;
        answer(&mut session, &proof).await;
    };
    let (at_verifier, ()) = tokio::join!(victims.verifier(Role::Client, verifier_end), replay);
    assert_eq!(refused(at_verifier).0, [Code::ReportData]);
}

/// Challenges for nothing, then sends a proof and waits for the verdict.
async fn answer(session: &mut Session<DuplexStream>, proof: &[u8]) {
    let challenge = Challenge {
        nonce: [0; 32],
        wants_evidence: false,
        manifest: None,
        certified_keys: Vec::new(),
    };
    frame::write(&mut session.tls, &challenge.encode())
        .await
        .unwrap();
    frame::write(&mut session.tls, proof).await.unwrap();
    for _ in 0..3 {
        frame::read(&mut session.tls, "message", Proof::MAX_BYTES)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn ones_own_evidence_sent_back_is_refused() {
    // Both sides demand the same machine, and the attacker has the server's own key and answers
    // with the server's own nonce: the roles alone differ.
    let machine = Machine::running(1);
    let server_key = key();
    let server = tls_with(server_key.clone(), machine.demanded());
    let (server_end, to_server) = duplex(16 * 1024);
    let reflect = async {
        let attacker = tls_with(server_key.clone(), Demand::Nothing);
        let mut session = session(&attacker, Role::Client, to_server).await;
        for _ in 0..2 {
            let limit = Proof::MAX_BYTES;
            let message = frame::read(&mut session.tls, "message", limit)
                .await
                .unwrap();
            frame::write(&mut session.tls, &message).await.unwrap();
        }
        let _ = frame::read(&mut session.tls, "verdict", 128).await;
    };
    let (at_server, ()) = tokio::join!(server.accept(server_end, machine.offer()), reflect);
    assert_eq!(refused(at_server).0, [Code::ReportData]);
}

#[tokio::test]
async fn evidence_vouches_for_no_key_or_manifest_that_it_was_not_made_for() {
    let victims = Victims::new();
    let claims: [(Option<Digest>, Vec<Digest>); 3] = [
        (None, Vec::new()),
        (Some(Digest([1; 32])), Vec::new()),
        (None, vec![Digest([1; 32])]),
    ];
    for (manifest, certified_keys) in claims {
        let is_honest = manifest.is_none() && certified_keys.is_empty();
        let (verifier_end, to_verifier) = duplex(16 * 1024);
        let cheat = async {
            let mut session = victims
                .session_with_verifier(Role::Client, to_verifier)
                .await;
            let challenge = Challenge {
                nonce: [0; 32],
                wants_evidence: false,
                manifest,
                certified_keys,
            };
            frame::write(&mut session.tls, &challenge.encode())
                .await
                .unwrap();
            let limit = Challenge::MAX_BYTES;
            let challenge = frame::read(&mut session.tls, "challenge", limit)
                .await
                .unwrap();
            let nonce = Challenge::decode(&challenge).unwrap().nonce;
            // Genuine evidence of the machine, of this very session, for no key and no manifest.
            let exporter = session.exporter(&nonce).unwrap();
            let report_data = victims.report_data(Role::Client, &nonce, &exporter);
            let evidence = victims.machine.source.evidence(&report_data).unwrap();
            let proof = Proof {
                evidence: Some(evidence.encode()),
            };
            frame::write(&mut session.tls, &proof.encode())
                .await
                .unwrap();
            let verdict = crate::wire::Verdict::Accepted.encode();
            frame::write(&mut session.tls, &verdict).await.unwrap();
            frame::read(&mut session.tls, "proof", 16).await.unwrap();
            frame::read(&mut session.tls, "verdict", 128).await.unwrap();
        };
        let (at_verifier, ()) = tokio::join!(victims.verifier(Role::Server, verifier_end), cheat);
        if is_honest {
            at_verifier.unwrap();
        } else {
            assert_eq!(refused(at_verifier).0, [Code::ReportData]);
        }
    }
}
