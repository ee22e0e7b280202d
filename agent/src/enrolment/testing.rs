//! A deployment for tests: its history, its mesh CAs (made by OpenSSL), and a Coordinator that says
//! what it is told to.

pub(crate) mod fake;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use api::v1;
use attestation::identity::SpiffeId;
use attestation::{Digest, oid};
use attester::simulated::{generate_platform_key, platform_key_digest};
use attester::{Simulated, SimulatedTeeFile};
use aws_lc_rs::signature::{ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair};
use history::{Kind, SignedTransition, Transition, TransitionSigner};
use pem_rfc7468::LineEnding;
use serde_json::json;
use tempfile::TempDir;
use zeroize::Zeroizing;

/// What a Coordinator holds, and what agents must prove to it.
pub(crate) struct Deployment {
    directory: TempDir,
    signer: TransitionSigner,
    platform_key: Zeroizing<String>,
    certificates: Kinds,
}

/// What certificates say that they rest on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kinds {
    Production,
    Simulated,
}

impl Deployment {
    /// With the mesh CA of generation 1, and certificates as of hardware.
    pub(crate) fn new() -> Self {
        Self::of(Kinds::Production)
    }

    /// The same with certificates of this kind.
    pub(crate) fn of(certificates: Kinds) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        let deployment = Self {
            directory: tempfile::tempdir().unwrap(),
            signer: TransitionSigner::from_pkcs8(pkcs8.as_ref()).unwrap(),
            platform_key: generate_platform_key().unwrap(),
            certificates,
        };
        deployment.add_mesh_ca(1);
        deployment
    }

    pub(crate) fn path(&self, file: &str) -> std::path::PathBuf {
        self.directory.path().join(file)
    }

    pub(crate) fn add_mesh_ca(&self, generation: u64) {
        let name = format!("ca-{generation}");
        let subject = format!("/CN=mesh CA {generation}");
        self.config(
            &name,
            "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign",
        );
        self.openssl(&[
            &["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"],
            &["-pkeyopt", "ec_paramgen_curve:P-384", "-subj", &subject],
            &[
                "-config",
                &format!("{name}.cnf"),
                "-extensions",
                "extensions",
            ],
            &[
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.pem"),
            ],
        ]);
    }

    pub(crate) fn mesh_ca(&self, generation: u64) -> String {
        fs::read_to_string(self.path(&format!("ca-{generation}.pem"))).unwrap()
    }

    /// What the Coordinator says after this many transitions, with the mesh CA of generation 1.
    pub(crate) fn state(&self, seq: u64) -> v1::MeshState {
        self.state_of(seq, 0)
    }

    /// The same, after another history of the same length.
    pub(crate) fn fork(&self, seq: u64) -> v1::MeshState {
        self.state_of(seq, 1)
    }

    fn state_of(&self, seq: u64, time: u64) -> v1::MeshState {
        let access = |name: &str| v1::Access {
            spiffe_id: spiffe_id(name).to_string(),
            any_member: true,
            allowed_peers: vec![],
        };
        v1::MeshState {
            transition: self.transition(seq, time).encode(),
            transition_key: self.signer.public_key().spki_der().to_vec(),
            root_ca: self.mesh_ca(1),
            mesh_cas: vec![self.mesh_ca(1)],
            generation: 1,
            required_generation: 1,
            deadline: 0,
            members: ["web", "db", "other"]
                .map(|it| spiffe_id(it).to_string())
                .into(),
            access: vec![access("web"), access("db")],
            simulated: self.certificates == Kinds::Simulated,
        }
    }

    fn transition(&self, seq: u64, time: u64) -> SignedTransition {
        let transition = Transition {
            seq,
            previous: Digest([0; 32]),
            kind: Kind::Manifest,
            manifest: Digest([1; 32]),
            pki: Digest([2; 32]),
            seed_shares: Digest([3; 32]),
            time,
            authorisations: vec![],
        };
        self.signer.sign(transition).unwrap()
    }

    /// A certificate for the workload `name` and the key `spki`.
    pub(crate) fn issue(&self, name: &str, spki: &[u8], generation: u64) -> v1::Certificate {
        self.issue_for(name, spki, generation, 2)
    }

    /// The same, valid for this many days from now on; for none, where they are less than zero.
    pub(crate) fn issue_for(
        &self,
        name: &str,
        spki: &[u8],
        generation: u64,
        days: i32,
    ) -> v1::Certificate {
        let id = spiffe_id(name);
        let key = pem_rfc7468::encode_string("PUBLIC KEY", LineEnding::LF, spki).unwrap();
        fs::write(self.path("public.pem"), key).unwrap();
        let purposes = match self.certificates {
            Kinds::Production => "serverAuth,clientAuth".to_owned(),
            Kinds::Simulated => {
                let arcs = oid::SIMULATED.arcs().iter().map(u64::to_string);
                arcs.collect::<Vec<_>>().join(".")
            }
        };
        let extensions = format!(
            "basicConstraints=critical,CA:FALSE\nextendedKeyUsage={purposes}\n\
             subjectAltName=URI:{id}"
        );
        self.config("leaf", &extensions);
        let ca = format!("ca-{generation}");
        self.openssl(&[
            &["x509", "-new", "-force_pubkey", "public.pem"],
            &["-days", &days.to_string()],
            &["-CA", &format!("{ca}.pem"), "-CAkey", &format!("{ca}.key")],
            &["-subj", "/CN=leaf", "-extfile", "leaf.cnf"],
            &["-extensions", "extensions", "-out", "leaf.pem"],
        ]);
        v1::Certificate {
            spiffe_id: id.to_string(),
            chain: fs::read_to_string(self.path("leaf.pem")).unwrap(),
            generation,
            workload_secret: None,
        }
    }

    /// The TEE of a guest that runs under the policy of this name.
    pub(crate) fn tee(&self, name: &str) -> Arc<Simulated> {
        Arc::new(self.tee_file(name).source().unwrap())
    }

    /// The same as a file; its path.
    pub(crate) fn write_tee(&self, name: &str) -> std::path::PathBuf {
        let path = self.path(&format!("{name}-tee.json"));
        fs::write(&path, &*self.tee_file(name).to_json()).unwrap();
        path
    }

    fn tee_file(&self, name: &str) -> SimulatedTeeFile {
        let key = self.platform_key.clone();
        SimulatedTeeFile::new(key, &[0; 48], policy(name), &[7; 16])
    }

    /// A manifest of the deployment, in a file; its path.
    pub(crate) fn write_manifest(&self) -> std::path::PathBuf {
        let path = self.path("manifest.json");
        let manifest = json!({
            "TrustDomain": "mesh.local",
            "Policies": {
                policy("coordinator").to_string(): { "SANs": ["coordinator"], "Role": "coordinator" },
                policy("web").to_string(): { "SANs": ["web"] },
            },
            "ReferenceValues": { "simulated": [{
                "TrustedMeasurement": hex::encode([0; 48]),
                "PlatformKeys": [platform_key_digest(&self.platform_key).unwrap().to_string()],
            }] },
            "WorkloadOwnerKeyDigests": [],
            // RSA, 2048 bits, of nobody.
            "SeedshareOwnerPubKeys": [format!("3082010a0282010100{}0203010001", "c1".repeat(256))],
        });
        fs::write(&path, manifest.to_string()).unwrap();
        path
    }

    fn config(&self, name: &str, extensions: &str) {
        let text = format!("[req]\ndistinguished_name=dn\n[dn]\n[extensions]\n{extensions}\n");
        fs::write(self.path(&format!("{name}.cnf")), text).unwrap();
    }

    fn openssl(&self, arguments: &[&[&str]]) {
        let directory: &Path = self.directory.path();
        let output = Command::new("openssl")
            .current_dir(directory)
            .args(arguments.concat())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

pub(crate) fn policy(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

pub(crate) fn spiffe_id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://mesh.local/ns/default/sa/{name}")).unwrap()
}
