mod workload;

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::policy::CidrError;

fn egress(rules: &[(&str, &str, EgressMode)]) -> EgressPolicy {
    let rules = rules.iter().map(|(to, ports, mode)| EgressRule {
        to: destinations(to),
        ports: if ports.is_empty() {
            PortRange::ALL
        } else {
            ports.parse().unwrap()
        },
        workload: None,
        mode: *mode,
        peers: PeerSet::any(),
    });
    EgressPolicy::new(EgressMode::Mtls, PeerSet::any(), rules.collect())
}

/// `10.0.0.0/8`, `db.example.com` or `db.example.com in 10.0.0.0/8`.
fn destinations(text: &str) -> Destinations {
    match text.split_once(" in ") {
        Some((name, cidr)) => Destinations::NameWithin {
            name: name.parse().unwrap(),
            cidr: cidr.parse().unwrap(),
        },
        None => match text.parse() {
            Ok(cidr) => Destinations::Network { cidr },
            Err(_) => Destinations::Name {
                name: text.parse().unwrap(),
            },
        },
    }
}

fn names(names: &[&str]) -> Vec<DnsName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn the_most_specific_egress_rule_decides() {
    use EgressMode::{Deny, Mtls, Plaintext};
    let policy = egress(&[
        ("0.0.0.0/0", "", Deny),
        ("10.0.0.0/8", "", Plaintext),
        ("10.0.0.0/8", "5432", Mtls),
        ("10.0.0.0/8", "5000-6000", Deny),
        ("10.9.0.0/16", "", Deny),
        ("192.0.2.7", "443", Plaintext),
        ("fd00::/8", "8000-8100", Plaintext),
    ]);
    for (destination, mode, rule) in [
        ("8.8.8.8:53", Deny, "egress[0] 0.0.0.0/0"),
        ("10.1.2.3:80", Plaintext, "egress[1] 10.0.0.0/8"),
        ("10.1.2.3:5432", Mtls, "egress[2] 10.0.0.0/8:5432"),
        ("10.1.2.3:5433", Deny, "egress[3] 10.0.0.0/8:5000-6000"),
        ("10.9.2.3:5432", Deny, "egress[4] 10.9.0.0/16"),
        ("192.0.2.7:443", Plaintext, "egress[5] 192.0.2.7/32:443"),
        ("192.0.2.7:444", Deny, "egress[0] 0.0.0.0/0"),
        ("[::ffff:10.1.2.3]:5432", Mtls, "egress[2] 10.0.0.0/8:5432"),
        (
            "[fd00::1]:8100",
            Plaintext,
            "egress[6] [fd00::/8]:8000-8100",
        ),
        ("[fd00::1]:8101", Mtls, "egress default"),
        ("[fe80::1]:80", Mtls, "egress default"),
    ] {
        let decision = policy
            .decide(destination.parse().unwrap(), Known::default())
            .unwrap();
        let found = (decision.mode, decision.rule.to_string());
        assert_eq!(found, (mode, rule.to_owned()), "{destination}");
    }
}

#[test]
fn a_name_comes_before_networks_and_its_own_network_bounds_it() {
    use EgressMode::{Deny, Mtls, Plaintext};
    let policy = egress(&[
        ("10.0.0.0/8", "", Plaintext),
        ("10.0.0.7", "", Plaintext),
        ("db.example.com", "5432", Mtls),
        ("0.0.0.0/0", "", Mtls),
        ("api.other.org in 0.0.0.0/0", "443", Plaintext),
        ("api.other.org in 10.9.0.0/16", "", Deny),
    ]);
    for (destination, known, mode, rule) in [
        ("10.0.0.7:5432", &[][..], Plaintext, "egress[1] 10.0.0.7/32"),
        (
            "10.0.0.7:5432",
            &["db.example.com"],
            Mtls,
            "egress[2] db.example.com:5432",
        ),
        // The name has no rule for this port.
        (
            "10.0.0.7:80",
            &["x.org", "db.example.com"],
            Plaintext,
            "egress[1] 10.0.0.7/32",
        ),
        (
            "192.0.2.1:443",
            &["api.other.org"],
            Plaintext,
            "egress[4] api.other.org:443 in 0.0.0.0/0",
        ),
        (
            "192.0.2.1:443",
            &["x.other.org"],
            Mtls,
            "egress[3] 0.0.0.0/0",
        ),
        // What a name says within a short prefix is nothing against a longer one.
        (
            "10.1.0.1:443",
            &["api.other.org"],
            Plaintext,
            "egress[0] 10.0.0.0/8",
        ),
        (
            "10.9.0.1:443",
            &["api.other.org"],
            Deny,
            "egress[5] api.other.org in 10.9.0.0/16",
        ),
        ("[fd00::1]:443", &["api.other.org"], Mtls, "egress default"),
    ] {
        let names = names(known);
        let known = Known {
            names: &names,
            ..Known::default()
        };
        let decision = policy.decide(destination.parse().unwrap(), known).unwrap();
        let found = (decision.mode, decision.rule.to_string());
        assert_eq!(found, (mode, rule.to_owned()), "{destination} {names:?}");
    }
}

