//! An owner's key that never leaves its token signs what `sealwire sign --prepare` writes.

use std::path::Path;

use crate::bed::Bed;
use crate::skip;

/// Where distributions put the module.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];

/// `SubjectPublicKeyInfo` before the point, on P-384.
const SPKI_START: &str = "3076301006072a8648ce3d020106052b81040022036200";

#[test]
fn a_hardware_module_signs_what_sign_prepares() {
    let Some(module) = module() else { return };
    let bed = Bed::with_coordinator();
    let tokens = bed.path("tokens");
    std::fs::create_dir(&tokens).unwrap();
    let configuration = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\n",
        tokens.display()
    );
    std::fs::write(bed.path("softhsm2.conf"), configuration).unwrap();
    bed.run(
        "softhsm2-util",
        "--init-token --free --label owner --so-pin 1234 --pin 1234",
    )
    .ok();
    let pkcs11 = |arguments: &str| {
        bed.run(
            "pkcs11-tool",
            &format!("--module {module} --login --pin 1234 {arguments}"),
        )
        .ok()
    };
    let pair = pkcs11("--keypairgen --key-type EC:secp384r1 --id 01 --label owner").stdout;
    assert!(pair.contains("never extractable"), "{pair}");
    // The point is an OCTET STRING, whose tag and length are two bytes.
    let point = pair
        .lines()
        .find_map(|it| it.trim().strip_prefix("EC_POINT:"))
        .unwrap();
    let key = hex::decode(format!("{SPKI_START}{}", &point.trim()[4..])).unwrap();
    std::fs::write(bed.path("owner.der"), &key).unwrap();
    bed.openssl("pkey -pubin -inform DER -in owner.der -out owner.pub.pem");

    let mut manifest = bed.manifest();
    manifest["WorkloadOwnerKeyDigests"] = serde_json::json!([bed.digest_of("owner.der")]);
    manifest["UpdateQuorum"] = 1.into();
    bed.write_manifest("manifest.json", &manifest);
    bed.ask("set", "").ok();

    manifest["CertificateLifetime"] = "2h".into();
    bed.write_manifest("manifest.json", &manifest);
    let head = bed.head();
    bed.sealwire(&format!("sign --previous {head} --prepare -o statement"))
        .ok();
    // SoftHSM signs digests alone (CKM_ECDSA), so that openssl makes the digest.
    bed.openssl("dgst -sha384 -binary -out digest statement");
    pkcs11(
        "--sign --mechanism ECDSA --id 01 --signature-format openssl --input-file digest \
         --output-file owner.sig",
    );
    bed.ask("set", "--signature owner.sig --signer owner.pub.pem")
        .ok();
    assert_eq!(bed.status()["seq"], 2);
}

fn module() -> Option<&'static str> {
    let module = MODULES.into_iter().find(|path| Path::new(path).exists());
    let missing = ["softhsm2-util", "pkcs11-tool"]
        .into_iter()
        .find(|program| !skip::is_installed(program))
        .or_else(|| module.is_none().then_some("libsofthsm2.so"));
    if let Some(missing) = missing {
        skip::report(&format!("{missing} is not installed"));
        return None;
    }
    module
}
