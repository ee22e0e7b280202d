//! `CertTable::parse`: any bytes, as the host gives them. Each certificate that is found lies in the
//! table, and is found again in a table of nothing else.
#![no_main]

use attester::CertTable;
use fuzz::{Outcome, start, vector};
use libfuzzer_sys::fuzz_target;

/// 63da758d-e664-4564-adc5-f4b93be8accd
const VCEK: [u8; 16] = *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
/// a8074bc2-a25a-483e-aae6-39c045a0b8a1
const VLEK: [u8; 16] = *b"\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1";
/// 92f81bc3-5811-4d3d-97ff-d19f88dc67ea
const CRL: [u8; 16] = *b"\x92\xf8\x1b\xc3\x58\x11\x4d\x3d\x97\xff\xd1\x9f\x88\xdc\x67\xea";
/// c0b406a4-a803-4952-9743-3fb6014cd0ae
const ARK: [u8; 16] = *b"\xc0\xb4\x06\xa4\xa8\x03\x49\x52\x97\x43\x3f\xb6\x01\x4c\xd0\xae";

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    let vcek = vector("snp/sev-crate/vcek_milan.der");
    vec![
        vec![],
        table(&[]),
        table(&[(VCEK, &vcek)]),
        table(&[
            (ARK, b"ark"),
            (VCEK, b"vcek"),
            (VLEK, b"vlek"),
            (CRL, b"crl"),
        ]),
    ]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let parsed = CertTable::parse(bytes);
    match &parsed {
        Ok(found) => {
            let CertTable { vcek, vlek, crl } = found;
            let entries: Vec<_> = [(VCEK, vcek), (VLEK, vlek), (CRL, crl)]
                .into_iter()
                .filter_map(|(guid, contents)| Some((guid, contents.as_deref()?)))
                .collect();
            for (_, contents) in &entries {
                assert!(!contents.is_empty());
                assert!(bytes.windows(contents.len()).any(|it| it == *contents));
            }
            assert_eq!(CertTable::parse(&table(&entries)).as_ref(), Ok(found));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Outcome::of(&parsed)
}

/// Entries of GUID, offset and length, ended by one of zeros, and what they point to.
fn table(entries: &[([u8; 16], &[u8])]) -> Vec<u8> {
    let mut head = Vec::new();
    let mut body = Vec::new();
    let start = (entries.len() + 1) * 24;
    for (guid, contents) in entries {
        head.extend_from_slice(guid);
        head.extend_from_slice(&((start + body.len()) as u32).to_le_bytes());
        head.extend_from_slice(&(contents.len() as u32).to_le_bytes());
        body.extend_from_slice(contents);
    }
    head.extend_from_slice(&[0; 24]);
    [head, body].concat()
}