#[test]
fn of_two_names_of_one_address_the_stricter_rule_decides() {
    use EgressMode::{Deny, Mtls, Plaintext};
    let policy = egress(&[
        ("a.org in 10.0.0.0/8", "", Plaintext),
        ("b.org in 10.0.0.0/8", "", Mtls),
        ("c.org in 10.0.0.0/8", "", Deny),
    ]);
    for (known, mode) in [
        (&["a.org"][..], Plaintext),
        (&["a.org", "b.org"], Mtls),
        (&["c.org", "b.org", "a.org"], Deny),
    ] {
        let names = names(known);
        let known = Known {
            names: &names,
            ..Known::default()
        };
        let decision = policy
            .decide("10.0.0.1:80".parse().unwrap(), known)
            .unwrap();
        assert_eq!(decision.mode, mode, "{names:?}");
    }
}

#[test]
fn a_wildcard_is_for_the_names_below_it_and_an_exact_name_is_its_exception() {
    use EgressMode::{Deny, Mtls, Plaintext};
    let policy = egress(&[
        ("*.example.com in 10.0.0.0/8", "", Deny),
        ("*.db.example.com in 10.0.0.0/8", "", Mtls),
        ("a.db.example.com in 10.0.0.0/8", "", Plaintext),
        ("*.pub.org in 10.0.0.0/8", "443", Plaintext),
        ("*.far.org", "", Deny),
    ]);
    for (destination, known, mode, rule) in [
        ("10.0.0.1:80", &["example.com"][..], Mtls, "egress default"),
        (
            "10.0.0.1:80",
            &["x.example.com"],
            Deny,
            "egress[0] *.example.com in 10.0.0.0/8 (x.example.com)",
        ),
        (
            "10.0.0.1:80",
            &["x.y.db.example.com"],
            Mtls,
            "egress[1] *.db.example.com in 10.0.0.0/8 (x.y.db.example.com)",
        ),
        (
            "10.0.0.1:80",
            &["a.db.example.com"],
            Plaintext,
            "egress[2] a.db.example.com in 10.0.0.0/8",
        ),
        // What one name is excepted from holds for the other.
        (
            "10.0.0.1:80",
            &["a.db.example.com", "b.db.example.com"],
            Mtls,
            "egress[1] *.db.example.com in 10.0.0.0/8 (b.db.example.com)",
        ),
        ("10.0.0.1:80", &["notexample.com"], Mtls, "egress default"),
        (
            "10.0.0.1:443",
            &["x.pub.org"],
            Plaintext,
            "egress[3] *.pub.org:443 in 10.0.0.0/8 (x.pub.org)",
        ),
        ("192.0.2.1:443", &["x.pub.org"], Mtls, "egress default"),
        (
            "[fd00::1]:443",
            &["x.far.org"],
            Deny,
            "egress[4] *.far.org (x.far.org)",
        ),
    ] {
        let names = names(known);
        let known = Known {
            names: &names,
            ..Known::default()
        };
        let decision = policy.decide(destination.parse().unwrap(), known).unwrap();
        let found = (decision.mode, decision.rule.to_string());
        assert_eq!(found, (mode, rule.to_owned()), "{destination} {names:?}");
    }
}

#[test]
fn what_programs_were_told_makes_nothing_plaintext_that_is_old_an_alias_or_one_names_alone() {
    use EgressMode::{Deny, Mtls, Plaintext};
    use Force::{Full, NotInClear};
    let policy = egress(&[
        ("*.pub.org in 10.0.0.0/8", "", Plaintext),
        ("one.org in 10.0.0.0/8", "", Plaintext),
        ("bad.org", "", Deny),
        ("*.bad.org", "", Deny),
    ]);
    for (name, force, mode) in [
        ("a.pub.org", Full, Plaintext),
        ("a.pub.org", NotInClear, Mtls),
        ("one.org", Full, Mtls),
        ("bad.org", Full, Deny),
        ("a.bad.org", NotInClear, Deny),
    ] {
        let heard = [HeardName {
            name: name.parse().unwrap(),
            force,
        }];
        let known = Known {
            heard: Heard::Names(&heard),
            ..Known::default()
        };
        let decision = policy.decide("10.0.0.1:80".parse().unwrap(), known);
        assert_eq!(decision.unwrap().mode, mode, "{name} {force:?}");
    }
}

