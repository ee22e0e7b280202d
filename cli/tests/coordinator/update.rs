//! Updates take the owners: with keys, with signatures, two of three.

use crate::bed::Bed;

#[test]
fn an_update_takes_as_many_owners_as_the_manifest_in_force_demands() {
    let bed = Bed::with_manifest();
    bed.next_manifest("manifest.json", "2h");
    for keys in [
        "",
        "--workload-owner-key alice.pem",
        "--workload-owner-key alice.pem --workload-owner-key alice.pem",
        "--workload-owner-key alice.pem --workload-owner-key mallory.pem",
        "--workload-owner-key alice.pem --workload-owner-key bob.pem --workload-owner-key mallory.pem",
    ] {
        let run = bed
            .ask("set", keys)
            .fails(1, &["not-authorised (id ", "its log has the reason"]);
        assert!(
            run.stderr
                .contains("As many owners as the manifest in force demands"),
            "{run:?}"
        );
    }
    assert_eq!(bed.status()["seq"], 1);

    let run = bed
        .ask(
            "set",
            "--workload-owner-key alice.pem --workload-owner-key bob.pem",
        )
        .ok();
    let hash = bed.digest_of("manifest.json");
    assert!(
        run.stdout
            .starts_with(&format!("manifest {hash} is in force (transition 2)\n")),
        "{run:?}"
    );
    // The shares are those of the first: their owners are the same.
    assert!(!run.stdout.contains("seed-shares.json"), "{run:?}");
    assert_eq!(bed.status()["manifest"], hash);
}

#[test]
fn an_update_takes_signatures_in_place_of_keys() {
    let bed = Bed::with_manifest();
    bed.next_manifest("manifest.json", "2h");
    let head = bed.head();
    let signed = bed
        .sealwire(&format!(
            "sign --previous {head} --workload-owner-key alice.pem -o alice.sig"
        ))
        .ok();
    let hash = bed.digest_of("manifest.json");
    assert_eq!(
        signed.stdout,
        format!(
            "wrote the signature over manifest {hash} to alice.sig\n\
             next: sealwire set --signature alice.sig --signer PUBLIC_KEY\n"
        )
    );
    assert_eq!(signed.stderr, "");
    bed.sealwire(&format!(
        "sign --previous {head} --workload-owner-key carol.pem -o carol.sig"
    ))
    .ok();
    bed.ask(
        "set",
        &format!(
            "--previous {head} --signature alice.sig --signer alice.pub.pem \
             --signature carol.sig --signer carol.pub.pem"
        ),
    )
    .ok();
    assert_eq!(bed.status()["manifest"], hash);
}

#[test]
fn openssl_can_sign_what_sign_prepares() {
    for (hash, lifetime) in [("-sha256", "2h"), ("-sha384", "3h")] {
        let bed = Bed::with_manifest();
        bed.next_manifest("manifest.json", lifetime);
        let head = bed.head();
        let run = bed
            .sealwire(&format!("sign --previous {head} --prepare -o statement"))
            .ok();
        assert!(
            run.stdout.contains("next: openssl dgst -sha384 -sign KEY "),
            "{run:?}"
        );
        let arguments = ["alice", "bob"].map(|owner| {
            bed.openssl(&format!(
                "dgst {hash} -sign {owner}.pem -out {owner}.sig statement"
            ));
            format!("--signature {owner}.sig --signer {owner}.pub.pem")
        });
        bed.ask("set", &arguments.join(" ")).ok();
        assert_eq!(bed.status()["seq"], 2);
    }
}

