//! `sealwire manifest`, as an operator meets it: files, messages, exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tempfile::TempDir;

const COORDINATOR: &str = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";
const WEB: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const DB: &str = "3333333333333333333333333333333333333333333333333333333333333333";

#[test]
fn every_help_teaches_with_examples() {
    for command in ["new", "check", "diff"] {
        let run = Bed::new().sealwire(&format!("manifest {command} --help"));
        assert_eq!(run.code, 0);
        assert!(run.stdout.contains("Example"), "{run:?}");
    }
}

#[test]
fn a_new_manifest_for_the_simulated_tee_passes_its_check() {
    let bed = Bed::with_keys();
    let run = bed.new_simulated(
        "--workload-owner-key alice.pub.pem --workload-owner-key bob.pub.pem \
         --seedshare-owner-key carol.pub.pem --seedshare-owner-key dave.pub.pem -o manifest.json",
    );
    assert_eq!(run.code, 0, "{run:?}");
    let expected = "wrote manifest.json\nnext: sealwire manifest check manifest.json\n";
    assert_eq!(run.stdout, expected);

    let check = bed.sealwire("manifest check manifest.json");
    assert_eq!(check.code, 0, "{check:?}");
    assert_eq!(check.stderr, "");
    let hash = bed.run("sha256sum", "manifest.json").stdout;
    let hash = hash.split_whitespace().next().unwrap().to_owned();
    let measurement = "5a".repeat(48);
    assert_eq!(
        check.stdout,
        format!(
            "manifest.json is valid\n\
             hash: {hash}\n\
             trust domain: mesh.local\n\
             Coordinator: policy {COORDINATOR}\n\
             workload: spiffe://mesh.local/ns/default/sa/web\n  \
               policy {WEB}\n  \
               names: web.default.svc\n  \
               may talk with: every member of the mesh\n\
             workload: spiffe://mesh.local/ns/default/sa/db\n  \
               policy {DB}\n  \
               names: db\n  \
               may talk with: every member of the mesh\n\
             trusted: SIMULATED, no TEE at all\n  \
               measurement {measurement}\n\
             updates: 2 of 2 owners must sign\n\
             recovery: 2 of 2 seed-share owners, or a live Coordinator\n\
             rotation: graceful, waits for agents at most 5m a step\n\
             certificates: valid for 24h\n\
             note: the simulated TEE protects nothing: for development and tests only\n"
        )
    );
}

/// What openssl computes of the owner's key is what the manifest has.
#[test]
fn owners_are_named_by_what_openssl_says_of_their_keys() {
    let bed = Bed::with_keys();
    let run = bed.new_simulated(
        "--workload-owner-key alice.pub.pem --seedshare-owner-key carol.pub.pem -o manifest.json",
    );
    assert_eq!(run.code, 0, "{run:?}");
    let text = std::fs::read_to_string(bed.path("manifest.json")).unwrap();

    bed.openssl("pkey -pubin -in alice.pub.pem -outform DER -out alice.der");
    let digest = bed.run("sha256sum", "alice.der").stdout;
    let digest = digest.split_whitespace().next().unwrap();
    assert!(text.contains(&format!("\"{digest}\"")), "{text}");

    bed.openssl("pkey -in platform.pem -pubout -outform DER -out platform.der");
    let digest = bed.run("sha256sum", "platform.der").stdout;
    let digest = digest.split_whitespace().next().unwrap();
    assert!(text.contains(&format!("\"{digest}\"")), "{text}");

    bed.openssl("rsa -pubin -in carol.pub.pem -RSAPublicKey_out -out carol.pkcs1.pem");
    bed.run(
        "openssl",
        "rsa -RSAPublicKey_in -in carol.pkcs1.pem -RSAPublicKey_out -outform DER -out carol.der",
    );
    let der = hex::encode(std::fs::read(bed.path("carol.der")).unwrap());
    assert!(der.len() > 500);
    assert!(text.contains(&format!("\"{der}\"")), "{text}");

    // Either form of the same keys gives the same manifest.
    bed.openssl("pkey -in platform.pem -pubout -out platform.pub.pem");
    let again = bed.sealwire(&format!(
        "manifest new --coordinator-policy {COORDINATOR} --workload web.default.svc={WEB} \
         --workload db={DB} --tee simulated --platform-key platform.pub.pem --measurement {} \
         --workload-owner-key alice.pub.pem --seedshare-owner-key carol.pkcs1.pem",
        "5a".repeat(48)
    ));
    assert_eq!(again.stdout, text, "{again:?}");
}

