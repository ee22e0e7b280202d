//! `[coordinator]`: where certificates come from when not from files.

use std::path::PathBuf;

use attestation::identity::SpiffeId;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::address::CoordinatorAddress;
use super::check::Checker;
use super::file::{CoordinatorKeys, Given, Origin};
use super::keys::{Keys as _, Tell};
use super::layers::{
    COLLATERAL, COORDINATOR, COORDINATOR_MANIFEST, CRL, Layers, SIMULATED_TEE, STATE_DIR, VEK,
};
use super::problem::Problem;

/// How to get certificates from a Coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Coordinator {
    /// The mesh APIs of the deployment's Coordinators, at least one; tried in turn.
    pub addresses: Vec<CoordinatorAddress>,
    /// A manifest of the deployment. The Coordinator must run under its policy with the role
    /// `coordinator`, on what its reference values list.
    pub manifest: PathBuf,
    /// Where the latest transition that was seen is remembered; `None` is nowhere.
    pub state_dir: Option<PathBuf>,
    /// Whether evidence and certificates of the simulated TEE are taken.
    pub allow_simulated_tee: bool,
    /// What this machine proves itself with.
    #[serde(flatten)]
    pub tee: Tee,
}

/// Where this machine's evidence comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Tee {
    /// The TEE that the kernel offers, with files for what its vendor says of it.
    Hardware {
        /// SEV-SNP: the VCEK's or VLEK's certificate.
        vek: Option<PathBuf>,
        /// SEV-SNP: AMD's revocation list.
        crl: Option<PathBuf>,
        /// TDX: Intel's collateral.
        collateral: Option<PathBuf>,
    },
    /// The simulated one that a file describes.
    Simulated {
        /// The file.
        simulated_tee: PathBuf,
    },
}

/// Where a workload's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateOrigin {
    /// Files.
    Files {
        /// Directory of `certChain.pem`, `key.pem` and `mesh-ca.pem`.
        tls_dir: PathBuf,
    },
    /// The Coordinator.
    Coordinator {
        /// The workload that this node hosts; `None` is the identity of the agent's own policy.
        spiffe_id: Option<SpiffeId>,
    },
}

impl Serialize for CertificateOrigin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match self {
            Self::Files { tls_dir } => map.serialize_entry("tls_dir", tls_dir)?,
            Self::Coordinator { spiffe_id } => {
                let spiffe_id = spiffe_id.as_ref().map(SpiffeId::as_str);
                map.serialize_entry("spiffe_id", &spiffe_id)?;
            }
        }
        map.end()
    }
}

impl Layers<'_> {
    /// The options above the file's `[coordinator]`.
    pub(super) fn coordinator_keys(&self, file: Option<Given<CoordinatorKeys>>) -> Merged {
        let (keys, table) = file.map(|it| (it.value, it.origin)).unzip();
        let mut keys = keys.unwrap_or_default();
        keys.addresses = self.list(COORDINATOR).or(keys.addresses);
        for (key, option) in [
            (&mut keys.manifest, COORDINATOR_MANIFEST),
            (&mut keys.state_dir, STATE_DIR),
            (&mut keys.simulated_tee, SIMULATED_TEE),
            (&mut keys.vek, VEK),
            (&mut keys.crl, CRL),
            (&mut keys.collateral, COLLATERAL),
        ] {
            *key = self.option(option).or(key.take());
        }
        if self.flags.coordinator.allow_simulated_tee {
            keys.allow_simulated_tee = Some(Given {
                value: true,
                origin: Origin::Flag("--allow-simulated-tee"),
            });
        }
        Merged { keys, table }
    }

    /// The same for `init`, which knows Contrast's variable too.
    pub(super) fn coordinator_keys_of_init(&self, file: Option<Given<CoordinatorKeys>>) -> Merged {
        let mut merged = self.coordinator_keys(file);
        let is_from_file = matches!(
            merged.keys.addresses,
            None | Some(Given {
                origin: Origin::File { .. },
                ..
            })
        );
        if is_from_file && let Some(host) = self.variable(COORDINATOR_HOST) {
            merged.keys.addresses = Some(Given {
                origin: host.origin,
                value: vec![host],
            });
        }
        merged
    }
}

/// `[coordinator]` as the options, the environment and the file have it together.
#[derive(Debug)]
pub(super) struct Merged {
    keys: CoordinatorKeys,
    /// Where the file's table begins.
    table: Option<Origin>,
}

impl Merged {
    /// Tells of every value where it was given.
    pub(super) fn visit(&self, tell: Tell<'_>) {
        self.keys.visit("coordinator", tell);
    }

    /// Where it was first asked for; `None` if it was not.
    pub(super) fn origin(&self) -> Option<Origin> {
        let CoordinatorKeys {
            addresses,
            manifest,
            state_dir,
            allow_simulated_tee,
            simulated_tee,
            vek,
            crl,
            collateral,
        } = &self.keys;
        let texts = [manifest, state_dir, simulated_tee, vek, crl, collateral];
        self.table
            .or(addresses.as_ref().map(|it| it.origin))
            .or(texts.into_iter().flatten().next().map(|it| it.origin))
            .or(allow_simulated_tee.as_ref().map(|it| it.origin))
    }
}