#[test]
fn an_address_that_nobody_was_told_of_may_be_of_any_wildcard_that_is_stricter() {
    use EgressMode::{Deny, Plaintext};
    let policy = egress(&[
        ("10.0.0.0/8", "", Plaintext),
        ("*.db.org", "5432", EgressMode::Mtls),
        ("*.bad.org in 192.0.2.0/24", "", Deny),
        ("*.pub.org in 198.51.100.0/24", "", Plaintext),
        ("*.same.org", "81", EgressMode::Mtls),
    ]);
    for (destination, expected) in [
        ("10.0.0.1:5432", Some("egress[1] *.db.org:5432")),
        ("10.0.0.1:80", None),
        ("198.51.100.1:5432", None),
        ("192.0.2.1:80", Some("egress[2] *.bad.org in 192.0.2.0/24")),
        ("198.51.100.1:80", None),
        ("203.0.113.1:81", None),
    ] {
        let destination = destination.parse().unwrap();
        let undecided = policy.decide(destination, Known::default()).err();
        let why = undecided.as_ref().map(|it| it.why);
        let rule = undecided.map(|it| it.rule.to_string());
        assert_eq!(rule.as_deref(), expected, "{destination}");
        assert!(why.is_none_or(|why| why == Unknown::Unheard));

        // Told of it under a name that no rule is for, or looked up by the agent.
        let elsewhere = names(&["else.org"]);
        let heard = Known {
            heard: Heard::Names(&[]),
            ..Known::default()
        };
        let looked_up = Known {
            names: &elsewhere,
            ..Known::default()
        };
        for known in [heard, looked_up] {
            assert!(policy.decide(destination, known).is_ok(), "{destination}");
        }
    }
}

#[test]
fn names_of_one_pattern_are_under_the_same_rules() {
    let policy = egress(&[
        ("*.x.org", "80", EgressMode::Deny),
        ("*.a.x.org", "", EgressMode::Deny),
        ("one.a.x.org", "", EgressMode::Mtls),
    ]);
    for (name, expected) in [
        ("x.org", None),
        ("b.x.org", Some("*.x.org")),
        ("a.x.org", Some("*.x.org")),
        ("b.a.x.org", Some("*.a.x.org")),
        ("one.a.x.org", Some("one.a.x.org")),
        ("c.one.a.x.org", Some("*.a.x.org")),
    ] {
        let pattern = policy.pattern_of(&name.parse().unwrap());
        assert_eq!(
            pattern.map(|it| it.to_string()).as_deref(),
            expected,
            "{name}"
        );
    }
    let other = egress(&[("*.x.org", "", EgressMode::Deny)]);
    assert!(policy.has_same_patterns(&policy.clone()));
    assert!(!policy.has_same_patterns(&other));
}

#[test]
fn what_may_be_under_a_stricter_rule_is_not_decided_until_its_name_is_known() {
    use EgressMode::{Deny, Mtls, Plaintext};
    use Unknown::{Failed, Pending};
    let policy = egress(&[
        ("10.0.0.0/8", "", Plaintext),
        ("secret.org", "5432", Mtls),
        ("bad.org", "80", Deny),
        ("public.org in 192.0.2.0/24", "", Plaintext),
        ("same.org", "81", Mtls),
    ]);
    for (destination, name, why, decided) in [
        ("10.0.0.1:5432", "secret.org", Pending, false),
        ("10.0.0.1:5432", "secret.org", Failed, false),
        // Mutual TLS with the same peers either way.
        ("192.0.2.1:5432", "secret.org", Failed, true),
        ("10.0.0.1:5433", "secret.org", Failed, true),
        ("10.0.0.1:80", "bad.org", Failed, false),
        ("192.0.2.1:80", "bad.org", Failed, false),
        ("192.0.2.1:443", "public.org", Pending, false),
        ("192.0.2.1:443", "public.org", Failed, true),
        ("10.0.0.1:443", "public.org", Pending, true),
        ("198.51.100.1:81", "same.org", Pending, true),
        // Nobody has a rule for it.
        ("10.0.0.1:80", "gone.org", Failed, true),
    ] {
        let unknown = [(name.parse().unwrap(), why)];
        let known = Known {
            unknown: &unknown,
            ..Known::default()
        };
        let decision = policy.decide(destination.parse().unwrap(), known);
        assert_eq!(decision.is_ok(), decided, "{destination} {name} {why:?}");
    }
}

