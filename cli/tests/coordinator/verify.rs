use std::fs;

use serde_json::Value;

use crate::bed::Bed;

const KEYS: &str = "--workload-owner-key alice.pem --workload-owner-key bob.pem";

#[test]
fn verify_writes_what_may_be_trusted_and_says_so_in_words() {
    let bed = Bed::with_coordinator();
    bed.ask("set", "--policy web.rego").ok();
    let first = bed.read("manifest.json");
    bed.next_manifest("manifest.json", "2h");
    bed.ask("set", &format!("{KEYS} --policy coordinator.rego"))
        .ok();

    let run = bed.ask("verify", "").ok();
    let web = format!("policy.{}.rego", bed.digest_of("web.rego"));
    let coordinator = format!("policy.{}.rego", bed.digest_of("coordinator.rego"));
    let names: Vec<_> = bed.names("verify").into_iter().collect();
    let mut expected = vec![
        "coordinator-root-ca.pem",
        "latest-transition",
        "manifest.0.json",
        "manifest.1.json",
        "mesh-ca.pem",
        "transitions.json",
        &web,
        &coordinator,
    ];
    expected.sort_unstable();
    assert_eq!(names, expected);
    for (written, source) in [
        ("manifest.0.json", first),
        ("manifest.1.json", bed.read("manifest.json")),
        (&web, bed.read("web.rego")),
        (&coordinator, bed.read("coordinator.rego")),
        (
            "coordinator-root-ca.pem",
            bed.read("coordinator-root-ca.pem"),
        ),
        ("mesh-ca.pem", bed.read("mesh-ca.pem")),
    ] {
        assert_eq!(bed.read(&format!("verify/{written}")), source, "{written}");
    }
    assert_eq!(
        bed.text("verify/latest-transition"),
        format!("2 {}\n", bed.head())
    );

    let transitions: Value = serde_json::from_slice(&bed.read("verify/transitions.json")).unwrap();
    assert_eq!(transitions[0]["authorised_by"], serde_json::json!([]));
    assert_eq!(
        transitions[1]["authorised_by"],
        serde_json::json!([bed.digest_of("alice.der"), bed.digest_of("bob.der")])
    );
    assert_eq!(transitions[1]["previous"], transitions[0]["hash"]);
    assert_eq!(transitions[1]["manifest"], bed.digest_of("manifest.json"));
    assert_eq!(transitions.as_array().unwrap().len(), 2);

    for words in [
        "VERIFIED\n",
        "The Coordinator runs on simulated and matches simulated[0] of the manifest.\n",
        "That TEE is simulated: whoever runs the machine can read and change everything.",
        "Its history has 2 transitions and 2 manifests; every signature holds, and owners consented",
        "The first manifest was taken on trust, from whoever set it first.\n",
        "    spiffe://mesh.test/ns/default/sa/web, which talks with any of them\n",
        "    spiffe://mesh.test/ns/default/sa/db, which talks with spiffe://mesh.test/ns/default/sa/web\n",
        "  any 2 of 3 workload owners to set another manifest\n",
        "  any 2 of 3 seed share owners of manifest.0.json, together",
        &format!("    {}\n", bed.digest_of("db.rego")),
        "Not verified: what the programs in the images do",
        "  verify/latest-transition\n",
    ] {
        assert!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }
}

#[test]
fn another_manifest_than_the_active_one_leaves_no_file() {
    let bed = Bed::with_manifest();
    // The same meaning in other bytes is another manifest, too.
    fs::write(bed.path("other.json"), bed.text("manifest.json") + "\n").unwrap();
    let hashes = format!(
        ": the Coordinator has {}, expected {}",
        bed.digest_of("manifest.json"),
        bed.digest_of("other.json")
    );
    bed.ask_with("verify", "other.json", "--allow-simulated-tee")
        .fails(
            1,
            &[
                "error: active manifest does not match expected manifest",
                &hashes,
            ],
        );
    assert!(!bed.path("verify").exists());

    bed.ask("verify", "").ok();
    let before = bed.read("verify/transitions.json");
    bed.next_manifest("manifest.json", "2h");
    bed.ask("set", KEYS).ok();
    bed.ask_with("verify", "verify/manifest.0.json", "--allow-simulated-tee")
        .fails(1, &["active manifest does not match expected manifest"]);
    assert_eq!(bed.read("verify/transitions.json"), before);
    assert!(!bed.path("verify/manifest.1.json").exists());
}

#[test]
fn a_graceful_rotation_is_part_of_the_history() {
    let bed = Bed::with_coordinator();
    let mut manifest = bed.manifest();
    manifest["Rotation"] = serde_json::json!({ "Mode": "graceful", "DeadlineSeconds": 5 });
    bed.write_manifest("manifest.json", &manifest);
    bed.ask("set", "").ok();
    manifest["CertificateLifetime"] = "2h".into();
    bed.write_manifest("manifest.json", &manifest);
    bed.ask("set", KEYS).ok();
    // While the rotation goes on, and after it.
    bed.ask("verify", "").ok();
    while bed.status()["rotation"]["stage"] != "done" {}
    let run = bed.ask("verify", "").ok();
    assert!(
        run.stdout.contains("4 transitions and 2 manifests"),
        "{run:?}"
    );
    let transitions: Value = serde_json::from_slice(&bed.read("verify/transitions.json")).unwrap();
    let kinds: Vec<_> = transitions
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["kind"])
        .collect();
    assert_eq!(kinds, ["manifest", "manifest", "issue", "withdraw"]);
}

#[test]
fn without_a_manifest_or_its_seed_there_is_nothing_to_verify() {
    let mut bed = Bed::with_coordinator();
    bed.ask("verify", "").fails(
        1,
        &[
            "no-manifest (id ",
            "no manifest was set yet: `sealwire set`",
        ],
    );
    bed.ask("set", "").ok();
    bed.restart();
    bed.ask("verify", "")
        .fails(1, &["in-recovery (id ", "`sealwire recover`"]);
    assert!(!bed.path("verify").exists());
}

#[test]
fn what_verify_remembers_must_be_readable() {
    let bed = Bed::with_manifest();
    bed.ask("verify", "").ok();
    for wrong in ["", "1", "x 00", "1 00", "-1 abc"] {
        fs::write(bed.path("verify/latest-transition"), wrong).unwrap();
        for command in ["verify", "recover --seedshare-owner-key dora.pem"] {
            let says = "verify/latest-transition is not what `sealwire verify` writes";
            bed.ask(command, "").fails(2, &[says, "--out"]);
        }
    }
    fs::remove_file(bed.path("verify/latest-transition")).unwrap();
    fs::create_dir(bed.path("verify/latest-transition")).unwrap();
    bed.ask("verify", "")
        .fails(2, &["can't read verify/latest-transition: Is a directory"]);
}

#[test]
fn a_directory_that_can_not_be_made_is_named() {
    let bed = Bed::with_manifest();
    bed.ask("verify", "--out web.rego/verify")
        .fails(2, &["web.rego/verify"]);
}
