//! Histories that hold but for one thing. The Coordinator's own key signs each of them: what is
//! tested is what stays to be checked when the Coordinator errs.

use attestation::identity::TrustDomain;
use coordinator::pki::{Curve, PrivateKey, Root, Validity};
use history::{OwnerKey, TransitionSigner};
use seed::Seed;
use time::OffsetDateTime;

use super::*;

#[test]
fn a_history_that_holds_is_accepted_with_all_that_is_in_it() {
    let (mut it, second) = Deployment::with_update();
    it.add(Kind::Issue, &second.clone());
    it.add(Kind::Withdraw, &second.clone());
    let recovered = it.state("2h");
    it.add(Kind::Recovery, &recovered);
    let verified = it.verify().unwrap();
    assert_eq!(verified.chain.head().seq, 5);
    assert_eq!(verified.manifests.len(), 2);
    assert_eq!(verified.active().hash(), second.manifest.hash());
    assert_eq!(verified.root_ca, recovered.record.root.pem());
    assert_eq!(verified.mesh_ca, recovered.record.mesh_ca.pem());
    assert_eq!(verified.first_signers, []);
}

#[test]
fn an_update_without_its_owners_is_refused() {
    let (mut it, _) = Deployment::with_update();
    it.owner = Deployment::new().owner;
    let third = it.state("3h");
    it.add(Kind::Manifest, &third);
    it.refused("transition 3: the owners did not consent to its manifest");
}

#[test]
fn a_mesh_ca_that_is_used_again_is_refused() {
    for kind in [Kind::Manifest, Kind::Recovery] {
        let (mut it, second) = Deployment::with_update();
        it.add(kind, &second);
        it.refused("transition 3: the mesh CA has a key that an earlier one has");
    }
}

#[test]
fn a_mesh_ca_that_changes_by_itself_is_refused() {
    for kind in [Kind::Issue, Kind::Withdraw] {
        let (mut it, second) = Deployment::with_update();
        let mut other = it.state("2h");
        other.shares = second.shares;
        it.add(kind, &other);
        it.refused("transition 3: the mesh CA changes without a new manifest");
    }
}

#[test]
fn a_root_that_changes_is_refused() {
    let (mut it, _) = Deployment::with_update();
    it.root = root();
    let third = it.state("3h");
    it.add(Kind::Manifest, &third);
    it.refused("transition 3: the root CA changes");
}

#[test]
fn certificates_that_do_not_belong_together_are_refused() {
    let good = Deployment::new().state("2h").record;
    let other = Deployment::new().state("2h").record;
    for record in [
        PkiRecord {
            root: other.root,
            ..good.clone()
        },
        PkiRecord {
            mesh_ca: other.mesh_ca,
            ..good.clone()
        },
        PkiRecord {
            intermediate: other.intermediate,
            ..good
        },
    ] {
        let mut it = Deployment::new();
        let first = State {
            record,
            ..it.state("1h")
        };
        it.add(Kind::Manifest, &first);
        it.refused("transition 1: its PKI record");
    }
}

#[test]
fn shares_for_others_than_the_manifests_owners_are_refused() {
    let owners: Vec<_> = RSA.iter().map(|it| hex::decode(it).unwrap()).collect();
    for (owners, quorum) in [(&owners[..1], 1), (&owners[1..], 1), (&owners[..], 1)] {
        let mut it = Deployment::new();
        let mut first = it.state("1h");
        first.shares = seed::split(&Seed::generate().unwrap(), owners, quorum).unwrap();
        it.add(Kind::Manifest, &first);
        it.refused("transition 1: the seed is shared among others than the manifest's owners");
    }
}

#[test]
fn shares_that_change_without_a_manifest_are_refused() {
    for kind in [Kind::Issue, Kind::Recovery] {
        let (mut it, second) = Deployment::with_update();
        let mut other = it.state("2h");
        other.shares = shares();
        if kind == Kind::Issue {
            other.record = second.record;
        }
        it.add(kind, &other);
        it.refused("transition 3 shares out the seed anew");
    }
}

#[test]
fn a_history_with_a_gap_or_another_signer_is_refused() {
    let (mut it, _) = Deployment::with_update();
    it.entries.remove(0);
    it.refused("transition 1: missing: in its place is transition 2");

    let (mut it, _) = Deployment::with_update();
    it.entries.swap(0, 1);
    it.refused("transition 1: missing: in its place is transition 2");

    let (mut it, _) = Deployment::with_update();
    it.signer = Deployment::new().signer;
    it.refused("transition 1: the signature is wrong");

    let (mut it, _) = Deployment::with_update();
    it.entries.clear();
    it.refused("the history is empty");

    let (mut it, _) = Deployment::with_update();
    it.entries[1].transition.truncate(40);
    it.refused("the Coordinator's history can't be read");
}

