use serde_json::json;

use crate::check;

#[test]
fn policies() {
    check(&[
        (
            "/Policies",
            json!(null),
            &["Policies: field cannot be empty"],
        ),
        (
            "/Policies",
            json!([]),
            &["Policies: got a list of 0, want an object"],
        ),
        (
            "/Policies",
            json!({}),
            &["Policies: expected exactly 1 policy with role 'coordinator', got 0"],
        ),
        (
            "/Policies/$COORDINATOR/Role",
            json!(null),
            &["Policies: expected exactly 1 policy with role 'coordinator', got 0"],
        ),
        (
            "/Policies/$NODE",
            json!({ "SANs": ["other"], "Role": "coordinator" }),
            &["Policies: expected exactly 1 policy with role 'coordinator', got 2"],
        ),
        // It may be meant as the Coordinator: no second error says that there is none.
        (
            "/Policies/$COORDINATOR/Role",
            json!("Coordinator"),
            &[
                "Policies[\"$COORDINATOR\"].Role: unknown role: \"Coordinator\" (expected coordinator, \
               node, or no role for a workload)",
            ],
        ),
        (
            "/Policies/$DB/Role",
            json!(7),
            &["Policies[\"$DB\"].Role: got 7, want a string"],
        ),
        (
            "/Policies/abc",
            json!({ "SANs": ["abc"] }),
            &["Policies[\"abc\"]: invalid policy hash length: 3 (expected 64)"],
        ),
        (
            "/Policies/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            json!({ "SANs": ["abc"] }),
            &[
                "Policies[\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]: got a \
               policy hash with other characters, want 64 hexadecimal digits in lower case",
            ],
        ),
        (
            "/Policies/$DB",
            json!(["db"]),
            &["Policies[\"$DB\"]: got a list of 1, want an object"],
        ),
        (
            "/Policies/$DB/AllowedPeer",
            json!([]),
            &[
                "Policies[\"$DB\"]: got unknown field \"AllowedPeer\" (did you mean \
               \"AllowedPeers\"?), want only SANs, WorkloadSecretID, Role, SpiffeID, AllowedPeers, \
               MaxInstances, Hosts",
            ],
        ),
        (
            "/Policies/$WEB/WorkloadSecretID",
            json!("a b"),
            &[
                "Policies[\"$WEB\"].WorkloadSecretID: got \"a b\", want at most 512 printable ASCII \
               characters without space",
            ],
        ),
        (
            "/Policies/$WEB/MaxInstances",
            json!(0),
            &["Policies[\"$WEB\"].MaxInstances: got 0, want a whole number from 1 to 4294967295"],
        ),
        (
            "/Policies/$WEB/MaxInstances",
            json!(4_294_967_296_u64),
            &[
                "Policies[\"$WEB\"].MaxInstances: got 4294967296, want a whole number from 1 to \
               4294967295",
            ],
        ),
        (
            "/Policies/$WEB/MaxInstances",
            json!(2.0),
            &["Policies[\"$WEB\"].MaxInstances: got 2.0, want a whole number from 1 to 4294967295"],
        ),
    ]);
}