impl Checker<'_> {
    /// What `merged` means; `origin` is where what it lacks should be.
    pub(super) fn coordinator(&mut self, merged: Merged, origin: Origin) -> Coordinator {
        let CoordinatorKeys {
            addresses,
            manifest,
            state_dir,
            allow_simulated_tee,
            simulated_tee,
            vek,
            crl,
            collateral,
        } = merged.keys;
        let allow_simulated_tee = allow_simulated_tee.is_some_and(|it| it.value);
        let addresses = self.required("coordinator.addresses", ADD_ADDRESSES, addresses, origin);
        let addresses = addresses.map(|it| self.addresses(it));
        let manifest = self.required("coordinator.manifest", ADD_MANIFEST, manifest, origin);
        let manifest = manifest.map(|it| self.file("coordinator.manifest", it));
        let state_dir = state_dir.map(|it| self.path("coordinator.state_dir", it));
        Coordinator {
            addresses: addresses.unwrap_or_default(),
            manifest: manifest.unwrap_or_default(),
            state_dir,
            allow_simulated_tee,
            tee: self.tee(allow_simulated_tee, simulated_tee, [vek, crl, collateral]),
        }
    }

    fn addresses(&mut self, given: Given<Vec<Given<String>>>) -> Vec<CoordinatorAddress> {
        let mut addresses: Vec<CoordinatorAddress> = Vec::new();
        let Given {
            value: texts,
            origin,
        } = given;
        if texts.is_empty() {
            let (key, add) = ("coordinator.addresses", ADD_ADDRESSES);
            self.report(origin, Problem::Missing { key, add });
        }
        for Given { value: got, origin } in texts {
            match got.parse() {
                Ok(address) if addresses.contains(&address) => {
                    self.report(origin, Problem::DuplicateAddress { got });
                }
                Ok(address) => addresses.push(address),
                Err(reason) => self.report(origin, Problem::Address { got, reason }),
            }
        }
        addresses
    }

    fn tee(
        &mut self,
        allow_simulated_tee: bool,
        simulated_tee: Option<Given<String>>,
        endorsements: [Option<Given<String>>; 3],
    ) -> Tee {
        let [vek, crl, collateral] = endorsements;
        let Some(simulated_tee) = simulated_tee else {
            return Tee::Hardware {
                vek: vek.map(|it| self.file("coordinator.vek", it)),
                crl: crl.map(|it| self.file("coordinator.crl", it)),
                collateral: collateral.map(|it| self.file("coordinator.collateral", it)),
            };
        };
        for (key, given) in [
            ("coordinator.vek", vek),
            ("coordinator.crl", crl),
            ("coordinator.collateral", collateral),
        ] {
            if let Some(given) = given {
                self.report(given.origin, Problem::UnusedEndorsement { key });
            }
        }
        if !allow_simulated_tee {
            self.report(simulated_tee.origin, Problem::SimulatedTeeNotAllowed);
        }
        Tee::Simulated {
            simulated_tee: self.file("coordinator.simulated_tee", simulated_tee),
        }
    }

    /// A file that the agent reads; a path that does not begin with `/` is taken from the working
    /// directory.
    pub(super) fn file(&mut self, key: &'static str, given: Given<String>) -> PathBuf {
        if given.value.is_empty() {
            self.report(given.origin, Problem::NoFile { key });
        }
        PathBuf::from(given.value)
    }

    /// Which identity a workload asks for, and whether it may ask at all.
    pub(super) fn certificate_origin(
        &mut self,
        from: CertificatesFrom,
        name: &str,
        tls_dir: Option<Given<String>>,
        spiffe_id: Option<Given<String>>,
        workload: Origin,
    ) -> CertificateOrigin {
        match from {
            CertificatesFrom::Files => {
                if let Some(spiffe_id) = spiffe_id {
                    self.report(spiffe_id.origin, Problem::SpiffeIdWithoutCoordinator);
                }
                CertificateOrigin::Files {
                    tls_dir: match tls_dir {
                        Some(tls_dir) => self.path("tls_dir", tls_dir),
                        None => PathBuf::from(TLS_DIRS).join(name),
                    },
                }
            }
            CertificatesFrom::Coordinator { names_required } => {
                if let Some(tls_dir) = tls_dir {
                    self.report(tls_dir.origin, Problem::TlsDirWithCoordinator);
                }
                if names_required && spiffe_id.is_none() {
                    let (key, add) = ("spiffe_id", ADD_SPIFFE_ID);
                    self.report(workload, Problem::Missing { key, add });
                }
                CertificateOrigin::Coordinator {
                    spiffe_id: spiffe_id.and_then(|it| self.spiffe_id(it)),
                }
            }
        }
    }

    fn spiffe_id(&mut self, given: Given<String>) -> Option<SpiffeId> {
        let Given { value: got, origin } = given;
        match SpiffeId::parse(&got) {
            Ok(id) if id.path().is_empty() => {
                self.report(origin, Problem::TrustDomainAlone { got });
                None
            }
            Ok(id) => Some(id),
            Err(reason) => {
                self.report(origin, Problem::SpiffeId { got, reason });
                None
            }
        }
    }
}

/// Where every workload's certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CertificatesFrom {
    Files,
    Coordinator {
        /// Whether each workload must say who it is: an agent has one identity of its own.
        names_required: bool,
    },
}

/// Contrast's, of its initializer.
const COORDINATOR_HOST: &str = "COORDINATOR_HOST";

/// Below it lies a directory for each workload that names no `tls_dir`.
const TLS_DIRS: &str = "/etc/sealwire";

const ADD_ADDRESSES: &str =
    "add addresses = [\"coordinator:7777\"], or give --coordinator HOST:PORT";
const ADD_MANIFEST: &str = "add manifest = \"/etc/sealwire/manifest.json\", or give \
                            --coordinator-manifest FILE: it says what the Coordinator must prove";
const ADD_SPIFFE_ID: &str = "add spiffe_id = \"spiffe://...\", the identity of this one among the \
                             workloads that the manifest lets this node host";