#[test]
fn each_object_is_needed_as_it_is() {
    for (position, what) in [(0, "manifest"), (1, "PKI record"), (2, "seed shares")] {
        let mut it = Deployment::new();
        let first = it.state("1h");
        it.add(Kind::Manifest, &first);
        let objects = it.entries[0].objects.clone();
        it.entries[0].objects[position].push(0);
        it.refused(&format!("transition 1: its {what} ("));
        it.entries[0].objects = objects;
        it.verify().unwrap();
        it.entries[0].objects.remove(position);
        it.refused(&format!("transition 1: its {what} ("));
    }
}

#[test]
fn what_the_coordinator_shows_must_be_what_its_history_ends_with() {
    let (it, _) = Deployment::with_update();
    let entries = || it.entries.clone();
    let older = v1::Status {
        head: None,
        ..it.status()
    };
    let root_ca = v1::Status {
        root_ca: root().certificate().pem(),
        ..it.status()
    };
    let mut mesh_ca = it.status();
    mesh_ca
        .mesh_cas
        .insert(0, it.state("2h").record.mesh_ca.pem());
    let none = v1::Status {
        mesh_cas: vec![],
        ..it.status()
    };
    for (status, message) in [
        (older, "which it says is not the latest"),
        (root_ca, "certificates that the Coordinator shows"),
        (mesh_ca, "certificates that the Coordinator shows"),
        (none, "certificates that the Coordinator shows"),
    ] {
        let error = VerifiedDeployment::verify(&status, entries()).unwrap_err();
        assert!(format!("{error:#}").contains(message), "{error:#}");
    }
}

/// A Coordinator without owner keys lets anything by with the first manifest.
#[test]
fn the_first_manifest_is_signed_by_whom_the_coordinator_demands() {
    let signed = |authorisations: fn(&Deployment, &State) -> Vec<Authorisation>, on_first_use| {
        let mut it = Deployment::new();
        let first = it.state("1h");
        let authorisations = authorisations(&it, &first);
        it.append(Kind::Manifest, &first, authorisations);
        let status = v1::Status {
            trust_on_first_use: on_first_use,
            ..it.status()
        };
        let verified = VerifiedDeployment::verify(&status, it.entries.clone()).unwrap();
        let signers: Vec<_> = verified
            .first_signers
            .iter()
            .map(ToString::to_string)
            .collect();
        let shown: serde_json::Value = serde_json::from_str(&verified.transitions_json()).unwrap();
        assert_eq!(shown[0]["authorised_by"], json!(signers));
        (verified.first_signers, it.owner.digest())
    };
    let right = |it: &Deployment, first: &State| {
        vec![
            it.owner
                .sign(&update_statement(&first.manifest.hash(), &Digest([0; 32])))
                .unwrap(),
        ]
    };
    let wrong = |it: &Deployment, _: &State| vec![it.owner.sign("something else").unwrap()];
    let (signers, owner) = signed(right, false);
    assert_eq!(signers, [owner]);
    assert_eq!(signed(right, true).0, []);
    assert_eq!(signed(wrong, false).0, []);
}

/// What a transition refers to.
#[derive(Clone)]
struct State {
    manifest: Manifest,
    record: PkiRecord,
    shares: SharesDocument,
}

/// A Coordinator that signs whatever it is told to.
struct Deployment {
    signer: TransitionSigner,
    root: Root,
    owner: OwnerKey,
    shares: SharesDocument,
    entries: Vec<v1::HistoryEntry>,
    last: Option<(Transition, PkiRecord)>,
}

impl Deployment {
    fn new() -> Self {
        let key = PrivateKey::generate(Curve::P384).unwrap().to_pem();
        let (_, der) = pem_rfc7468::decode_vec(key.as_bytes()).unwrap();
        let owner = PrivateKey::generate(Curve::P256).unwrap().to_pem();
        Self {
            signer: TransitionSigner::from_pkcs8(&der).unwrap(),
            root: root(),
            owner: OwnerKey::from_pem(&owner).unwrap(),
            shares: shares(),
            entries: vec![],
            last: None,
        }
    }

    /// After a first manifest, and an update.
    fn with_update() -> (Self, State) {
        let mut it = Self::new();
        let first = it.state("1h");
        it.add(Kind::Manifest, &first);
        let second = it.state("2h");
        it.add(Kind::Manifest, &second);
        it.verify().unwrap();
        (it, second)
    }

    /// A manifest with a fresh mesh CA.
    fn state(&self, lifetime: &str) -> State {
        let manifest = json!({
            "Policies": { "c0".repeat(32): { "SANs": ["coordinator"], "Role": "coordinator" } },
            "ReferenceValues": { "simulated": [{
                "TrustedMeasurement": "00".repeat(48), "PlatformKeys": ["00".repeat(32)],
            }] },
            "WorkloadOwnerKeyDigests": [self.owner.digest().to_string()],
            "SeedshareOwnerPubKeys": RSA,
            "SeedshareQuorum": 2,
            "CertificateLifetime": lifetime,
        });
        let mesh_ca = self.root.new_mesh_ca(validity(1)).unwrap();
        State {
            manifest: Manifest::parse(manifest.to_string().as_bytes()).unwrap(),
            record: PkiRecord {
                root: self.root.certificate().clone(),
                mesh_ca: mesh_ca.certificate().clone(),
                intermediate: mesh_ca.intermediate().clone(),
            },
            shares: self.shares.clone(),
        }
    }