#[test]
fn a_skeleton_names_what_to_fill_in_and_the_check_refuses_it_by_the_same_paths() {
    for (tee, paths) in [
        (
            "sev-snp --product Turin",
            [
                "ReferenceValues.snp[0].TrustedMeasurement",
                "ReferenceValues.snp[0].MinimumTCB.BootloaderVersion",
                "ReferenceValues.snp[0].MinimumTCB.TEEVersion",
                "ReferenceValues.snp[0].MinimumTCB.SNPVersion",
                "ReferenceValues.snp[0].MinimumTCB.MicrocodeVersion",
                "ReferenceValues.snp[0].MinimumTCB.FMCVersion",
                "SeedshareOwnerPubKeys[0]",
            ],
        ),
        (
            "tdx --measurement 1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a\
             1a1a1a1a1a1a1a1a1a1a1a1a1a1a",
            [
                "ReferenceValues.tdx[0].MrSeam",
                "ReferenceValues.tdx[0].Rtmrs[0]",
                "ReferenceValues.tdx[0].Rtmrs[1]",
                "ReferenceValues.tdx[0].Rtmrs[2]",
                "ReferenceValues.tdx[0].Rtmrs[3]",
                "ReferenceValues.tdx[0].Xfam",
                "SeedshareOwnerPubKeys[0]",
            ],
        ),
    ] {
        let bed = Bed::new();
        let new = bed.sealwire(&format!(
            "manifest new --coordinator-policy {COORDINATOR} --tee {tee} -o manifest.json"
        ));
        assert_eq!(new.code, 0, "{new:?}");
        let expected = format!(
            "wrote manifest.json\nleft to fill in:\n  {}\nnext: sealwire manifest check \
             manifest.json\n",
            paths.join("\n  ")
        );
        assert_eq!(new.stdout, expected);
        let check = bed.sealwire("manifest check manifest.json");
        assert_eq!(check.code, 2, "{check:?}");
        let expected = format!(
            "error: manifest.json is not a valid manifest, 7 errors:\n  {}\n",
            paths
                .map(|path| format!("{path}: field cannot be empty"))
                .join("\n  ")
        );
        assert_eq!(check.stderr, expected);
        assert_eq!(check.stdout, "");
    }
}

#[test]
fn without_a_file_the_manifest_goes_to_standard_output_and_the_rest_elsewhere() {
    let bed = Bed::with_keys();
    let new = bed.new_simulated("--seedshare-owner-key carol.pub.pem");
    assert_eq!(new.code, 0, "{new:?}");
    assert_eq!(new.stderr, "next: sealwire manifest check -\n");
    std::fs::write(bed.path("manifest.json"), &new.stdout).unwrap();
    let check = bed.sealwire_with_input("manifest check -", "manifest.json");
    assert_eq!(check.code, 0, "{check:?}");
    assert!(
        check.stdout.starts_with("standard input is valid\n"),
        "{check:?}"
    );
}

