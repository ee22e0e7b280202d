//! Rules by the workload that answers.

use super::*;
use EgressMode::{Deny, Mtls, Plaintext};

/// Each is for a workload, or anybody (`""`), at destinations, or anywhere (`""`).
fn by_workload(default: EgressMode, rules: &[(&str, &str, &str, EgressMode)]) -> EgressPolicy {
    let rules = rules.iter().map(|(workload, to, ports, mode)| {
        let workload: Option<WorkloadMatch> =
            (!workload.is_empty()).then(|| workload.parse().unwrap());
        EgressRule {
            to: match *to {
                "" => Destinations::Anywhere {},
                to => destinations(to),
            },
            ports: match *ports {
                "" => PortRange::ALL,
                ports => ports.parse().unwrap(),
            },
            peers: workload
                .as_ref()
                .map_or_else(PeerSet::any, WorkloadMatch::peers),
            workload,
            mode: *mode,
        }
    });
    EgressPolicy::new(default, PeerSet::any(), rules.collect())
}

fn id(namespace: &str, workload: &str) -> SpiffeId {
    let id = format!("spiffe://mesh.local/ns/{namespace}/sa/{workload}");
    id.parse().unwrap()
}

const CART: &str = "spiffe://mesh.local/ns/shop/sa/cart";

#[test]
fn without_proof_the_rules_by_workload_decide_nothing() {
    let policy = by_workload(
        Deny,
        &[
            ("cart", "", "", Mtls),
            ("", "10.0.0.0/8", "", Mtls),
            ("cart", "10.0.0.0/8", "", Deny),
        ],
    );
    for (destination, mode, rule) in [
        ("10.0.0.1:80", Mtls, "egress[1] 10.0.0.0/8"),
        ("192.0.2.1:80", Deny, "egress default"),
    ] {
        let decision = policy.decide(destination.parse().unwrap(), Known::default());
        let decision = decision.unwrap();
        let found = (decision.mode, decision.rule.to_string());
        assert_eq!(found, (mode, rule.to_owned()), "{destination}");
    }
}

#[test]
fn of_the_rules_for_who_has_proved_to_answer_the_most_specific_decides() {
    let policy = by_workload(
        Deny,
        &[
            ("", "10.0.0.0/8", "", Mtls),
            ("", "10.0.0.0/8", "443", Mtls),
            ("cart", "10.0.0.0/8", "", Deny),
            (CART, "10.0.0.0/8", "", Mtls),
            ("", "10.9.0.0/16", "", Mtls),
            ("db", "", "5432", Mtls),
            ("ns/audit", "", "", Deny),
            ("", "192.0.2.0/24", "", Deny),
        ],
    );
    for (destination, peer, mode, rule) in [
        (
            "10.0.0.1:80",
            id("shop", "web"),
            Mtls,
            "egress[0] 10.0.0.0/8",
        ),
        // Whoever has proved to answer comes before a narrower range of ports.
        (
            "10.0.0.1:443",
            id("test", "cart"),
            Deny,
            "egress[2] workload cart at 10.0.0.0/8",
        ),
        (
            "10.0.0.1:443",
            id("shop", "cart"),
            Mtls,
            &format!("egress[3] workload {CART} at 10.0.0.0/8"),
        ),
        // A longer prefix stands.
        (
            "10.9.0.1:80",
            id("test", "cart"),
            Mtls,
            "egress[4] 10.9.0.0/16",
        ),
        // Nothing but a workload comes before every network.
        (
            "192.0.2.1:5432",
            id("shop", "db"),
            Mtls,
            "egress[5] workload db at *:5432",
        ),
        (
            "192.0.2.1:80",
            id("shop", "db"),
            Deny,
            "egress[7] 192.0.2.0/24",
        ),
        (
            "[fd00::1]:80",
            id("audit", "web"),
            Deny,
            "egress[6] workload ns/audit",
        ),
        ("[fd00::1]:80", id("shop", "web"), Deny, "egress default"),
    ] {
        let decision = policy.decide_for(destination.parse().unwrap(), Known::default(), &peer);
        let decision = decision.unwrap();
        let found = (decision.mode, decision.rule.to_string());
        assert_eq!(found, (mode, rule.to_owned()), "{destination} {peer}");
        let allows = decision.peers.allows(&peer);
        assert!(decision.mode == Deny || allows, "{destination} {peer}");
    }
}

#[test]
fn what_proof_could_change_is_what_comes_before_the_rule_without() {
    let policy = by_workload(
        Deny,
        &[
            ("cart", "10.0.0.0/8", "80", Mtls),
            ("db", "db.org in 192.0.2.0/24", "", Mtls),
            ("log", "*.log.org", "", Mtls),
            ("", "10.9.0.0/16", "", Deny),
        ],
    );
    for (destination, known, expected) in [
        (
            "10.0.0.1:80",
            &[][..],
            &["egress[0] workload cart at 10.0.0.0/8:80"][..],
        ),
        ("10.0.0.1:81", &[], &[]),
        ("10.9.0.1:80", &[], &[]),
        (
            "192.0.2.1:80",
            &["db.org"],
            &["egress[1] workload db at db.org in 192.0.2.0/24"],
        ),
        ("192.0.2.1:80", &["a.org"], &[]),
        (
            "10.9.0.1:80",
            &["a.log.org", "a.org"],
            &["egress[2] workload log at *.log.org"],
        ),
        ("10.9.0.1:80", &["log.org"], &[]),
    ] {
        let names = names(known);
        let known = Known {
            names: &names,
            ..Known::default()
        };
        let destination = destination.parse().unwrap();
        let found = policy.decide(destination, known).unwrap();
        let may = policy.if_proved(destination, known, &found);
        let may: Vec<_> = may.map(|it| it.rule.to_string()).collect();
        assert_eq!(may, expected, "{destination} {names:?}");
    }
}

