//! The whole client against a Coordinator on the loopback, with real keys, evidence and TLS.

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use api::v1;
use attestation::identity::SpiffeId;
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;
use tokio::time::timeout;

use super::testing::fake::{FakeCoordinator, PATIENCE, Says};
use super::testing::{Deployment, Kinds, spiffe_id};
use super::{Enroller, InitError, Prepared, SetupError, Slot, Trouble, once};
use crate::admin::Readiness;
use crate::certificates::{self, CertificateError, Credential};
use crate::config::{Coordinator, InitConfig, Tee};
use crate::metrics::Metrics;
use crate::readiness::ReadinessBoard;

/// An agent whose certificates go nowhere.
struct Bed {
    deployment: Arc<Deployment>,
    state_dir: TempDir,
    credentials: Vec<watch::Receiver<Credential>>,
    readiness: watch::Receiver<Readiness>,
}

impl Bed {
    fn new() -> Self {
        let board = ReadinessBoard::new();
        Self {
            deployment: Arc::new(Deployment::new()),
            state_dir: tempfile::tempdir().unwrap(),
            credentials: Vec::new(),
            readiness: board.watch(),
        }
    }

    fn says(&self, seq: u64) -> Says {
        Says {
            state: Some(self.deployment.state(seq)),
            signs: 1,
            allowed: vec!["web"],
            secret: None,
        }
    }

    fn config(&self, coordinators: &[&FakeCoordinator]) -> Coordinator {
        let address = |it: &&FakeCoordinator| it.address.to_string().parse().unwrap();
        Coordinator {
            addresses: coordinators.iter().map(address).collect(),
            manifest: self.deployment.write_manifest(),
            state_dir: Some(self.state_dir.path().to_owned()),
            allow_simulated_tee: true,
            tee: Tee::Simulated {
                simulated_tee: self.deployment.write_tee("web"),
            },
        }
    }

    /// Starts the agent's client within a [`LocalSet`].
    fn start(&mut self, config: &Coordinator, wanted: Vec<Option<SpiffeId>>) {
        let board = ReadinessBoard::new();
        self.readiness = board.watch();
        let slots = wanted.iter().map(|_| {
            let (slot, credential) = slot();
            self.credentials.push(credential);
            slot
        });
        let slots = slots.collect();
        let prepared = Prepared::new(config, wanted).unwrap();
        let metrics = Metrics::new("0.1.0").coordinator();
        let enroller = Enroller::new(prepared, slots, metrics, board);
        tokio::task::spawn_local(enroller.run());
    }