/// As a Coordinator would refuse it.
#[test]
fn a_manifest_that_nobody_could_recover_is_not_valid() {
    let bed = Bed::with_keys();
    let run = bed.new_simulated("--workload-owner-key alice.pub.pem -o manifest.json");
    assert_eq!(run.code, 0, "{run:?}");
    assert!(run.stdout.contains("SeedshareOwnerPubKeys[0]"), "{run:?}");
    let check = bed.sealwire("manifest check manifest.json");
    assert_eq!(check.code, 2, "{check:?}");
    assert!(
        check.stderr.contains("SeedshareOwnerPubKeys[0]"),
        "{check:?}"
    );

    let text = std::fs::read_to_string(bed.path("manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    manifest["SeedshareOwnerPubKeys"] = serde_json::json!([]);
    std::fs::write(bed.path("manifest.json"), manifest.to_string()).unwrap();
    let check = bed.sealwire("manifest check manifest.json");
    assert_eq!(check.code, 2, "{check:?}");
    let want = "SeedshareOwnerPubKeys: got a list of 0, want 1 to 16 keys";
    assert!(check.stderr.contains(want), "{check:?}");
}

#[test]
fn what_is_valid_and_may_not_be_meant_is_noted() {
    let bed = Bed::with_keys();
    bed.new_simulated("--seedshare-owner-key carol.pub.pem -o manifest.json");
    let check = bed.sealwire("manifest check manifest.json").stdout;
    assert!(
        check.contains("updates: never, there are no owners\n"),
        "{check}"
    );
    assert!(
        check.contains("note: once set, this manifest can never be changed\n"),
        "{check}"
    );

    let text = std::fs::read_to_string(bed.path("manifest.json")).unwrap();
    let owners = format!("\"WorkloadOwnerKeyDigests\": [\"{WEB}\", \"{DB}\"]");
    let text = text
        .replace("\"WorkloadOwnerKeyDigests\": []", &owners)
        .replace("\"UpdateQuorum\": 0", "\"UpdateQuorum\": 1")
        .replace("\"db\"", "\"db\", \"web.default.svc\"");
    std::fs::write(bed.path("manifest.json"), text).unwrap();
    let check = bed.sealwire("manifest check manifest.json").stdout;
    for note in [
        "note: each owner alone can change what is trusted; see UpdateQuorum\n",
        "note: the name web.default.svc belongs to spiffe://mesh.local/ns/default/sa/db, \
         spiffe://mesh.local/ns/default/sa/web\n",
    ] {
        assert!(check.contains(note), "{check}");
    }
}

#[test]
fn wrong_usage_of_new_is_explained_and_writes_nothing() {
    let bed = Bed::with_keys();
    let measurement = "5a".repeat(48);
    let policy = format!("--coordinator-policy {COORDINATOR}");
    let simulated =
        format!("{policy} --tee simulated --measurement {measurement} --platform-key platform.pem");
    for (arguments, says) in [
        ("--tee tdx".to_owned(), "--coordinator-policy"),
        (
            "--coordinator-policy abc --tee tdx".to_owned(),
            "64 hexadecimal digits",
        ),
        (policy.clone(), "--tee"),
        (
            format!("{policy} --tee sgx"),
            "expected sev-snp, tdx or simulated",
        ),
        (
            format!("{policy} --tee tdx --measurement 00"),
            "96 hexadecimal digits",
        ),
        (
            format!("{policy} --tee sev-snp --product Rome"),
            "Milan, Genoa or Turin",
        ),
        (
            format!("{policy} --tee tdx --product Milan"),
            "--product is for --tee sev-snp",
        ),
        (
            format!("{policy} --tee tdx --platform-key platform.pem"),
            "--platform-key is for --tee simulated",
        ),
        (
            format!("{policy} --tee simulated"),
            "needs --measurement and --platform-key",
        ),
        (
            format!("{policy} --tee tdx --workload web"),
            "expected NAME=HASH",
        ),
        (
            format!("{policy} --tee tdx --workload *.web={WEB}"),
            "wildcard",
        ),
        (
            format!("{policy} --tee tdx --trust-domain Mesh"),
            "a trust domain consists of",
        ),
        (
            format!("{policy} --tee tdx --workload web={WEB} --workload db={WEB}"),
            "the key twice",
        ),
        (
            format!("{simulated} --workload-owner-key alice.pub.pem --update-quorum 2"),
            "UpdateQuorum: got 2, want 1 to 1, the number of keys",
        ),
        (
            format!(
                "{simulated} --workload-owner-key alice.pub.pem --workload-owner-key alice.pub.pem"
            ),
            "WorkloadOwnerKeyDigests[1]: got the same as WorkloadOwnerKeyDigests[0]",
        ),
        (
            format!("{simulated} --workload-owner-key alice.pem"),
            "openssl pkey -in alice.pem -pubout",
        ),
        (
            format!("{simulated} --workload-owner-key carol.pub.pem"),
            "carol.pub.pem: expected an ECDSA public key on P-256 or P-384",
        ),
        (
            format!("{simulated} --seedshare-owner-key alice.pub.pem"),
            "alice.pub.pem: expected an RSA public key of 2048 to 8192 bits",
        ),
        (
            format!("{simulated} --seedshare-owner-key carol.pem"),
            "openssl pkey -in carol.pem -pubout",
        ),
        (
            format!("{simulated} --platform-key alice.pub.pem"),
            "alice.pub.pem: expected an ECDSA key on P-256",
        ),
        (
            format!("{simulated} --platform-key garbage"),
            "garbage is no key in PEM form",
        ),
    ] {
        let run = bed.sealwire(&format!("manifest new {arguments} -o out.json"));
        assert_eq!(run.code, 2, "{arguments}: {run:?}");
        assert!(run.stderr.contains(says), "{arguments}: {run:?}");
        assert!(!bed.path("out.json").exists(), "{arguments}");
    }
}

#[test]
fn a_file_that_exists_is_not_overwritten() {
    let bed = Bed::with_keys();
    std::fs::write(bed.path("manifest.json"), "mine").unwrap();
    let run = bed.new_simulated("-o manifest.json");
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.stderr
            .contains("cannot write manifest.json: File exists"),
        "{run:?}"
    );
    let text = std::fs::read_to_string(bed.path("manifest.json")).unwrap();
    assert_eq!(text, "mine");
}

#[test]
fn what_cannot_be_read_failed_and_what_is_no_manifest_is_wrong() {
    let bed = Bed::new();
    let run = bed.sealwire("manifest check nowhere.json");
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.stderr
            .contains("cannot read nowhere.json: No such file"),
        "{run:?}"
    );

    std::fs::write(bed.path("text"), "hello").unwrap();
    let run = bed.sealwire("manifest check text");
    assert_eq!(run.code, 2, "{run:?}");
    assert_eq!(
        run.stderr,
        "error: text is not a valid manifest, 1 error:\n  manifest: got expected value at line 1 \
         column 1, want JSON\n"
    );

    // Sparse: it takes no room on the disk, and must take none in memory.
    let huge = File::create(bed.path("huge")).unwrap();
    huge.set_len(1 << 40).unwrap();
    let run = bed.sealwire("manifest check huge");
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("want at most 1048576 bytes"), "{run:?}");
}