/// The model knows nothing of order: it looks at every rule, bit by bit, and keeps the best.
#[test]
fn any_policy_decides_as_a_naive_model_does() {
    let mut random = XorShift(0x5ea1_3172_u64);
    for _ in 0..300 {
        let rules: Vec<EgressRule> = (0..random.below(12)).map(|_| random.rule()).collect();
        let policy = EgressPolicy::new(EgressMode::Deny, PeerSet::any(), rules.clone());
        for _ in 0..50 {
            let destination = SocketAddr::new(random.address(), random.port());
            let names: Vec<_> = (0..random.below(3)).map(|_| random.name()).collect();
            let heard: Vec<_> = (0..random.below(3)).map(|_| random.heard()).collect();
            let known = Known {
                names: &names,
                heard: Heard::Names(&heard),
                unknown: &[],
            };
            let peer = random.peer();
            for peer in [None, Some(&peer)] {
                let expected = naive(&rules, destination, &names, &heard, peer);
                let decided = match peer {
                    Some(peer) => policy.decide_for(destination, known, peer),
                    None => policy.decide(destination, known),
                };
                let found = match decided.unwrap().rule {
                    RuleRef::Egress { index, .. } => Some(index),
                    _ => None,
                };
                assert_eq!(
                    found, expected,
                    "{destination} {names:?} {heard:?} {peer:?} in {rules:#?}"
                );
            }
        }
    }
}

/// Of each name the best rule alone, and of these the best.
fn naive(
    rules: &[EgressRule],
    destination: SocketAddr,
    names: &[DnsName],
    heard: &[HeardName],
    peer: Option<&SpiffeId>,
) -> Option<usize> {
    let looked_up = names.iter().map(|name| (name, None));
    let heard = heard.iter().map(|it| (&it.name, Some(it.force)));
    let of_names = looked_up
        .chain(heard)
        .filter_map(|name| best(rules, destination, Some(name), peer, is_better_for_a_name));
    let without = best(rules, destination, None, peer, is_better_for_a_name);
    let candidates = of_names.chain(without);
    let mut candidates: Vec<_> = candidates.collect();
    candidates.sort_unstable();
    candidates.into_iter().reduce(|best, other| {
        if is_better(&rules[other], &rules[best]) {
            other
        } else {
            best
        }
    })
}

/// Among the rules for a name, or of those without.
fn best(
    rules: &[EgressRule],
    destination: SocketAddr,
    name: Option<(&DnsName, Option<Force>)>,
    peer: Option<&SpiffeId>,
    is_better: impl Fn(&EgressRule, &EgressRule) -> bool,
) -> Option<usize> {
    let address = bits(destination.ip().to_canonical());
    let in_network = |cidr: Cidr| {
        let network = bits(cidr.network());
        let prefix = usize::from(cidr.prefix());
        address.len() == network.len() && address[..prefix] == network[..prefix]
    };
    let is_for = |rule: &EgressRule| match (rule.to.name(), name) {
        (None, None) => true,
        (Some(NamePattern::Name(exact)), Some((name, force))) => {
            exact == name && (force.is_none() || rule.mode != EgressMode::Plaintext)
        }
        (Some(NamePattern::Below(parent)), Some((name, force))) => {
            name.as_str().ends_with(&format!(".{parent}"))
                && (force != Some(Force::NotInClear) || rule.mode != EgressMode::Plaintext)
        }
        _ => false,
    };
    let is_of = |rule: &EgressRule| match (&rule.workload, peer) {
        (None, _) => true,
        (Some(workload), Some(peer)) => workload.meets(peer),
        (Some(_), None) => false,
    };
    let mut best: Option<usize> = None;
    for (index, rule) in rules.iter().enumerate() {
        if rule.ports.contains(destination.port())
            && rule.to.cidr().is_none_or(in_network)
            && is_for(rule)
            && is_of(rule)
            && best.is_none_or(|best| is_better(rule, &rules[best]))
        {
            best = Some(index);
        }
    }
    best
}

/// Whether the later rule is the better.
fn is_better(rule: &EgressRule, than: &EgressRule) -> bool {
    let name = |rule: &EgressRule| rule.to.name().is_some();
    if prefix(rule) != prefix(than) {
        return prefix(rule) > prefix(than);
    }
    if proof(rule) != proof(than) {
        return proof(rule) > proof(than);
    }
    if name(rule) != name(than) {
        return name(rule);
    }
    if rule.ports.width() != than.ports.width() {
        return rule.ports.width() < than.ports.width();
    }
    name(rule) && is_stricter(rule.mode, than.mode)
}

