use std::fs;

use crate::bed::{Bed, Run};

fn recover(bed: &Bed, key: &str, arguments: &str) -> Run {
    bed.ask(
        "recover",
        &format!("--seedshare-owner-key {key}.pem {arguments}"),
    )
}

#[test]
fn two_owners_recover_from_their_own_machines() {
    let mut bed = Bed::with_manifest();
    let root = bed.read("coordinator-root-ca.pem");
    bed.ask("verify", "").ok();
    bed.restart();

    // Each owner has a directory of their own: the key, the manifest, the shares; one has verified
    // before.
    let address = bed.address();
    for (owner, verified) in [("emil", true), ("dora", false)] {
        fs::create_dir(bed.path(owner)).unwrap();
        for file in [&format!("{owner}.pem"), "manifest.json", "seed-shares.json"] {
            fs::copy(bed.path(file), bed.path(&format!("{owner}/{file}"))).unwrap();
        }
        let verified = if verified {
            "verify".to_owned()
        } else {
            format!("{owner}/verify")
        };
        let run = bed
            .sealwire(&format!(
                "recover -c {address} -m {owner}/manifest.json --allow-simulated-tee \
                 --seedshare-owner-key {owner}/{owner}.pem --seed {owner}/seed-shares.json \
                 --verified {verified}"
            ))
            .ok();
        let says = match owner {
            "emil" => "share 1 of 2: 1 more to go\n",
            _ => "share 2 of 2: the Coordinator is recovered\n",
        };
        assert_eq!(run.stdout, says);
    }
    bed.ask("verify", "").ok();
    assert_eq!(bed.read("verify/coordinator-root-ca.pem"), root);
    assert_eq!(bed.status()["phase"], "ready");
    recover(&bed, "fay", "").fails(
        1,
        &["the Coordinator has its seed: there is nothing to recover"],
    );
}

#[test]
fn shares_come_from_the_store_where_no_file_is_given() {
    let mut bed = Bed::with_manifest();
    fs::remove_file(bed.path("seed-shares.json")).unwrap();
    bed.restart();
    recover(&bed, "dora", "").ok();
    let run = recover(&bed, "fay", "").ok();
    assert_eq!(run.stdout, "share 2 of 2: the Coordinator is recovered\n");
}

#[test]
fn a_wrong_key_or_share_is_named_and_counts_for_nothing() {
    let mut bed = Bed::with_manifest();
    bed.restart();
    recover(&bed, "dora", "").ok();
    recover(&bed, "dora", "").fails(1, &["share-refused (id ", "share 1 "]);
    for (key, code, why) in [
        ("gus", 1, "gus.pem: "),
        ("alice", 1, "alice.pem: "),
        ("encrypted", 1, "encrypted.pem: "),
        ("dora.pub", 2, "can't read dora.pub.pem"),
    ] {
        recover(&bed, key, "").fails(code, &[why]);
    }
    assert_eq!(
        bed.status()["recovery"],
        serde_json::json!({ "have": 1, "need": 2 })
    );
    recover(&bed, "emil", "").ok();
}

#[test]
fn stale_or_damaged_shares_are_named() {
    let mut bed = Bed::with_manifest();
    fs::copy(bed.path("seed-shares.json"), bed.path("stale.json")).unwrap();
    let mut manifest = bed.manifest();
    manifest["SeedshareQuorum"] = 3.into();
    bed.write_manifest("manifest.json", &manifest);
    bed.ask(
        "set",
        "--workload-owner-key alice.pem --workload-owner-key bob.pem",
    )
    .ok();
    bed.restart();

    recover(&bed, "dora", "--seed stale.json").fails(1, &["--seed has other shares", "stale"]);
    fs::write(bed.path("damaged.json"), "{}").unwrap();
    recover(&bed, "dora", "--seed damaged.json")
        .fails(2, &["damaged.json: not a seed share document"]);
    recover(&bed, "dora", "--seed nowhere").fails(2, &["can't read nowhere: No such file"]);
    recover(&bed, "dora", "--seed /dev/zero").fails(2, &["/dev/zero is longer than"]);
    for (owner, have) in [("dora", 1), ("emil", 2), ("fay", 3)] {
        let run = recover(&bed, owner, "--seed seed-shares.json").ok();
        assert!(
            run.stdout.starts_with(&format!("share {have} of 3: ")),
            "{run:?}"
        );
    }
}

#[test]
fn another_manifest_than_the_stores_recovers_nothing() {
    let mut bed = Bed::with_manifest();
    let active = bed.digest_of("manifest.json");
    bed.restart();
    bed.next_manifest("manifest.json", "2h");
    recover(&bed, "dora", "").fails(
        1,
        &[
            "has another manifest",
            &active,
            &bed.digest_of("manifest.json"),
            "rolled back or forged",
        ],
    );
    assert_eq!(bed.status()["recovery"]["have"], 0);
}

#[test]
fn a_coordinator_without_history_has_nothing_to_recover() {
    let bed = Bed::with_coordinator();
    recover(&bed, "dora", "").fails(
        1,
        &["the Coordinator has no manifest", "its store was lost"],
    );
}