#[test]
fn a_denial_by_a_name_that_nobody_knows_stops_who_is_meant_and_what_is_in_clear() {
    let destination = "10.0.0.1:80".parse().unwrap();
    for (default, why, decided) in [
        (Mtls, Unknown::Pending, false),
        (Mtls, Unknown::Failed, true),
        (Plaintext, Unknown::Failed, false),
    ] {
        let policy = by_workload(default, &[("cart", "db.org", "", Deny)]);
        let unknown = [("db.org".parse().unwrap(), why)];
        let known = Known {
            unknown: &unknown,
            ..Known::default()
        };
        let decision = policy.decide(destination, known);
        assert_eq!(decision.is_ok(), decided, "{default:?} {why:?}");
        let undecided = policy.decide_for(destination, known, &id("shop", "cart"));
        assert_eq!(
            undecided.unwrap_err().rule.to_string(),
            "egress[0] workload cart at db.org"
        );
        let other = policy.decide_for(destination, known, &id("shop", "web"));
        assert!(other.is_ok(), "{default:?} {why:?}");
    }
}

#[test]
fn a_permission_by_a_name_that_is_not_known_is_waited_for_no_longer_than_it_may_come() {
    let policy = by_workload(Mtls, &[("cart", "db.org", "", Mtls)]);
    let destination = "10.0.0.1:80".parse().unwrap();
    for (why, decided) in [(Unknown::Pending, false), (Unknown::Failed, true)] {
        let unknown = [("db.org".parse().unwrap(), why)];
        let known = Known {
            unknown: &unknown,
            ..Known::default()
        };
        let decision = policy.decide(destination, known);
        assert_eq!(decision.is_ok(), decided, "{why:?}");
    }
}

#[test]
fn proof_is_asked_for_nowhere_in_clear() {
    for (default, rules, expected) in [
        (Mtls, &[("cart", "", "", Deny)][..], None),
        (
            Mtls,
            &[("", "10.0.0.0/8", "53", Plaintext), ("cart", "", "", Deny)],
            Some((1, Some(0))),
        ),
        // Other ports.
        (
            Mtls,
            &[
                ("", "10.0.0.0/8", "53", Plaintext),
                ("cart", "", "80-90", Deny),
            ],
            None,
        ),
        // The one in clear is the exception.
        (
            Mtls,
            &[
                ("", "10.0.0.0/8", "", Plaintext),
                ("cart", "0.0.0.0/0", "", Deny),
                ("cart", "::/0", "", Deny),
            ],
            None,
        ),
        (
            Mtls,
            &[
                ("", "10.0.0.0/8", "", Plaintext),
                ("cart", "10.0.0.0/8", "443", Deny),
            ],
            Some((1, Some(0))),
        ),
        (
            Mtls,
            &[
                ("", "10.0.0.0/8", "", Plaintext),
                ("cart", "10.9.0.0/16", "", Deny),
            ],
            Some((1, Some(0))),
        ),
        // Who else is there gets mutual TLS.
        (
            Mtls,
            &[
                ("", "10.0.0.0/8", "", Plaintext),
                ("", "10.9.0.0/16", "", Mtls),
                ("cart", "10.9.0.0/16", "", Deny),
            ],
            None,
        ),
        (
            Mtls,
            &[
                ("", "10.0.0.0/8", "", Plaintext),
                ("", "10.9.0.0/16", "443", Mtls),
                ("cart", "10.9.0.0/16", "", Deny),
            ],
            Some((2, Some(0))),
        ),
        // Any name may be in that network.
        (
            Mtls,
            &[
                ("", "a.org in 10.0.0.0/8", "", Plaintext),
                ("cart", "b.org", "", Deny),
            ],
            Some((1, Some(0))),
        ),
        (
            Plaintext,
            &[("cart", "10.0.0.0/8", "", Mtls)],
            Some((0, None)),
        ),
        (
            Plaintext,
            &[
                ("cart", "10.0.0.0/8", "", Mtls),
                ("", "10.0.0.0/8", "", Deny),
            ],
            None,
        ),
        (
            Plaintext,
            &[("cart", "db.org", "", Mtls), ("", "db.org", "", Deny)],
            None,
        ),
    ] {
        let policy = by_workload(default, rules);
        let found: Vec<_> = policy.unprovable().collect();
        let expected = expected.map(|(rule, in_clear)| Unprovable { rule, in_clear });
        assert_eq!(found, Vec::from_iter(expected), "{rules:?}");
    }
}
