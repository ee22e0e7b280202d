use ::kernel_tls::Capabilities;
use agent_config::policy::{
    Destinations, EgressPolicy, EgressRule, IngressPolicy, IngressRule, PortRange, UdpMode,
};
use agent_config::{EgressListener, Host, OffloadChoice, Remote, SpliceChoice};
use ebpf_abi::WorkloadId;
use serde_json::{Value, json};
use std::num::NonZeroU16;
use tokio::sync::watch;
use userspace_tls::{KeyExchange, SessionId};

use super::*;
use crate::admin::{KernelTls, Readiness};
use crate::bpf::Tenancy;
use crate::certificates::{
    self, Credential,
    testing::{TestMesh, issued},
};
use crate::config::Enforcement;
use crate::connection::{CloseReason, RefusalReason};
use crate::metrics::Metrics;
use crate::names::NameTable;
use crate::netns::Netns;
use crate::policy::{EgressMode, IngressMode, Mode, PeerSet};
use crate::refusals::{History, RefusalCode, occurrence};
use crate::registry::testing::opening;
use crate::registry::{self, Registry};
use crate::rules::{CurrentRules, Rules};
use crate::workload::Telling;

/// What an agent with the workloads `web` and `db` would answer.
struct Bed {
    state: AdminState,
    metrics: Metrics,
    /// Those that give the workloads their certificates.
    senders: Vec<watch::Sender<Credential>>,
}

impl Bed {
    fn new() -> Self {
        let egress = |cidr: &str, mode| EgressRule {
            to: Destinations::Network {
                cidr: cidr.parse().unwrap(),
            },
            ports: PortRange::ALL,
            workload: None,
            mode,
            peers: PeerSet::any(),
        };
        let by_name = |name: &str, mode| EgressRule {
            to: Destinations::Name {
                name: name.parse().unwrap(),
            },
            ports: PortRange::ALL,
            workload: None,
            mode,
            peers: PeerSet::any(),
        };
        let by_workload = |workload: &str, cidr: &str, mode| EgressRule {
            workload: Some(workload.parse().unwrap()),
            ..egress(cidr, mode)
        };
        let ingress = |port, mode, peers: &[&str]| IngressRule {
            port: NonZeroU16::new(port).unwrap(),
            mode,
            peers: peers.iter().map(|peer| peer.parse().unwrap()).collect(),
        };
        let mut senders = Vec::new();
        let workloads = [("web", Enforcement::Enforced), ("db", Enforcement::DryRun)];
        let workloads = workloads.map(|(name, enforcement)| {
            let (sender, credential) = certificates::channel();
            senders.push(sender);
            Arc::new(Workload {
                name: name.parse().unwrap(),
                id: WorkloadId(1),
                cgroup: "/c".into(),
                netns: Netns::own().unwrap(),
                netns_cookie: 1,
                tenancy: Tenancy::Sole,
                rules: CurrentRules::new(Arc::new(Rules {
                    enforcement,
                    ingress: IngressPolicy::new(
                        IngressMode::Mtls,
                        PeerSet::any(),
                        vec![
                            ingress(80, IngressMode::Mtls, &["client"]),
                            ingress(90, IngressMode::Plaintext, &[]),
                        ],
                    )
                    .into(),
                    egress: EgressPolicy::new(
                        EgressMode::Mtls,
                        PeerSet::any(),
                        vec![
                            egress("192.0.2.0/24", EgressMode::Deny),
                            egress("198.51.100.0/24", EgressMode::Plaintext),
                            by_name("public.org", EgressMode::Deny),
                            egress("198.18.0.0/15", EgressMode::Deny),
                            by_workload("cart", "198.18.0.0/15", EgressMode::Mtls),
                            by_workload("cart", "10.0.0.0/8", EgressMode::Deny),
                        ],
                    )
                    .into(),
                    overhearing: None,
                    names: Arc::new(NameTable::new(
                        [(
                            "203.0.113.7".parse().unwrap(),
                            "public.org".parse().unwrap(),
                        )],
                        Vec::new(),
                    )),
                    listeners: [EgressListener {
                        listen: "127.137.0.1:5432".parse().unwrap(),
                        remote: Remote {
                            host: Host::Name("db.example".to_owned()),
                            port: NonZeroU16::new(5432).unwrap(),
                        },
                        peers: PeerSet::any(),
                    }]
                    .into(),
                    udp: UdpMode::Allow,
                })),
                credential,
                telling: watch::Sender::new(Telling::Own),
                unguarded: watch::Sender::default(),
            })
        });
        let state = AdminState {
            registry: Arc::new(Registry::new(std::num::NonZeroUsize::MIN)),
            refusals: Arc::new(History::new()),
            workloads: watch::channel(workloads.to_vec()).1,
            kernel_tls: Arc::new(KernelTls::new(
                OffloadChoice::Off,
                SpliceChoice::Auto,
                Capabilities::probe(),
            )),
            metrics: Arc::new(Metrics::new("0.1.0")),
            readiness: watch::channel(Readiness::default()).1,
            config_json: watch::channel("{}".into()).1,
        };
        Self {
            state,
            metrics: Metrics::new("0.1.0"),
            senders,
        }
    }