    /// Waits until the workload's credential is as the condition says.
    async fn expect(
        &mut self,
        workload: usize,
        condition: impl Fn(&Credential) -> bool,
    ) -> Credential {
        let credential = &mut self.credentials[workload];
        let found = timeout(PATIENCE, credential.wait_for(|it| condition(it))).await;
        let found = found.map(|it| it.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{:?}", credential.borrow()))
    }

    async fn expect_readiness(&mut self, condition: impl Fn(&Readiness) -> bool) {
        let found = timeout(PATIENCE, self.readiness.wait_for(|it| condition(it)));
        let is_found = found.await.is_ok();
        assert!(is_found, "{:?}", self.readiness.borrow());
    }
}

/// A slot, and what stands in for the workload's keeper behind it.
fn slot() -> (Slot, watch::Receiver<Credential>) {
    let (credential, receiver) = certificates::channel();
    let (sender, mut messages) = mpsc::channel(1);
    tokio::task::spawn_local(async move {
        while let Some(message) = messages.recv().await {
            match message {
                Ok(issued) => _ = credential.send_replace(Credential::Loaded(issued)),
                Err(why) => {
                    _ = credential.send_if_modified(|credential| {
                        let is_withdrawn = matches!(why, CertificateError::Withdrawn { .. });
                        if matches!(credential, Credential::Loaded(_)) && !is_withdrawn {
                            return false;
                        }
                        *credential = Credential::Missing(Arc::new(why));
                        true
                    });
                }
            }
        }
    });
    (Slot::new(sender, receiver.clone()), receiver)
}

fn local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn is_usable(credential: &Credential) -> bool {
    credential.usable(SystemTime::now()).is_ok()
}

fn is_loaded(credential: &Credential) -> bool {
    matches!(credential, Credential::Loaded(_))
}

fn missing_because(text: &'static str) -> impl Fn(&Credential) -> bool {
    move |credential| match credential {
        Credential::Missing(why) => why.to_string().contains(text),
        Credential::Loaded(_) => false,
    }
}

#[test]
fn a_workload_gets_its_own_identity_and_the_coordinator_an_acknowledgement() {
    local(async {
        let mut bed = Bed::new();
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(3)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        let Credential::Loaded(issued) = bed.expect(0, is_usable).await else {
            unreachable!()
        };
        assert_eq!(*issued.identity(), spiffe_id("web"));
        assert!(issued.membership.lists(&spiffe_id("other")));
        coordinator.acknowledged(1, 1).await;
        let enrolments = coordinator.enrolments();
        assert_eq!(enrolments.len(), 1);
        assert!(enrolments[0].known.is_empty());
        assert_eq!(enrolments[0].instance.len(), 16);
        bed.expect_readiness(|it| it.coordinator.is_none()).await;
    });
}

#[test]
fn a_new_mesh_ca_is_trusted_then_used_then_alone() {
    local(async {
        let mut bed = Bed::new();
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(1)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        coordinator.acknowledged(1, 1).await;
        // Held on to, it would look like a handshake under way.
        let first = match bed.expect(0, is_usable).await {
            Credential::Loaded(first) => Arc::downgrade(&first.tls),
            Credential::Missing(why) => panic!("{why}"),
        };

        bed.deployment.add_mesh_ca(2);
        let both = vec![bed.deployment.mesh_ca(2), bed.deployment.mesh_ca(1)];
        let state = |seq, required| v1::MeshState {
            mesh_cas: both.clone(),
            generation: 2,
            required_generation: required,
            ..bed.deployment.state(seq)
        };
        let (trust, issue) = (state(2, 1), state(3, 2));
        coordinator.say(|says| says.state = Some(trust));
        coordinator.acknowledged(2, 1).await;
        assert_eq!(coordinator.enrolments().len(), 1);
        let is_other = |credential: &Credential| match credential {
            Credential::Loaded(issued) => !std::ptr::eq(Arc::as_ptr(&issued.tls), first.as_ptr()),
            Credential::Missing(_) => false,
        };
        bed.expect(0, is_other).await;

        coordinator.say(|says| {
            says.state = Some(issue);
            says.signs = 2;
        });
        coordinator.acknowledged(2, 2).await;
        let enrolments = coordinator.enrolments();
        assert_eq!(enrolments.len(), 2);
        assert_ne!(
            enrolments[0].keys[0].public_key,
            enrolments[1].keys[0].public_key
        );
        assert_eq!(enrolments[0].instance, enrolments[1].instance);
        assert!(!enrolments[1].known.is_empty());

        let done = v1::MeshState {
            mesh_cas: vec![bed.deployment.mesh_ca(2)],
            generation: 2,
            required_generation: 2,
            ..bed.deployment.state(4)
        };
        coordinator.say(|says| says.state = Some(done));
        coordinator.acknowledged(2, 2).await;
        bed.expect(0, is_usable).await;
        assert_eq!(coordinator.enrolments().len(), 2);
    });
}

#[test]
fn a_ca_that_is_withdrawn_at_once_leaves_nothing_to_use_until_there_is_a_new_certificate() {
    local(async {
        let mut bed = Bed::new();
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(1)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        coordinator.acknowledged(1, 1).await;
        bed.deployment.add_mesh_ca(2);
        let strict = v1::MeshState {
            mesh_cas: vec![bed.deployment.mesh_ca(2)],
            generation: 2,
            required_generation: 2,
            ..bed.deployment.state(2)
        };
        // It can't sign yet: certificates of the old CA are of no use.
        coordinator.say(|says| says.state = Some(strict));
        bed.expect(0, missing_because("the mesh CA was withdrawn"))
            .await;
        coordinator.say(|says| says.signs = 2);
        bed.expect(0, is_usable).await;
        coordinator.acknowledged(2, 2).await;
    });
}

#[test]
fn an_agent_whose_policy_left_the_manifest_is_shut_out_and_comes_back_with_it() {
    local(async {
        let mut bed = Bed::new();
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(1)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        coordinator.acknowledged(1, 1).await;
        coordinator.say(|says| says.state = None);
        let shut_out = bed.expect(0, |it| is_loaded(it) && !is_usable(it)).await;
        let Credential::Loaded(issued) = shut_out else {
            unreachable!()
        };
        assert!(!issued.membership.lists(issued.identity()));
        bed.expect_readiness(|it| {
            let trouble = it.coordinator.as_ref();
            trouble.is_some_and(|trouble| {
                !trouble.is_unreachable() && trouble.why.contains("not-allowed")
            })
        })
        .await;
    });
}

#[test]
fn a_coordinator_with_an_older_history_is_refused_and_the_certificate_stays() {
    local(async {
        let mut bed = Bed::new();
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(5)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        coordinator.acknowledged(1, 1).await;
        let older = bed.deployment.state(4);
        coordinator.say(|says| says.state = Some(older));
        bed.expect_readiness(|it| {
            let trouble = it.coordinator.as_ref();
            trouble.is_some_and(|trouble| trouble.why.contains("rolled back"))
        })
        .await;
        bed.expect(0, is_usable).await;
    });
}

#[test]
fn what_was_seen_is_remembered_by_the_next_agent() {
    let mut bed = Bed::new();
    local(async {
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(5)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        coordinator.acknowledged(1, 1).await;
    });
    bed.credentials.clear();
    local(async {
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(4)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        bed.expect(0, missing_because("rolled back")).await;
        assert!(!coordinator.enrolments()[0].known.is_empty());
    });
}

#[test]
fn another_coordinator_takes_the_place_of_one_that_is_gone() {
    local(async {
        let mut bed = Bed::new();
        let first = FakeCoordinator::start(&bed.deployment, bed.says(1)).await;
        let second = FakeCoordinator::start(&bed.deployment, bed.says(1)).await;
        let config = bed.config(&[&first, &second]);
        drop(first);
        bed.start(&config, vec![None]);
        bed.expect(0, is_usable).await;
        second.acknowledged(1, 1).await;
    });
}

#[test]
fn an_outage_is_told_and_leaves_the_certificate_in_use() {
    local(async {
        let mut bed = Bed::new();
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(1)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        coordinator.acknowledged(1, 1).await;
        drop(coordinator);
        bed.expect_readiness(|it| {
            let trouble = it.coordinator.as_ref();
            trouble.is_some_and(Trouble::is_unreachable)
        })
        .await;
        assert!(is_usable(&bed.credentials[0].borrow()));
    });
}

#[test]
fn a_coordinator_under_another_policy_gets_no_request() {
    local(async {
        let mut bed = Bed::new();
        let impostor = FakeCoordinator::start_as("web", &bed.deployment, bed.says(1)).await;
        let config = bed.config(&[&impostor]);
        bed.start(&config, vec![None]);
        bed.expect(0, missing_because("host_data")).await;
        assert!(impostor.enrolments().is_empty());
    });
}

#[test]
fn a_node_gets_what_it_may_host_and_says_what_it_may_not() {
    local(async {
        let mut bed = Bed::new();
        let mut says = bed.says(1);
        says.allowed = vec!["node", "web", "db"];
        let coordinator = FakeCoordinator::start(&bed.deployment, says).await;
        let config = bed.config(&[&coordinator]);
        let wanted = ["web", "other", "db"].map(|name| Some(spiffe_id(name)));
        bed.start(&config, wanted.into());
        for (workload, name) in [(0, "web"), (2, "db")] {
            let Credential::Loaded(issued) = bed.expect(workload, is_usable).await else {
                unreachable!()
            };
            assert_eq!(*issued.identity(), spiffe_id(name));
        }
        bed.expect(1, missing_because("does not let this agent act for"))
            .await;
        coordinator.acknowledged(1, 1).await;
        // All at once, then one by one.
        let keys: Vec<_> = coordinator
            .enrolments()
            .iter()
            .map(|it| it.keys.len())
            .collect();
        assert_eq!(keys, [3, 1, 1, 1]);
    });
}

#[test]
fn certificates_of_a_simulated_tee_are_taken_only_where_that_is_allowed() {
    local(async {
        let mut bed = Bed::new();
        bed.deployment = Arc::new(Deployment::of(Kinds::Simulated));
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(1)).await;
        let config = bed.config(&[&coordinator]);
        bed.start(&config, vec![None]);
        bed.expect(0, is_usable).await;

        let config = Coordinator {
            allow_simulated_tee: false,
            ..config
        };
        let refused = Prepared::new(&config, vec![None]).unwrap_err();
        assert!(matches!(refused, SetupError::Simulated { .. }), "{refused}");
        assert_eq!(refused.exit_code(), 2);
    });
}

