use std::num::NonZeroUsize;

use super::*;
use crate::{
    metrics::Metrics,
    policy::{Destinations, EgressRule, IngressRule, PortRange, WorkloadMatch},
    registry::{
        Opening, Registration, Registry,
        testing::{
            self,
            Stage::{self, Handshaking, Met, MetNobody},
        },
    },
};

#[test]
fn what_new_rules_forbid_ends_and_nothing_else() {
    use CloseCause::{PeerNotAllowedAnyMore, RuleChanged};
    use Direction::{Egress, Ingress};
    let bed = Bed::new();
    let nothing = rules(EgressMode::Mtls, IngressMode::Mtls, &["any"]);
    let plaintext = rules(EgressMode::Plaintext, IngressMode::Plaintext, &["any"]);
    let tls = rules(EgressMode::Mtls, IngressMode::Tls, &["any"]);
    let deny = rules(EgressMode::Deny, IngressMode::Mtls, &["any"]);
    let db = rules(EgressMode::Mtls, IngressMode::Mtls, &["db"]);
    let log = rules(EgressMode::Mtls, IngressMode::Mtls, &["log"]);
    for (direction, mode, peer, now, expected) in [
        (Egress, Mode::Mtls, Met("db"), &nothing, None),
        (Egress, Mode::Mtls, Met("db"), &db, None),
        (
            Egress,
            Mode::Mtls,
            Met("db"),
            &log,
            Some(PeerNotAllowedAnyMore),
        ),
        // Judged when it has proved itself.
        (Egress, Mode::Mtls, Handshaking, &log, None),
        (Egress, Mode::Mtls, Handshaking, &deny, Some(RuleChanged)),
        (Egress, Mode::Mtls, Met("db"), &deny, Some(RuleChanged)),
        (
            Egress,
            Mode::Plaintext,
            Handshaking,
            &deny,
            Some(RuleChanged),
        ),
        (
            Egress,
            Mode::Plaintext,
            Handshaking,
            &nothing,
            Some(RuleChanged),
        ),
        // More protection than the rule asks for.
        (Egress, Mode::Mtls, Met("db"), &plaintext, None),
        (Ingress, Mode::Mtls, Met("db"), &plaintext, None),
        (Ingress, Mode::Mtls, Met("db"), &tls, None),
        (
            Ingress,
            Mode::Mtls,
            Met("db"),
            &log,
            Some(PeerNotAllowedAnyMore),
        ),
        (Ingress, Mode::Mtls, Met("db"), &deny, None),
        (Ingress, Mode::Tls, MetNobody, &tls, None),
        (Ingress, Mode::Tls, MetNobody, &nothing, Some(RuleChanged)),
        (Ingress, Mode::Tls, Met("db"), &nothing, None),
    ] {
        let connection = bed.open(direction, mode, peer);
        assert_eq!(
            now.objection(&connection),
            expected,
            "{direction:?} {mode:?} {peer:?} under {now:?}"
        );
    }
}

#[test]
fn a_dry_run_ends_nothing_for_its_peer_and_everything_else_as_ever() {
    let bed = Bed::new();
    let connection = bed.open(Direction::Egress, Mode::Mtls, Met("db"));
    for (mode, expected) in [
        (EgressMode::Mtls, None),
        (EgressMode::Deny, Some(CloseCause::RuleChanged)),
    ] {
        let now = Rules {
            enforcement: Enforcement::DryRun,
            ..rules(mode, IngressMode::Mtls, &["log"])
        };
        assert_eq!(now.objection(&connection), expected, "{mode:?}");
    }
}

#[test]
fn the_rule_for_the_destination_is_asked_and_no_other() {
    let bed = Bed::new();
    let connection = bed.open(Direction::Egress, Mode::Mtls, Met("db"));
    for (cidr, expected) in [
        ("10.0.0.2/32", Some(CloseCause::RuleChanged)),
        ("10.0.0.3/32", None),
    ] {
        let rule = EgressRule {
            to: Destinations::Network {
                cidr: cidr.parse().unwrap(),
            },
            ports: PortRange::ALL,
            workload: None,
            mode: EgressMode::Deny,
            peers: PeerSet::any(),
        };
        let mut now = rules(EgressMode::Mtls, IngressMode::Mtls, &["any"]);
        now.egress = EgressPolicy::new(EgressMode::Mtls, PeerSet::any(), vec![rule]).into();
        assert_eq!(now.objection(&connection), expected, "{cidr}");
    }
    let connection = bed.open(Direction::Ingress, Mode::Mtls, Met("db"));
    for (port, expected) in [(80, Some(CloseCause::PeerNotAllowedAnyMore)), (81, None)] {
        let rule = IngressRule {
            port: port.try_into().unwrap(),
            mode: IngressMode::Mtls,
            peers: PeerSet::from_iter([]),
        };
        let mut now = rules(EgressMode::Mtls, IngressMode::Mtls, &["any"]);
        now.ingress = IngressPolicy::new(IngressMode::Mtls, PeerSet::any(), vec![rule]).into();
        assert_eq!(now.objection(&connection), expected, "{port}");
    }
}