    /// With certificates for both.
    fn certified() -> Self {
        let bed = Self::new();
        let mesh = TestMesh::new();
        for (sender, name) in bed.senders.iter().zip(["web", "db"]) {
            let members = ["web", "db", "client", "other"];
            let issued = issued(&mesh.issue(name), &members, &["any"]);
            sender.send_replace(Credential::Loaded(issued));
        }
        bed
    }

    fn ask(&self, query: &[(&str, &str)]) -> Result<Value, Unexplained> {
        let object: serde_json::Map<_, _> = query
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let query = serde_json::from_value(Value::Object(object)).unwrap();
        explain(&self.state, query).map(|found| serde_json::to_value(found).unwrap())
    }
}

#[test]
fn a_refusal_is_told_with_its_rule_and_what_to_do() {
    let bed = Bed::new();
    bed.state.refusals.add(occurrence("not on the list"));
    let found = bed.ask(&[("refusal", "r1")]).unwrap();
    assert_eq!(found["about"], "refusal r1");
    assert_eq!(found["outcome"], "refused");
    assert_eq!(found["at"], "1970-01-01T00:00:00Z");
    assert_eq!(found["rule"]["name"], "ingress default");
    let refusal = &found["refusal"];
    assert_eq!(refusal["code"], "peer-not-allowed");
    assert_eq!(refusal["detail"], "not on the list");
    let advice = RefusalCode::Agent(RefusalReason::PeerNotAllowed).advice();
    assert_eq!(refusal["means"], advice.means);
    assert_eq!(refusal["to_do"], advice.to_do);
    assert_eq!(
        refusal["docs"],
        "docs/src/reference/refusals.md#peer-not-allowed"
    );
}

#[test]
fn an_open_connection_is_told_with_rule_certificate_and_datapath() {
    let bed = Bed::certified();
    let opening = opening(&bed.metrics, "web", Direction::Egress, Mode::Mtls);
    let connection = bed.state.registry.register(0, opening);
    let found = bed.ask(&[("connection", "1")]).unwrap();
    assert_eq!(found["outcome"], "handshaking");
    assert!(found["datapath"].is_null(), "{found}");

    connection.set_established(registry::Established {
        identity: "spiffe://mesh.local/ns/default/sa/web".parse().unwrap(),
        peer: Some("spiffe://mesh.local/ns/default/sa/db".parse().unwrap()),
        key_exchange: KeyExchange::X25519MlKem768,
        cipher: "TLS13_AES_128_GCM_SHA256",
        alpn: None,
        session: SessionId([0; 16]),
        after_ms: 3,
        rule: None,
    });
    connection.set_datapath(registry::Datapath {
        name: "userspace",
        why: "offload-off",
        means: "the configuration says so",
    });
    let found = bed.ask(&[("connection", "1")]).unwrap();
    assert_eq!(found["outcome"], "open");
    assert_eq!(found["rule"]["name"], "egress default");
    let certificate = &found["certificate"];
    assert_eq!(certificate["peer"], "spiffe://mesh.local/ns/default/sa/db");
    assert!(certificate["not_after"].is_string(), "{found}");
    assert_eq!(found["datapath"]["means"], "the configuration says so");
    assert_eq!(found["kernel_tls"]["offload"], "off");

    connection.set_ended(CloseReason::AppReset);
    drop(connection);
    let found = bed.ask(&[("connection", "1")]).unwrap();
    assert_eq!(found["outcome"], "ended");
    assert!(found["at"].is_string(), "{found}");
    assert_eq!(found["certificate"], *certificate);
    assert_eq!(
        found["notes"][1],
        "it ended as app-reset: the program reset its connection, or was killed"
    );
    assert_eq!(
        bed.ask(&[("connection", "2")]).unwrap_err().to_string(),
        "connection 2 is not open, and none of those that ended last: the log has its line, or it \
         never was"
    );
}