#[test]
fn names() {
    check(&[
        (
            "/Policies/$NODE/SANs",
            json!(["*"]),
            &[
                "Policies[\"$NODE\"].SANs[0]: got \"*\", want a host name, an IP address or a SPIFFE \
               ID: a workload has no wildcard names, or it could pose as its neighbours; list each \
               name",
            ],
        ),
        (
            "/Policies/$NODE/SANs",
            json!(["a_b", "10.0.0.256"]),
            &[
                "Policies[\"$NODE\"].SANs[0]: got \"a_b\", want a host name, an IP address or a \
                 SPIFFE ID: a host name consists of a-z, 0-9, `-` and `.`; found '_'",
            ],
        ),
        (
            "/Policies/$NODE/SANs",
            json!(["a", "b", "A", "::1", "0:0::1", ""]),
            &[
                "Policies[\"$NODE\"].SANs[2]: got the same as Policies[\"$NODE\"].SANs[0], want each \
                 one once",
                "Policies[\"$NODE\"].SANs[4]: got the same as Policies[\"$NODE\"].SANs[3], want each \
                 one once",
                "Policies[\"$NODE\"].SANs[5]: field cannot be empty",
            ],
        ),
        (
            "/Policies/$NODE/SANs",
            json!(["https://shop.example/web"]),
            &[
                "Policies[\"$NODE\"].SANs[0]: got \"https://shop.example/web\", want a SPIFFE ID: a \
               SPIFFE ID begins with `spiffe://`, in lower case",
            ],
        ),
        (
            "/Policies/$NODE/SANs",
            json!("web"),
            &["Policies[\"$NODE\"].SANs: got \"web\", want a list"],
        ),
        (
            "/Policies/$NODE/SANs",
            json!(["spiffe://shop.example/node/green"]),
            &[
                "Policies[\"$NODE\"].SANs[0]: got \"spiffe://shop.example/node/green\", want one SPIFFE \
               ID for each policy; this one has spiffe://shop.example/node/blue already",
            ],
        ),
        (
            "/Policies/$DB/SANs",
            json!([
                "spiffe://shop.example/ns/data/sa/db",
                "spiffe://shop.example/db",
                "db.data.svc"
            ]),
            &[
                "Policies[\"$DB\"].SANs[1]: got \"spiffe://shop.example/db\", want one SPIFFE ID for \
               each policy; this one has spiffe://shop.example/ns/data/sa/db already",
            ],
        ),
        (
            "/Policies/$NODE/SpiffeID",
            json!("spiffe://mesh.local/node/blue"),
            &[
                "Policies[\"$NODE\"].SpiffeID: got \"spiffe://mesh.local/node/blue\", want a SPIFFE ID \
               of trust domain shop.example",
            ],
        ),
        (
            "/Policies/$NODE/SpiffeID",
            json!("spiffe://shop.example"),
            &[
                "Policies[\"$NODE\"].SpiffeID: got \"spiffe://shop.example\", want a path after the \
               trust domain: no workload is the whole of it",
            ],
        ),
        (
            "/Policies/$NODE/SpiffeID",
            json!("spiffe://shop.example/a//b"),
            &[
                "Policies[\"$NODE\"].SpiffeID: got \"spiffe://shop.example/a//b\", want a valid SPIFFE \
               ID: a path segment is empty",
            ],
        ),
        (
            "/Policies/$NODE/SpiffeID",
            json!(null),
            &[
                "Policies[\"$NODE\"]: got neither SpiffeID nor host name, want a SpiffeID, or a host \
               name among the SANs to make one of",
            ],
        ),
        (
            "/Policies/$COORDINATOR/SANs",
            json!(["10.0.0.1"]),
            &[
                "Policies[\"$COORDINATOR\"]: got neither SpiffeID nor host name, want a SpiffeID, or \
               a host name among the SANs to make one of",
            ],
        ),
        (
            "/TrustDomain",
            json!("Shop"),
            &[
                "TrustDomain: got \"Shop\", want a trust domain: a trust domain consists of a-z, 0-9, \
               `.`, `-` and `_`, without port or user; found 'S'",
            ],
        ),
        (
            "/TrustDomain",
            json!(""),
            &["TrustDomain: field cannot be empty"],
        ),
    ]);
}

