//! Egress rules by workload: what is wrong with them, and what is not.

use super::*;

/// As in [`super::BAD`].
const BAD: &[(&str, &str)] = &[
    (
        r#"WEB
[[workload.egress]]
workload = "any""#,
        r#"agent.toml:6:12: workload "web", egress[0]: workload `any` is every member of the mesh; leave workload out for a rule about all of them"#,
    ),
    (
        r#"WEB
[[workload.egress]]
workload = "!cart""#,
        r#"agent.toml:6:12: workload "web", egress[0]: workload `!cart` says whom the rule is not for; name the workload, and write mode = "deny""#,
    ),
    (
        r#"WEB
[[workload.egress]]
workload = "Cart""#,
        r#"agent.toml:6:12: workload "web", egress[0]: workload `Cart` is not a name; use a-z, 0-9 and dashes, with no dash at either end"#,
    ),
    (
        r#"WEB
[[workload.egress]]
workload = "spiffe://mesh.local""#,
        r#"agent.toml:6:12: workload "web", egress[0]: workload `spiffe://mesh.local` names a trust domain; write spiffe://<trust domain>/ns/<namespace>/sa/<workload>"#,
    ),
    (
        "WEB
[[workload.egress]]
workload = 7",
        "agent.toml:6:12: invalid type: integer `7`, expected a string",
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.0.0.0/8"
workload = "cart"
mode = "plaintext""#,
        r#"agent.toml:7:12: workload "web", egress[0]: mode plaintext can't be by workload, as nobody proves who answers in clear; name the addresses by cidr, and leave workload out"#,
    ),
    (
        r#"WEB
[[workload.egress]]
workload = "cart"
peers = ["cart"]"#,
        r#"agent.toml:7:9: workload "web", egress[0]: peers has no effect beside workload, which says who answers; remove one of the two"#,
    ),
    (
        r#"WEB
[[workload.egress]]
workload = "cart"
[[workload.egress]]
workload = "cart"
mode = "deny""#,
        r#"agent.toml:8:12: workload "web", egress[1]: workload cart with the same ports already has the rule egress[0]; keep one of the two"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.0.0.0/8"
workload = "cart"
port = "80-90"
[[workload.egress]]
cidr = "10.0.0.0/8"
workload = "cart"
port = "85-95""#,
        r#"agent.toml:11:12: workload "web", egress[1]: workload cart at 10.0.0.0/8 with ports 85-95 overlaps egress[0] with ports 80-90, and neither is narrower; split the ranges"#,
    ),
    (
        r#"WEB
[[workload.egress]]
workload = "cart"
port = 80
[[workload.egress]]
workload = "ns/shop"
mode = "deny""#,
        r#"agent.toml:9:12: workload "web", egress[1]: workload ns/shop may be cart of egress[0], and neither is narrower; write SPIFFE IDs, or split the ranges of ports"#,
    ),
    (
        r#"WEB
[[workload.egress]]
cidr = "10.96.0.10"
port = 53
mode = "plaintext"
[[workload.egress]]
workload = "cart"
mode = "deny""#,
        r#"agent.toml:10:12: workload "web", egress[1]: nobody proves to be workload cart where egress[0] sends in clear; give this rule a cidr with a shorter prefix, which egress[0] is an exception to, or other ports"#,
    ),
    (
        r#"WEB
egress_default = "plaintext"
[[workload.egress]]
cidr = "10.0.0.0/8"
workload = "cart""#,
        r#"agent.toml:8:12: workload "web", egress[0]: nobody proves to be workload cart where egress_default sends in clear; give cidr, and add a rule for the same cidr without workload: mtls or deny, for who else may be there"#,
    ),
    (
        r#"WEB
egress_default = "plaintext"
[[workload.egress]]
workload = "cart"
mode = "plaintext""#,
        r#"agent.toml:7:12: workload "web", egress[0]: mode plaintext can't be by workload, as nobody proves who answers in clear; name the addresses by cidr, and leave workload out"#,
    ),
    // What another mistake leaves open is not told.
    (
        r#"WEB
egress_default = "plaintext"
[[workload.egress]]
cidr = "10.0.0.0/8"
workload = "cart"
[[workload.egress]]
cidr = "10.0.0.0/80""#,
        r#"agent.toml:10:8: workload "web", egress[1]: cidr `10.0.0.0/80` has no valid prefix length; write a number from 0 to 32 after the slash"#,
    ),
    // Of rules by workload nothing depends on them.
    (
        r#"WEB
egress_default = "deny"
egress_peers = ["db"]
[[workload.egress]]
workload = "cart""#,
        r#"agent.toml:6:16: workload "web": egress_peers has no effect, as every egress rule and egress_default has another mode than mtls or its own peers; remove it"#,
    ),
];

#[test]
fn every_mistake_in_a_rule_by_workload_is_reported_with_its_place_and_what_to_do() {
    for (text, diagnostics) in BAD {
        let error = parse(text).expect_err(text);
        assert_eq!(error.to_string(), *diagnostics, "for\n{text}");
    }
}

#[test]
fn a_workload_may_be_the_exception_to_addresses_and_an_identity_to_a_name() {
    for text in [
        "WEB\negress_default = \"deny\"\n[[workload.egress]]\nworkload = \"cart\"",
        "WEB\n[[workload.egress]]\ncidr = \"10.0.0.0/8\"\nmode = \"deny\"\n\
         [[workload.egress]]\ncidr = \"10.0.0.0/8\"\nworkload = \"cart\"",
        "WEB\n[[workload.egress]]\nworkload = \"cart\"\nmode = \"deny\"\n\
         [[workload.egress]]\nworkload = \"spiffe://mesh.local/ns/shop/sa/cart\"",
        "WEB\n[[workload.egress]]\nworkload = \"cart\"\nmode = \"deny\"\n\
         [[workload.egress]]\nworkload = \"cart\"\nport = 80",
        "WEB\n[[workload.egress]]\nworkload = \"cart\"\n\
         [[workload.egress]]\nworkload = \"db\"",
        "WEB\n[[workload.egress]]\ncidr = \"10.96.0.10\"\nport = 53\nmode = \"plaintext\"\n\
         [[workload.egress]]\ncidr = \"0.0.0.0/0\"\nworkload = \"cart\"\nmode = \"deny\"",
    ] {
        if let Err(error) = parse(text) {
            panic!("{error}\nfor\n{text}");
        }
    }
}

#[test]
fn whose_workload_a_rule_names_is_whom_it_lets_answer() {
    let config = parse(
        "WEB\negress_peers = [\"db\"]\n[[workload.egress]]\nworkload = \"cart\"\ncidr = \"10.0.0.0/8\"",
    )
    .unwrap();
    let cart = "spiffe://mesh.local/ns/shop/sa/cart".parse().unwrap();
    let policy = &sole_workload(&config).egress;
    for (to, mode, rule, allowed) in [
        (
            "10.0.0.1:80",
            EgressMode::Mtls,
            "egress[0] workload cart at 10.0.0.0/8",
            true,
        ),
        ("192.0.2.1:80", EgressMode::Mtls, "egress default", false),
    ] {
        let decision = policy.decide_for(to.parse().unwrap(), Known::default(), &cart);
        let decision = decision.unwrap();
        let found = (decision.mode, decision.rule.to_string());
        assert_eq!(found, (mode, rule.to_owned()), "{to}");
        assert_eq!(decision.peers.allows(&cart), allowed, "{to}");
    }
}
