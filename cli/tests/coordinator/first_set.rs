use crate::bed::Bed;

#[test]
fn the_first_set_writes_its_files_and_says_what_holds_now() {
    let bed = Bed::with_coordinator();
    let run = bed
        .ask("set", "--policy web.rego --workspace-dir new/files")
        .ok();
    let hash = bed.digest_of("manifest.json");
    assert_eq!(
        run.stdout,
        format!(
            "manifest {hash} is in force (transition 1)\n\
             note: the first manifest was taken on trust: this Coordinator has no --owner-key\n  \
             new/files/coordinator-root-ca.pem\n  \
             new/files/mesh-ca.pem\n  \
             new/files/seed-shares.json\n\
             next: `sealwire verify`\n"
        )
    );
    assert_eq!(
        run.stderr,
        "warning: the manifest trusts a simulated TEE: nothing here is protected\n"
    );
    let names = bed.names("new/files");
    assert_eq!(
        names.iter().collect::<Vec<_>>(),
        ["coordinator-root-ca.pem", "mesh-ca.pem", "seed-shares.json"]
    );
    for name in names {
        assert_eq!(bed.mode(&format!("new/files/{name}")) & 0o133, 0, "{name}");
    }
    for certificate in ["coordinator-root-ca.pem", "mesh-ca.pem"] {
        bed.openssl(&format!("x509 -in new/files/{certificate} -noout"));
    }
    let shares: serde_json::Value =
        serde_json::from_slice(&bed.read("new/files/seed-shares.json")).unwrap();
    assert_eq!(shares["SeedShares"].as_array().unwrap().len(), 3);
}

/// Nothing is sent: the Coordinator does not even write a refusal into its audit log.
#[test]
fn a_coordinator_that_is_not_what_the_manifest_says_gets_nothing() {
    let bed = Bed::with_coordinator();
    let other = "ab".repeat(32);
    let coordinator = bed.digest_of("coordinator.rego");
    let manifest = bed.manifest();
    let platform = manifest["ReferenceValues"]["simulated"][0]["PlatformKeys"][0]
        .as_str()
        .unwrap();
    let text = manifest.to_string();
    for (name, changed, code) in [
        (
            "policy.json",
            text.replace(&coordinator, &other),
            "host-data-mismatch",
        ),
        (
            "measured.json",
            text.replace(&"00".repeat(48), &"01".repeat(48)),
            "measurement-mismatch",
        ),
        (
            "platform.json",
            text.replace(platform, &other),
            "platform-not-listed",
        ),
    ] {
        std::fs::write(bed.path(name), changed).unwrap();
        for command in [
            "set",
            "verify",
            "status",
            "recover --seedshare-owner-key dora.pem",
        ] {
            let says = format!("is not what {name} says, and nothing was sent to it:\n");
            bed.ask_with(command, name, "--allow-simulated-tee")
                .fails(1, &[&says, code]);
        }
    }
    assert_eq!(bed.status()["phase"], "uninitialised");
    assert_eq!(bed.text("audit.jsonl"), "");
    assert!(!bed.path("verify").exists());
}

#[test]
fn a_simulated_tee_must_be_allowed_by_name() {
    let bed = Bed::with_coordinator();
    for command in ["set", "verify", "status"] {
        bed.ask_with(command, "manifest.json", "").fails(
            1,
            &[
                "simulated-tee-refused",
                "--allow-simulated-tee",
                "protects nothing",
            ],
        );
    }
    assert_eq!(bed.text("audit.jsonl"), "");
}

#[test]
fn a_manifest_that_is_not_valid_is_wrong_usage_with_every_error() {
    let bed = Bed::new();
    let mut manifest = bed.manifest();
    manifest["UpdateQuorum"] = 9.into();
    manifest["CertificateLifetime"] = "forever".into();
    bed.write_manifest("manifest.json", &manifest);
    // No Coordinator runs: it is refused before one is looked for.
    for command in [
        "set",
        "verify",
        "status",
        "recover --seedshare-owner-key dora.pem",
    ] {
        bed.ask(command, "").fails(
            2,
            &[
                "manifest.json is not valid:\n  ",
                "  UpdateQuorum: ",
                "  CertificateLifetime: ",
            ],
        );
    }
    bed.sealwire("sign --previous none --prepare -o out")
        .fails(2, &["  UpdateQuorum: "]);
    std::fs::remove_file(bed.path("manifest.json")).unwrap();
    bed.ask("set", "")
        .fails(2, &["can't read manifest.json: No such file"]);
    std::os::unix::fs::symlink("/dev/zero", bed.path("manifest.json")).unwrap();
    bed.ask("set", "").fails(2, &[" bytes, want at most "]);
}

#[test]
fn a_policy_document_must_be_one_of_the_manifests() {
    let bed = Bed::with_coordinator();
    std::fs::write(bed.path("web.rego"), "package other\n").unwrap();
    let digest = bed.digest_of("web.rego");
    bed.ask("set", "--policy web.rego").fails(
        2,
        &["web.rego", &digest, "not among the manifest's Policies"],
    );
    bed.ask("set", "--policy nowhere")
        .fails(2, &["can't read nowhere: No such file"]);
    assert_eq!(bed.status()["phase"], "uninitialised");
}

#[test]
fn where_the_answer_has_no_place_nothing_is_set() {
    let bed = Bed::with_coordinator();
    bed.ask("set", "--workspace-dir web.rego")
        .fails(1, &["can't make web.rego: "]);
    assert_eq!(bed.status()["phase"], "uninitialised");
}

#[test]
fn with_owner_keys_the_first_manifest_takes_their_signatures() {
    let owners = Bed::new();
    let flags = ["alice", "bob"]
        .map(|it| format!("--owner-key {}", owners.digest_of(&format!("{it}.der"))));
    let bed = Bed::with_flags(&flags.join(" "));
    bed.ask("set", "").fails(
        1,
        &["not-authorised", "its log has the reason under that id"],
    );
    bed.ask("set", "--workload-owner-key alice.pem")
        .fails(1, &["not-authorised"]);
    bed.sealwire("sign --previous none --workload-owner-key bob.pem -o bob.sig")
        .ok();
    let run = bed
        .ask(
            "set",
            "--workload-owner-key alice.pem --signature bob.sig --signer bob.pub.pem",
        )
        .ok();
    assert!(!run.stdout.contains("on trust"), "{run:?}");

    let report = bed.ask("verify", "").ok().stdout;
    assert!(report.contains("was signed with the keys that the Coordinator was started with:\n"));
    for owner in ["alice.der", "bob.der"] {
        assert!(
            report.contains(&format!("    {}\n", bed.digest_of(owner))),
            "{report}"
        );
    }
    let transitions: serde_json::Value =
        serde_json::from_slice(&bed.read("verify/transitions.json")).unwrap();
    assert_eq!(transitions[0]["authorised_by"].as_array().unwrap().len(), 2);
}