#[test]
fn a_name_that_an_address_has_now_or_had_then_decides_about_its_connections() {
    let bed = Bed::new();
    let to = "10.0.0.2".parse().unwrap();
    let name: DnsName = "bad.org".parse().unwrap();
    let rule = EgressRule {
        to: Destinations::Name {
            name: "bad.org".parse().unwrap(),
        },
        ports: PortRange::ALL,
        workload: None,
        mode: EgressMode::Deny,
        peers: PeerSet::any(),
    };
    let mut now = rules(EgressMode::Mtls, IngressMode::Mtls, &["any"]);
    now.egress = EgressPolicy::new(EgressMode::Mtls, PeerSet::any(), vec![rule]).into();
    let connection = bed.open(Direction::Egress, Mode::Mtls, Met("db"));
    assert_eq!(connection.to().ip(), to);
    assert_eq!(now.objection(&connection), None);
    now.names = Arc::new(NameTable::new([(to, name.clone())], Vec::new()));
    assert_eq!(now.objection(&connection), Some(CloseCause::RuleChanged));

    let under_name = bed.open_as(&[name]);
    now.names = Arc::default();
    assert_eq!(now.objection(&under_name), Some(CloseCause::RuleChanged));
    assert_eq!(now.objection(&connection), None);
}

#[test]
fn rules_by_workload_judge_who_has_proved_to_answer_and_wait_for_who_has_not() {
    use CloseCause::RuleChanged;
    let bed = Bed::new();
    for (default, workload, mode, connection, stage, expected) in [
        (
            EgressMode::Mtls,
            "db",
            EgressMode::Deny,
            Mode::Mtls,
            Met("db"),
            Some(RuleChanged),
        ),
        (
            EgressMode::Mtls,
            "db",
            EgressMode::Deny,
            Mode::Mtls,
            Met("log"),
            None,
        ),
        (
            EgressMode::Deny,
            "db",
            EgressMode::Mtls,
            Mode::Mtls,
            Met("db"),
            None,
        ),
        (
            EgressMode::Deny,
            "db",
            EgressMode::Mtls,
            Mode::Mtls,
            Met("log"),
            Some(RuleChanged),
        ),
        (
            EgressMode::Deny,
            "db",
            EgressMode::Mtls,
            Mode::Mtls,
            Handshaking,
            None,
        ),
        // Nobody will ever prove to answer it.
        (
            EgressMode::Plaintext,
            "db",
            EgressMode::Mtls,
            Mode::Plaintext,
            Handshaking,
            Some(RuleChanged),
        ),
    ] {
        let now = Rules {
            egress: by_workload(default, workload, mode),
            ..rules(default, IngressMode::Mtls, &["any"])
        };
        let connection = bed.open(Direction::Egress, connection, stage);
        let found = now.objection(&connection);
        assert_eq!(found, expected, "{default:?} {workload} {mode:?} {stage:?}");
    }
}

#[test]
fn a_dry_run_passes_over_a_denial_by_workload_and_not_over_one_by_destination() {
    let bed = Bed::new();
    let connection = bed.open(Direction::Egress, Mode::Mtls, Met("db"));
    for (default, expected) in [
        (EgressMode::Mtls, None),
        (EgressMode::Deny, Some(CloseCause::RuleChanged)),
    ] {
        let now = Rules {
            enforcement: Enforcement::DryRun,
            egress: by_workload(default, "db", EgressMode::Deny),
            ..rules(default, IngressMode::Mtls, &["any"])
        };
        assert_eq!(now.objection(&connection), expected, "{default:?}");
    }
}

#[test]
fn rules_that_came_since_are_asked_and_those_that_decided_are_not() {
    let bed = Bed::new();
    let decided = Arc::new(rules(EgressMode::Mtls, IngressMode::Mtls, &["log"]));
    let current = CurrentRules::new(Arc::clone(&decided));
    let connection = bed.open(Direction::Egress, Mode::Mtls, Met("db"));
    assert_eq!(current.objection_since(&decided, &connection), None);
    current.update(|_| Some(rules(EgressMode::Deny, IngressMode::Mtls, &["any"])));
    assert_eq!(
        current.objection_since(&decided, &connection),
        Some(CloseCause::RuleChanged)
    );
    current.remove();
    assert_eq!(
        current.objection_since(&decided, &connection),
        Some(CloseCause::WorkloadRemoved)
    );
}

fn by_workload(default: EgressMode, workload: &str, mode: EgressMode) -> Arc<EgressPolicy> {
    let workload: WorkloadMatch = workload.parse().unwrap();
    let rule = EgressRule {
        to: Destinations::Anywhere {},
        ports: PortRange::ALL,
        peers: workload.peers(),
        workload: Some(workload),
        mode,
    };
    EgressPolicy::new(default, PeerSet::any(), vec![rule]).into()
}

fn rules(egress: EgressMode, ingress: IngressMode, peers: &[&str]) -> Rules {
    let peers: PeerSet = peers.iter().map(|entry| entry.parse().unwrap()).collect();
    Rules {
        ingress: IngressPolicy::new(ingress, peers.clone(), Vec::new()).into(),
        egress: EgressPolicy::new(egress, peers, Vec::new()).into(),
        names: Arc::default(),
        overhearing: None,
        listeners: [].into(),
        udp: UdpMode::Allow,
        enforcement: Enforcement::Enforced,
    }
}

struct Bed {
    metrics: Metrics,
    registry: Arc<Registry>,
}

impl Bed {
    fn new() -> Self {
        Self {
            metrics: Metrics::new("0.1.0"),
            registry: Arc::new(Registry::new(NonZeroUsize::MIN)),
        }
    }

    fn open_as(&self, names: &[DnsName]) -> Registration {
        let opening = testing::opening(&self.metrics, "web", Direction::Egress, Mode::Mtls);
        self.registry.register(
            0,
            Opening {
                names: Some(names.into()),
                ..opening
            },
        )
    }

    fn open(&self, direction: Direction, mode: Mode, stage: Stage) -> Registration {
        testing::open(&self.registry, &self.metrics, "web", direction, mode, stage)
    }
}