#[test]
fn a_signature_that_is_not_for_this_update_is_found_before_anything_is_sent() {
    let bed = Bed::with_manifest();
    bed.next_manifest("manifest.json", "2h");
    let sign = |previous: &str, owner: &str| {
        let out = format!("{owner}.sig");
        bed.sealwire(&format!(
            "sign --previous {previous} --workload-owner-key {owner}.pem -o {out}"
        ))
        .ok();
    };
    let with = |signature: &str, signer: &str| {
        bed.ask("set", &format!("--signature {signature} --signer {signer}"))
    };
    let head = bed.head();
    sign("none", "alice");
    let after = format!(
        "is not the signature of alice.pub.pem over this manifest ({})",
        bed.digest_of("manifest.json")
    );
    let run = with("alice.sig", "alice.pub.pem").fails(2, &["alice.sig ", &after]);
    assert!(
        run.stderr
            .contains(&format!("after transition {head}: sign again")),
        "{run:?}"
    );

    sign(&head, "alice");
    with("alice.sig", "bob.pub.pem").fails(2, &["alice.sig is not the signature of bob.pub.pem"]);
    bed.next_manifest("manifest.json", "3h");
    with("alice.sig", "alice.pub.pem").fails(2, &["is not the signature of"]);

    with("alice.sig", "alice.pem").fails(2, &["alice.pem is a PRIVATE KEY, not a PUBLIC KEY"]);
    with("alice.sig", "alice.sig").fails(2, &["alice.sig"]);
    with("alice.sig", "nowhere").fails(2, &["can't read nowhere"]);
    with("/dev/zero", "alice.pub.pem").fails(2, &["/dev/zero is longer than 256 bytes"]);
    bed.openssl("rsa -in dora.pem -pubout -out dora.pub.pem");
    with("alice.sig", "dora.pub.pem").fails(2, &["dora.pub.pem is no ECDSA key on P-256 or P-384"]);
    bed.ask("set", "--signature alice.sig")
        .fails(2, &["each --signature needs its --signer"]);
    assert_eq!(bed.text("audit.jsonl").lines().count(), 1);
}

#[test]
fn an_update_that_names_another_transition_than_the_latest_is_refused() {
    let bed = Bed::with_manifest();
    bed.next_manifest("manifest.json", "2h");
    let keys = "--workload-owner-key alice.pem --workload-owner-key bob.pem";
    let head = bed.head();
    for previous in ["none".to_owned(), "ab".repeat(32)] {
        bed.ask("set", &format!("{keys} --previous {previous}"))
            .fails(
                1,
                &["conflict (id ", &format!("the latest transition is {head}")],
            );
    }
    bed.ask("set", "--previous abc")
        .fails(2, &["expected 64 hexadecimal digits, or none"]);
    bed.ask("set", &format!("{keys} --previous {head}")).ok();
}

#[test]
fn owner_keys_that_can_not_sign_are_named() {
    let bed = Bed::with_manifest();
    for (file, why) in [
        ("nowhere", "can't read nowhere: No such file"),
        ("web.rego", "web.rego: not a private key in PEM form"),
        (
            "dora.pem",
            "dora.pem: not an ECDSA private key on P-256 or P-384",
        ),
        ("alice.pub.pem", "alice.pub.pem: not an ECDSA private key"),
        (
            "encrypted.pem",
            "encrypted.pem: the private key is encrypted",
        ),
        ("/dev/zero", "/dev/zero is longer than 65536 bytes"),
    ] {
        bed.ask("set", &format!("--workload-owner-key {file}"))
            .fails(2, &[why]);
        let sign = format!("sign --previous none --workload-owner-key {file} -o out");
        bed.sealwire(&sign).fails(2, &[why]);
        assert!(!bed.path("out").exists());
    }
}

#[test]
fn sign_notes_a_key_that_the_manifest_does_not_list() {
    let bed = Bed::new();
    let run = bed
        .sealwire("sign --previous none --workload-owner-key mallory.pem -o out")
        .ok();
    assert!(
        run.stderr
            .starts_with("note: this manifest does not list the key ("),
        "{run:?}"
    );
    bed.sealwire("sign --previous none -o out")
        .fails(2, &["--workload-owner-key"]);
    bed.sealwire("sign --previous none --workload-owner-key alice.pem -o /nowhere/out")
        .fails(1, &["can't write /nowhere/out: No such file"]);
}

#[test]
fn new_share_owners_get_new_shares() {
    let bed = Bed::with_manifest();
    let before = bed.read("seed-shares.json");
    let mut manifest = bed.manifest();
    manifest["SeedshareOwnerPubKeys"] =
        serde_json::json!([bed.share_owner("dora"), bed.share_owner("gus")]);
    bed.write_manifest("manifest.json", &manifest);
    let keys = "--workload-owner-key alice.pem --workload-owner-key bob.pem";
    let run = bed.ask("set", keys).ok();
    assert!(run.stdout.contains("  ./seed-shares.json\n"), "{run:?}");
    assert_ne!(bed.read("seed-shares.json"), before);

    // The shares of before still give the seed, and data owners are told.
    let report = bed.ask("verify", "").ok().stdout;
    for line in [
        "  any 2 of 3 seed share owners of manifest.0.json, together",
        "  any 2 of 2 seed share owners of manifest.1.json, together",
    ] {
        assert!(report.contains(line), "{report}");
    }
}
