use std::fs;
use std::path::Path;

use crate::directory::Directory;
use crate::{assert_authorises, skip};

/// Where distributions put the module.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];

/// `AlgorithmIdentifier` and all else before the point, for each curve.
const CURVES: [(&str, &str); 2] = [
    (
        "EC:prime256v1",
        "3059301306072a8648ce3d020106082a8648ce3d030107034200",
    ),
    (
        "EC:secp384r1",
        "3076301006072a8648ce3d020106052b81040022036200",
    ),
];

/// `SoftHSM` 2.6 signs digests alone (`CKM_ECDSA`), so that `openssl` makes the digest.
#[test]
fn signatures_of_a_key_that_never_leaves_its_token_are_accepted() {
    let Some(module) = module() else {
        return;
    };
    for (curve, prefix) in CURVES {
        for hash in ["-sha256", "-sha384"] {
            let token = Token::new(module);
            let key = hex::decode(format!("{prefix}{}", token.generate(curve))).unwrap();
            token.0.run(
                "openssl",
                &["dgst", hash, "-binary", "-out", "digest", "statement"],
            );
            token.pkcs11(&[
                "--sign",
                "--mechanism",
                "ECDSA",
                "--id",
                "01",
                "--signature-format",
                "openssl",
                "--input-file",
                "digest",
                "--output-file",
                "signature",
            ]);
            assert_authorises(key, token.0.read("signature"));
        }
    }
}

fn module() -> Option<&'static str> {
    let module = MODULES.into_iter().find(|path| Path::new(path).exists());
    let missing = ["softhsm2-util", "pkcs11-tool", "openssl"]
        .into_iter()
        .find(|program| !skip::is_installed(program))
        .or_else(|| module.is_none().then_some("libsofthsm2.so"));
    if let Some(missing) = missing {
        skip::report(&format!("{missing} is not installed"));
        return None;
    }
    module
}

/// An initialised token in a directory of its own.
struct Token(Directory, &'static str);

impl Token {
    fn new(module: &'static str) -> Self {
        let directory = Directory::new();
        let tokens = directory.path("tokens");
        fs::create_dir(&tokens).unwrap();
        let configuration =
            format!("directories.tokendir = {tokens}\nobjectstore.backend = file\n");
        fs::write(directory.path("softhsm2.conf"), configuration).unwrap();
        directory.run(
            "softhsm2-util",
            &[
                "--init-token",
                "--free",
                "--label",
                "owner",
                "--so-pin",
                "1234",
                "--pin",
                "1234",
            ],
        );
        Self(directory, module)
    }

    fn pkcs11(&self, arguments: &[&str]) -> String {
        let session = ["--module", self.1, "--login", "--pin", "1234"];
        self.0.run("pkcs11-tool", &[&session, arguments].concat())
    }

    /// Makes a key pair and gives the public point in hexadecimal, uncompressed.
    fn generate(&self, curve: &str) -> String {
        let output = self.pkcs11(&[
            "--keypairgen",
            "--key-type",
            curve,
            "--id",
            "01",
            "--label",
            "owner",
        ]);
        assert!(output.contains("never extractable"), "{output}");
        let point = output
            .lines()
            .find_map(|line| line.trim().strip_prefix("EC_POINT:"))
            .expect("pkcs11-tool prints the public point");
        // The point is printed as an OCTET STRING, whose tag and length are two bytes.
        point.trim()[4..].to_owned()
    }
}