#[test]
fn the_difference_is_told_in_words_and_in_json() {
    let bed = Bed::with_keys();
    bed.new_simulated(
        "--workload-owner-key alice.pub.pem --seedshare-owner-key carol.pub.pem -o old.json",
    );
    let old = std::fs::read_to_string(bed.path("old.json")).unwrap();
    let new = old
        .replace("\"24h\"", "\"1h\"")
        .replace("\"db\"", "\"db\", \"db.default.svc\"");
    std::fs::write(bed.path("new.json"), new).unwrap();
    let hash = |file| {
        let sum = bed.run("sha256sum", file).stdout;
        sum.split_whitespace().next().unwrap().to_owned()
    };
    let (old_hash, new_hash) = (hash("old.json"), hash("new.json"));

    let run = bed.sealwire("manifest diff old.json new.json");
    assert_eq!(run.code, 0, "{run:?}");
    assert_eq!(
        run.stdout,
        format!(
            "manifest {old_hash} -> {new_hash}\n  \
             policy {DB} (spiffe://mesh.local/ns/default/sa/db): name db.default.svc added: its next \
             certificate has it\n  \
             certificate lifetime 24h -> 1h: holds for every certificate from now on\n"
        )
    );

    let run = bed.sealwire("manifest diff --json old.json new.json");
    assert_eq!(run.code, 0, "{run:?}");
    let json: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(json["old"], old_hash);
    assert_eq!(json["new"], new_hash);
    assert_eq!(json["changes"][0]["kind"], "name-added");
    assert_eq!(json["changes"][0]["subject"], DB);
    assert_eq!(json["changes"][1]["kind"], "certificate-lifetime");
    assert_eq!(json["changes"].as_array().unwrap().len(), 2);
}

