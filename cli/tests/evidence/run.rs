use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs `sealwire evidence` in the directory of the vectors.
pub(crate) fn evidence(arguments: &str) -> Run {
    evidence_to(Stdio::piped(), arguments)
}

/// The same with standard output elsewhere.
pub(crate) fn evidence_to(stdout: impl Into<Stdio>, arguments: &str) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_sealwire"))
        .arg("evidence")
        .args(arguments.split_whitespace())
        .current_dir(vectors())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let run = Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    };
    assert!(!run.stdout.contains('\x1b') && !run.stderr.contains('\x1b'));
    run
}

/// What `sealwire evidence verify --json` says when it accepts.
#[track_caller]
pub(crate) fn accepted(arguments: &str) -> Value {
    let (code, answer) = verdict(arguments);
    assert_eq!(code, 0, "{answer:#}");
    assert_eq!(answer["ok"], true);
    answer
}

/// What it says when it refuses: at the top the first objection, and below it all.
#[track_caller]
pub(crate) fn refused(arguments: &str) -> Value {
    let (code, answer) = verdict(arguments);
    assert_eq!(code, 1, "{answer:#}");
    assert_eq!(answer["ok"], false);
    for key in ["code", "class", "field", "got", "want", "hint"] {
        assert!(
            answer[key].as_str().is_some_and(|it| !it.is_empty()),
            "{answer:#}"
        );
        assert_eq!(answer[key], answer["refusals"][0][key]);
    }
    answer
}

/// The code and the field of the first objection.
#[track_caller]
pub(crate) fn refusal(arguments: &str) -> (String, String) {
    let answer = refused(arguments);
    let text = |key: &str| answer[key].as_str().unwrap().to_owned();
    (text("code"), text("field"))
}

/// One JSON object and nothing else is on standard output; the text for people agrees with it.
#[track_caller]
fn verdict(arguments: &str) -> (i32, Value) {
    let json = evidence(&format!("verify {arguments} --json"));
    assert_eq!(json.stderr, "", "{arguments}");
    let answer: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(answer.is_object());
    let text = evidence(&format!("verify {arguments}"));
    assert_eq!((text.code, text.stderr.as_str()), (json.code, ""));
    if json.code == 0 {
        assert!(text.stdout.starts_with("accepted\n"), "{text:?}");
    } else {
        assert!(text.stdout.starts_with("refused\n"), "{text:?}");
        for key in ["code", "field", "got", "want", "hint"] {
            let value = answer[key].as_str().unwrap();
            assert!(text.stdout.contains(value), "{text:?}");
        }
    }
    (json.code, answer)
}

pub(crate) fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../attestation/tests/vectors")
}

pub(crate) fn vector(name: &str) -> Vec<u8> {
    std::fs::read(vectors().join(name)).unwrap()
}

/// A file with these bytes, for as long as the value lives.
pub(crate) struct Temporary(tempfile::NamedTempFile);

impl Temporary {
    pub(crate) fn new(contents: impl AsRef<[u8]>) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), contents).unwrap();
        Self(file)
    }
}

impl std::fmt::Display for Temporary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.path().display().fmt(f)
    }
}