    /// With the owner's consent, where one is needed.
    fn add(&mut self, kind: Kind, state: &State) {
        let mut authorisations = vec![];
        if let (Kind::Manifest, Some((last, _))) = (kind, &self.last) {
            let statement = update_statement(&state.manifest.hash(), &last.hash());
            authorisations.push(self.owner.sign(&statement).unwrap());
        }
        self.append(kind, state, authorisations);
    }

    fn append(&mut self, kind: Kind, state: &State, authorisations: Vec<Authorisation>) {
        let State {
            manifest,
            record,
            shares,
        } = state;
        let last = self.last.as_ref().map(|(last, _)| last);
        let transition = Transition {
            seq: last.map_or(1, |it| it.seq + 1),
            previous: last.map_or(Digest([0; 32]), Transition::hash),
            kind,
            manifest: manifest.hash(),
            pki: Digest::of(&record.encode()),
            seed_shares: shares.hash(),
            time: 0,
            authorisations,
        };
        let signed = self.signer.sign(transition.clone()).unwrap();
        self.entries.push(v1::HistoryEntry {
            transition: signed.encode(),
            objects: vec![
                manifest.bytes().to_vec(),
                record.encode(),
                shares.to_json().into_bytes(),
            ],
        });
        self.last = Some((transition, record.clone()));
    }

    fn status(&self) -> v1::Status {
        let (last, record) = self.last.as_ref().unwrap();
        v1::Status {
            head: Some(v1::Head {
                seq: last.seq,
                transition: last.hash().0.to_vec(),
            }),
            root_ca: record.root.pem(),
            mesh_cas: vec![record.mesh_ca.pem()],
            transition_key: self.signer.public_key().spki_der().to_vec(),
            ..v1::Status::default()
        }
    }

    fn verify(&self) -> anyhow::Result<VerifiedDeployment> {
        VerifiedDeployment::verify(&self.status(), self.entries.clone())
    }

    #[track_caller]
    fn refused(&self, message: &str) {
        let error = format!("{:#}", self.verify().unwrap_err());
        assert!(error.contains(message), "{error}");
    }
}

fn root() -> Root {
    let domain: TrustDomain = "mesh.local".parse().unwrap();
    Root::create(
        &domain,
        PrivateKey::generate(Curve::P384).unwrap(),
        validity(2),
    )
    .unwrap()
}

fn shares() -> SharesDocument {
    let owners: Vec<_> = RSA.iter().map(|it| hex::decode(it).unwrap()).collect();
    seed::split(&Seed::generate().unwrap(), &owners, 2).unwrap()
}

fn validity(hours: u64) -> Validity {
    let lifetime = std::time::Duration::from_secs(3600 * hours);
    Validity::lasting(OffsetDateTime::now_utc(), lifetime).unwrap()
}

/// PKCS #1 DER of the share owners' public keys.
const RSA: [&str; 2] = [
    "\
     3082010a0282010100ad54826d0e5f721f93e72abf98b817db5d638e2f05bc1a21177aa61f55ec24eacd5e45\
     d16102fd199a390a225fd2e989b0a84245443ee7f3db496f6970d451289066e7891b5fd748e64405acfa1022\
     a327b56effbeb1c32317808c231d8323eed45cd5f35f5a70025a7911b6a990f7218208e231b3469fbf24011c\
     680120ea325ddc9b3774a7c2846c5c036b6524c1ae87e08da9bb83a96339114dad5b2bc14022d6240550a109\
     12f738fa4aee685789e0934ac568adc28d85ee5980a661a0797dac180b93da4fe2ebe627dadc88cc5042b47b\
     de0688861b90858e5194220070baf7967fd1e7b8a8421a93627dd688fdc2e5aa00dbb127905012d2a2aa6bfe\
     b90203010001",
    "\
     3082010a0282010100a04148b27b30dd340520b94458f0c0a7869f998ef929729367e03ce1e93579716244c7\
     4d4f88a4b6e3854bee87f82fcac2a9f182504e1195571122c9e6eeb9829b08c162594f21d6d484e0e7e8f753\
     1ab5a3246c4007a4193b249f3d19cfb5702c7488baac8ba41f76325e6920a094ed19c0031194432f894b6bfe\
     cff8539425d10714f19aed92c55565d13479c56bc67f65d8b6471874820e028932fdabc53ad13b305e4ed4cf\
     6069fab66d88b6856eda083caff9b3a2e8c07d3c6280ad9dff9957f0f51ef69a096158e675172e82ae6c74d0\
     e4cf90aafc4121e0dac71a29abb21b3fd993329309b1e28f2a6f3f45d7a167d8b46b721497d8afc1e5919086\
     450203010001",
];