fn init_config(bed: &Bed, coordinator: &FakeCoordinator, out: PathBuf) -> InitConfig {
    InitConfig {
        coordinator: bed.config(&[coordinator]),
        secrets: out.join("secrets"),
        out,
        timeout: Some(PATIENCE),
        log_format: crate::config::LogFormat::Text,
        log_level: crate::config::LogLevel::Info,
    }
}

#[test]
fn init_writes_what_a_program_needs_with_the_right_modes() {
    local(async {
        let bed = Bed::new();
        let mut says = bed.says(1);
        says.secret = Some((0..64).collect());
        let coordinator = FakeCoordinator::start(&bed.deployment, says).await;
        let out = tempfile::tempdir().unwrap();
        let config = init_config(&bed, &coordinator, out.path().join("tls"));
        once::fetch_and_write(&config).await.unwrap();

        let read = |name: &str| std::fs::read_to_string(config.out.join(name)).unwrap();
        assert_eq!(read("mesh-ca.pem"), bed.deployment.mesh_ca(1));
        assert_eq!(read("coordinator-root-ca.pem"), bed.deployment.mesh_ca(1));
        let (chain, key) = (read("certChain.pem"), read("key.pem"));
        let mesh_ca = bed.deployment.mesh_ca(1);
        let credentials = userspace_tls::Credentials::from_pem(
            chain.as_bytes(),
            key.as_bytes(),
            mesh_ca.as_bytes(),
        );
        let tls = userspace_tls::MeshTls::new(credentials.unwrap()).unwrap();
        assert_eq!(*tls.identity(), spiffe_id("web"));
        let secret = read("secrets/workload-secret-seed");
        assert_eq!(secret, hex::encode((0..64).collect::<Vec<u8>>()));
        for (name, mode) in [
            ("key.pem", 0o400),
            ("secrets/workload-secret-seed", 0o400),
            ("certChain.pem", 0o644),
        ] {
            let metadata = std::fs::metadata(config.out.join(name)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{name}");
        }
        assert_eq!(config.out.read_dir().unwrap().count(), 5);
        assert_eq!(config.secrets.read_dir().unwrap().count(), 1);
    });
}

#[test]
fn init_writes_no_secret_where_there_is_none_and_none_of_another_length() {
    local(async {
        let bed = Bed::new();
        let coordinator = FakeCoordinator::start(&bed.deployment, bed.says(1)).await;
        let out = tempfile::tempdir().unwrap();
        let config = init_config(&bed, &coordinator, out.path().to_owned());
        once::fetch_and_write(&config).await.unwrap();
        assert!(!config.secrets.join("workload-secret-seed").exists());

        coordinator.say(|says| says.secret = Some(vec![1; 63]));
        let out = tempfile::tempdir().unwrap();
        let config = InitConfig {
            timeout: Some(std::time::Duration::from_secs(1)),
            ..init_config(&bed, &coordinator, out.path().to_owned())
        };
        let refused = once::fetch_and_write(&config).await.unwrap_err();
        assert!(matches!(refused, InitError::Timeout { .. }), "{refused}");
        assert_eq!(out.path().read_dir().unwrap().count(), 0);
    });
}