#[test]
fn a_question_is_answered_by_the_rules_in_force() {
    let bed = Bed::certified();
    let client = "spiffe://mesh.local/ns/default/sa/client";
    let other = "spiffe://mesh.local/ns/default/sa/other";
    for (from, to, outcome, rule, code) in [
        (
            "web",
            "10.0.0.2:80",
            "would-be-let-through",
            "egress default",
            "",
        ),
        (
            "web",
            "192.0.2.7:443",
            "would-be-refused",
            "egress[0] 192.0.2.0/24",
            "denied-by-rule",
        ),
        (
            "web",
            "198.51.100.1:53",
            "would-be-let-through",
            "egress[1] 198.51.100.0/24",
            "",
        ),
        (
            "web",
            "203.0.113.7:443",
            "would-be-refused",
            "egress[2] public.org",
            "denied-by-rule",
        ),
        (
            "web",
            "127.137.0.1:5432",
            "would-be-let-through",
            "listener[0] 127.137.0.1:5432",
            "",
        ),
        ("web", "127.0.0.1:80", "not-steered", "", ""),
        (
            client,
            "10.0.0.2:80",
            "would-be-let-through",
            "ingress[0] 80",
            "",
        ),
        (
            other,
            "10.0.0.2:80",
            "would-be-refused",
            "ingress[0] 80",
            "peer-not-allowed",
        ),
        (
            other,
            "10.0.0.2:81",
            "would-be-let-through",
            "ingress default",
            "",
        ),
        (
            other,
            "[::ffff:10.0.0.2]:90",
            "not-steered",
            "ingress[1] 90",
            "",
        ),
    ] {
        let query = [("from", from), ("to", to), ("workload", "web")];
        let found = bed.ask(&query).unwrap();
        assert_eq!(found["outcome"], outcome, "{from} -> {to}: {found}");
        let name = found["rule"]["name"].as_str().unwrap_or_default();
        assert_eq!(name, rule, "{from} -> {to}");
        let found = found["refusal"]["code"].as_str().unwrap_or_default();
        assert_eq!(found, code, "{from} -> {to}");
    }
}

#[test]
fn a_rule_by_workload_is_told_of_where_it_could_decide() {
    let bed = Bed::certified();
    for (to, outcome, rule, note) in [
        (
            "198.18.0.1:80",
            "depends-on-peer",
            "egress[3] 198.18.0.0/15",
            "egress[4] workload cart at 198.18.0.0/15 says mtls, if it answers",
        ),
        (
            "10.0.0.2:80",
            "would-be-let-through",
            "egress default",
            "egress[5] workload cart at 10.0.0.0/8 says deny, if it answers",
        ),
    ] {
        let found = bed.ask(&[("from", "web"), ("to", to)]).unwrap();
        assert_eq!(found["outcome"], outcome, "{found}");
        assert_eq!(found["rule"]["name"], rule, "{found}");
        assert_eq!(found["mode"], "mtls", "{found}");
        assert_eq!(found["notes"][0], note, "{found}");
    }
}

#[test]
fn a_dry_run_lets_through_and_says_whom_it_would_refuse() {
    let bed = Bed::certified();
    let other = "spiffe://mesh.local/ns/default/sa/other";
    let query = [("from", other), ("to", "10.0.0.2:80"), ("workload", "db")];
    let found = bed.ask(&query).unwrap();
    assert_eq!(found["outcome"], "would-be-let-through", "{found}");
    let note =
        format!("{other} is not among the peers of ingress[0] 80: client; dry_run lets it through");
    assert_eq!(found["notes"][0], note);
}

#[test]
fn a_workload_that_can_not_prove_itself_would_be_refused() {
    let bed = Bed::new();
    let found = bed.ask(&[("from", "db"), ("to", "10.0.0.2:80")]).unwrap();
    assert_eq!(found["workload"], "db");
    assert_eq!(found["outcome"], "would-be-refused");
    assert_eq!(found["refusal"]["code"], "no-certificate");
    assert_eq!(found["refusal"]["detail"], "no certificate was loaded yet");
    // What a rule denies is denied, whatever else is missing.
    let found = bed.ask(&[("from", "db"), ("to", "192.0.2.1:80")]).unwrap();
    assert_eq!(found["refusal"]["code"], "denied-by-rule");
}

#[test]
fn what_can_not_be_answered_says_why() {
    let bed = Bed::new();
    for (query, message) in [
        (
            &[("refusal", "17")][..],
            "refusal \"17\" is no refusal's number; write it as the log does, such as r17",
        ),
        (
            &[("refusal", "r1")],
            "there is no refusal r1 yet: this agent has refused 0 so far",
        ),
        (
            &[("connection", "r1")],
            "connection \"r1\" is no connection's number; write it as /connections does, such as 17",
        ),
        (
            &[("from", "web"), ("to", "example.org:80")],
            "to \"example.org:80\" is no address and port, such as 10.0.0.2:5432 or [fd00::2]:5432",
        ),
        (
            &[("from", "nobody"), ("to", "10.0.0.2:80")],
            "from \"nobody\" is no address, no SPIFFE ID and no workload of this agent's, which \
             are web, db",
        ),
        (
            &[("to", "10.0.0.2:80"), ("workload", "nobody")],
            "workload \"nobody\" is none of this agent's, which are web, db",
        ),
        (
            &[("from", "203.0.113.1"), ("to", "203.0.113.2:80")],
            "which workload? Name one with workload: web, db",
        ),
    ] {
        assert_eq!(bed.ask(query).unwrap_err().to_string(), message);
    }
    for query in [
        &[][..],
        &[("from", "web")],
        &[("connection", "1"), ("refusal", "r1")],
        &[("refusal", "r1"), ("to", "10.0.0.2:80")],
    ] {
        let error = bed.ask(query).unwrap_err();
        assert!(matches!(error, Unexplained::Question), "{query:?}: {error}");
    }
}