/// The same where both are for the same name.
fn is_better_for_a_name(rule: &EgressRule, than: &EgressRule) -> bool {
    let exactness = |rule: &EgressRule| match rule.to.name() {
        None => 0,
        Some(NamePattern::Below(parent)) => parent.as_str().split('.').count(),
        Some(NamePattern::Name(_)) => 1000,
    };
    let is_equal = prefix(rule) == prefix(than) && proof(rule) == proof(than);
    if is_equal && exactness(rule) != exactness(than) {
        return exactness(rule) > exactness(than);
    }
    is_better(rule, than)
}

fn prefix(rule: &EgressRule) -> i32 {
    match rule.to.cidr() {
        Some(cidr) => i32::from(cidr.prefix()),
        None => 1000,
    }
}

fn proof(rule: &EgressRule) -> u8 {
    match &rule.workload {
        None => 0,
        Some(workload) if workload.to_string().contains(':') => 2,
        Some(_) => 1,
    }
}

fn is_stricter(mode: EgressMode, than: EgressMode) -> bool {
    use EgressMode::{Deny, Mtls, Plaintext};
    matches!((mode, than), (Deny, Mtls | Plaintext) | (Mtls, Plaintext))
}

fn bits(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("{:032b}", v4.to_bits()),
        IpAddr::V6(v6) => format!("{:0128b}", v6.to_bits()),
    }
}

struct XorShift(u64);

impl XorShift {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    /// Few distinct values, so that rules meet.
    fn address(&mut self) -> IpAddr {
        let low = self.below(8) as u32;
        let v4 = Ipv4Addr::from_bits(0x0a00_0000 | (low << 22) | self.below(4) as u32);
        match self.below(3) {
            0 => IpAddr::V4(v4),
            1 => IpAddr::V6(v4.to_ipv6_mapped()),
            _ => IpAddr::V6(Ipv6Addr::from_bits(
                (0xfd << 120) | (u128::from(low) << 100),
            )),
        }
    }

    fn port(&mut self) -> u16 {
        self.below(6) as u16 + 1
    }

    fn rule(&mut self) -> EgressRule {
        let address = self.address().to_canonical();
        let prefix = self.below(if address.is_ipv4() { 33 } else { 129 });
        let cidr = match format!("{address}/{prefix}").parse() {
            Ok(cidr) | Err(CidrError::HostBits(cidr)) => cidr,
            Err(error) => panic!("{address}/{prefix} {error}"),
        };
        let (one, other) = (self.port(), self.port());
        let ports = format!("{}-{}", one.min(other), one.max(other))
            .parse()
            .unwrap();
        let mode = match self.below(3) {
            0 => EgressMode::Mtls,
            1 => EgressMode::Plaintext,
            _ => EgressMode::Deny,
        };
        let workload = match self.below(4) {
            0 => None,
            _ => Some(self.workload()),
        };
        let to = match self.below(5) {
            0 if workload.is_some() => Destinations::Anywhere {},
            0 | 1 => Destinations::Name {
                name: self.pattern(),
            },
            2 => Destinations::NameWithin {
                name: self.pattern(),
                cidr,
            },
            _ => Destinations::Network { cidr },
        };
        EgressRule {
            to,
            ports,
            workload,
            mode,
            peers: PeerSet::any(),
        }
    }

    fn workload(&mut self) -> WorkloadMatch {
        match self.below(3) {
            0 => self.peer().as_str().parse().unwrap(),
            1 => ["cart", "db"][self.below(2) as usize].parse().unwrap(),
            _ => ["ns/a", "ns/b"][self.below(2) as usize].parse().unwrap(),
        }
    }

    fn peer(&mut self) -> SpiffeId {
        let namespace = ["a", "b"][self.below(2) as usize];
        let workload = ["cart", "db", "log"][self.below(3) as usize];
        let id = format!("spiffe://mesh.local/ns/{namespace}/sa/{workload}");
        id.parse().unwrap()
    }

    fn pattern(&mut self) -> NamePattern {
        let all = ["*.x.org", "*.a.x.org", "*.org"];
        match self.below(2) {
            0 => NamePattern::Name(self.name()),
            _ => all[self.below(3) as usize].parse().unwrap(),
        }
    }

    fn heard(&mut self) -> HeardName {
        HeardName {
            name: self.name(),
            force: match self.below(2) {
                0 => Force::Full,
                _ => Force::NotInClear,
            },
        }
    }

    fn name(&mut self) -> DnsName {
        let all = ["a.x.org", "b.x.org", "b.a.x.org", "x.org", "y.org"];
        all[self.below(5) as usize].parse().unwrap()
    }
}
