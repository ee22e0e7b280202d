//! The store is in other hands: it may be put back to what it was.

use std::fs;

use crate::bed::Bed;

const KEYS: &str = "--workload-owner-key alice.pem --workload-owner-key bob.pem";

/// A Coordinator with two manifests, the second of which was verified, and whose store has been
/// put back to the first. It waits for its shares.
fn rolled_back() -> Bed {
    let mut bed = Bed::with_manifest();
    bed.kill();
    fs::copy(bed.path("history.redb"), bed.path("old.redb")).unwrap();
    bed.start();
    bed.recover();
    fs::copy(bed.path("manifest.json"), bed.path("old.json")).unwrap();
    bed.next_manifest("manifest.json", "2h");
    bed.ask("set", KEYS).ok();
    bed.ask("verify", "").ok();
    bed.kill();
    fs::copy(bed.path("old.redb"), bed.path("history.redb")).unwrap();
    bed.start();
    bed
}

fn recover(bed: &Bed, manifest: &str, arguments: &str) -> crate::bed::Run {
    bed.ask_with(
        "recover",
        manifest,
        &format!("--allow-simulated-tee {arguments}"),
    )
}

#[test]
fn an_owner_gives_no_share_for_an_older_store() {
    let bed = rolled_back();
    // One owner knows the manifest in force, one where history was.
    recover(
        &bed,
        "manifest.json",
        "--seedshare-owner-key dora.pem --verified none",
    )
    .fails(
        1,
        &[
            "the store was rolled back or forged",
            &bed.digest_of("old.json"),
        ],
    );
    recover(&bed, "old.json", "--seedshare-owner-key dora.pem").fails(
        1,
        &["the history is rolled back: it ends with transition 1 ("],
    );
    assert_eq!(bed.status()["recovery"]["have"], 0);
}

/// Owners who remember nothing recover it; who remembers is not fooled.
#[test]
fn an_older_history_is_refused_by_who_verified_a_newer_one() {
    let bed = rolled_back();
    for owner in ["dora", "emil"] {
        let key = format!("--seedshare-owner-key {owner}.pem --verified none");
        recover(&bed, "old.json", &key).ok();
    }
    let before = bed.names("verify");
    let says = "this is not the history that verify/latest-transition remembers";
    bed.ask_with("verify", "old.json", "--allow-simulated-tee")
        .fails(
            1,
            &[
                says,
                "the history is rolled back: it ends with transition 2 (",
            ],
        );

    // It catches up in length, and is another one all the same.
    fs::copy(bed.path("old.json"), bed.path("manifest.json")).unwrap();
    for lifetime in ["3h", "4h"] {
        bed.next_manifest("manifest.json", lifetime);
        bed.ask("set", KEYS).ok();
        bed.ask("verify", "")
            .fails(1, &[says, "the history is forked: its transition 3 is "]);
    }
    assert_eq!(bed.names("verify"), before);
    // Another directory remembers nothing.
    bed.ask("verify", "--out elsewhere").ok();
}