#[test]
fn references_between_policies() {
    check(&[
        (
            "/Policies/$DB/AllowedPeers",
            json!(["wbe", "spiffe://shop.example/ns/default/sa/wed", "frontend"]),
            &[
                "Policies[\"$DB\"].AllowedPeers[0]: got \"wbe\", want the SPIFFE ID or name of a \
                 policy in this manifest (did you mean \"db\" or \"web\"?)",
                "Policies[\"$DB\"].AllowedPeers[1]: got \"spiffe://shop.example/ns/default/sa/wed\", \
                 want the SPIFFE ID or name of a policy in this manifest (did you mean \
                 \"spiffe://shop.example/ns/default/sa/web\"?)",
                "Policies[\"$DB\"].AllowedPeers[2]: got \"frontend\", want the SPIFFE ID or name of a \
                 policy in this manifest",
            ],
        ),
        (
            "/Policies/$DB/AllowedPeers",
            json!(["http://web"]),
            &[
                "Policies[\"$DB\"].AllowedPeers[0]: got \"http://web\", want a valid SPIFFE ID: a \
               SPIFFE ID begins with `spiffe://`, in lower case",
            ],
        ),
        (
            "/Policies/$DB/AllowedPeers",
            json!(["web", "coordinator", "web.default.svc"]),
            &[
                "Policies[\"$DB\"].AllowedPeers[2]: got spiffe://shop.example/ns/default/sa/web again, \
               after Policies[\"$DB\"].AllowedPeers[0], want each one once",
            ],
        ),
        (
            "/Policies/$DB/AllowedPeers",
            json!("web"),
            &["Policies[\"$DB\"].AllowedPeers: got \"web\", want a list"],
        ),
        (
            "/Policies/$DB/Hosts",
            json!(["web"]),
            &[
                "Policies[\"$DB\"].Hosts: got a list of 1, want no such field, or the role node: only \
               a node hosts workloads",
            ],
        ),
        (
            "/Policies/$NODE/Hosts",
            json!(["web", "coordinator", "blue", "bd"]),
            &[
                "Policies[\"$NODE\"].Hosts[1]: got \"coordinator\", want a workload; no policy of \
                 spiffe://shop.example/ns/default/sa/coordinator has that role",
                "Policies[\"$NODE\"].Hosts[2]: got \"blue\", want a workload; no policy of \
                 spiffe://shop.example/node/blue has that role",
                "Policies[\"$NODE\"].Hosts[3]: got \"bd\", want the SPIFFE ID or name of a policy in \
                 this manifest (did you mean \"db\"?)",
            ],
        ),
        // The host name that `$NEXT` allows may be the one that is misspelt.
        (
            "/Policies/$DB/SANs",
            json!(["db_data.svc", "spiffe://shop.example/ns/data/sa/db"]),
            &[
                "Policies[\"$DB\"].SANs[0]: got \"db_data.svc\", want a host name, an IP address or a \
                 SPIFFE ID: a host name consists of a-z, 0-9, `-` and `.`; found '_'",
            ],
        ),
        // Whoever `web` is can't be told any more, so nobody is blamed for naming it.
        (
            "/Policies/$WEB/SANs",
            json!(["*.web"]),
            &[
                "Policies[\"$WEB\"].SANs[0]: got \"*.web\", want a host name, an IP address or a SPIFFE \
               ID: a workload has no wildcard names, or it could pose as its neighbours; list each \
               name",
            ],
        ),
        (
            "/Policies/$NEXT/SpiffeID",
            json!("spiffe://shop.example/ns/data/sa/web"),
            &[
                "Policies[\"$NODE\"].Hosts[0]: got \"web\", want one SPIFFE ID; that name fits \
                 spiffe://shop.example/ns/data/sa/web and spiffe://shop.example/ns/default/sa/web",
            ],
        ),
    ]);
}

#[test]
fn policies_that_share_an_identity_and_contradict_each_other() {
    let of = "both are spiffe://shop.example/ns/default/sa/web";
    check(&[
        (
            "/Policies/$NEXT",
            json!({ "SANs": ["web"], "AllowedPeers": ["web"] }),
            &[
                &format!(
                    "Policies[\"$NEXT\"].SANs: got web, want web.default.svc, 10.0.0.7, fd00::7 as in \
                     Policies[\"$WEB\"]: {of}"
                ),
                &format!(
                    "Policies[\"$NEXT\"].AllowedPeers: got spiffe://shop.example/ns/default/sa/web, \
                     want spiffe://shop.example/ns/data/sa/db as in Policies[\"$WEB\"]: {of}"
                ),
            ],
        ),
        (
            "/Policies/$NEXT/AllowedPeers",
            json!(null),
            &[&format!(
                "Policies[\"$NEXT\"].AllowedPeers: got any, want spiffe://shop.example/ns/data/sa/db \
                 as in Policies[\"$WEB\"]: {of}"
            )],
        ),
        (
            "/Policies/$NEXT/Role",
            json!("node"),
            &[&format!(
                "Policies[\"$NEXT\"].Role: got node, want workload as in Policies[\"$WEB\"]: {of}"
            )],
        ),
        // Half a policy would seem to contradict the other: its one mistake is enough.
        (
            "/Policies/$NEXT",
            json!({ "SANs": ["a_b"], "SpiffeID": "spiffe://shop.example/ns/default/sa/web" }),
            &[
                "Policies[\"$NEXT\"].SANs[0]: got \"a_b\", want a host name, an IP address or a \
                 SPIFFE ID: a host name consists of a-z, 0-9, `-` and `.`; found '_'",
            ],
        ),
        (
            "/Policies/5555555555555555555555555555555555555555555555555555555555555555",
            json!({ "SpiffeID": "spiffe://shop.example/node/blue", "Role": "node", "Hosts": ["db"] }),
            &[
                "Policies[\"5555555555555555555555555555555555555555555555555555555555555555\"].Hosts: \
                 got spiffe://shop.example/ns/data/sa/db, want spiffe://shop.example/ns/data/sa/db, \
                 spiffe://shop.example/ns/default/sa/web as in Policies[\"$NODE\"]: both are \
                 spiffe://shop.example/node/blue",
            ],
        ),
    ]);
}