#[test]
fn no_difference_is_told_from_none_in_meaning() {
    let bed = Bed::with_keys();
    bed.new_simulated("--seedshare-owner-key carol.pub.pem -o old.json");
    let old = std::fs::read_to_string(bed.path("old.json")).unwrap();
    std::fs::write(bed.path("new.json"), old.replace("  ", " ")).unwrap();
    let run = bed.sealwire("manifest diff old.json new.json");
    assert!(
        run.stdout
            .contains("no change in meaning; but the bytes differ"),
        "{run:?}"
    );
    let run = bed.sealwire("manifest diff old.json old.json");
    assert!(
        run.stdout.contains("no change: both are the same"),
        "{run:?}"
    );
    let run = bed.sealwire("manifest diff --json old.json new.json");
    assert!(run.stdout.contains("\"changes\": []"), "{run:?}");

    std::fs::write(bed.path("bad.json"), "{}").unwrap();
    let run = bed.sealwire("manifest diff old.json bad.json");
    assert_eq!(run.code, 2, "{run:?}");
    assert!(
        run.stderr.contains("bad.json is not a valid manifest"),
        "{run:?}"
    );
}

/// An empty directory to run the binary in.
struct Bed(TempDir);

#[derive(Debug)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Bed {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Alice and Bob own workloads (P-384), Carol and Dave hold shares (RSA); a platform has a key.
    fn with_keys() -> Self {
        let bed = Self::new();
        std::fs::write(bed.path("garbage"), "no key").unwrap();
        for (name, algorithm) in [
            ("platform", "EC -pkeyopt ec_paramgen_curve:P-256"),
            ("alice", "EC -pkeyopt ec_paramgen_curve:P-384"),
            ("bob", "EC -pkeyopt ec_paramgen_curve:P-256"),
            ("carol", "RSA -pkeyopt rsa_keygen_bits:2048"),
            ("dave", "RSA -pkeyopt rsa_keygen_bits:2048"),
        ] {
            bed.openssl(&format!("genpkey -algorithm {algorithm} -out {name}.pem"));
            bed.openssl(&format!("pkey -in {name}.pem -pubout -out {name}.pub.pem"));
        }
        std::fs::remove_file(bed.path("platform.pub.pem")).unwrap();
        bed
    }

    fn new_simulated(&self, arguments: &str) -> Run {
        self.sealwire(&format!(
            "manifest new --coordinator-policy {COORDINATOR} --workload web.default.svc={WEB} \
             --workload db={DB} --tee simulated --platform-key platform.pem --measurement {} \
             {arguments}",
            "5a".repeat(48)
        ))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sealwire(&self, arguments: &str) -> Run {
        self.run(env!("CARGO_BIN_EXE_sealwire"), arguments)
    }

    fn sealwire_with_input(&self, arguments: &str, file: &str) -> Run {
        let input = File::open(self.path(file)).unwrap();
        self.run_with(env!("CARGO_BIN_EXE_sealwire"), arguments, input.into())
    }

    fn openssl(&self, arguments: &str) {
        let run = self.run("openssl", arguments);
        assert_eq!(run.code, 0, "{run:?}");
    }

    fn run(&self, program: &str, arguments: &str) -> Run {
        self.run_with(program, arguments, Stdio::null())
    }

    fn run_with(&self, program: &str, arguments: &str, input: Stdio) -> Run {
        let output = Command::new(program)
            .args(arguments.split_whitespace())
            .current_dir(self.0.path())
            .stdin(input)
            .output()
            .unwrap();
        Run {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}
