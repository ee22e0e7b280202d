//! What resolvers answer a workload's programs, overheard: whatever can be read names addresses within
//! bounds, and names that can't pose as others.
#![no_main]

use std::time::Duration;

use agent::OverheardAnswer;
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

/// An address of IPv4, one of IPv6, and one behind an alias.
fn seeds() -> Vec<Vec<u8>> {
    let header = |answers| [&[0, 7, 0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0][..], NAME].concat();
    let v4 = [
        &[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4][..],
        &[10, 0, 0, 1],
    ]
    .concat();
    let v6 = [
        &[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16][..],
        &[0xfd; 16],
    ]
    .concat();
    let alias = [
        &[0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 4][..],
        b"\x01b\xc0\x0e",
    ]
    .concat();
    let target = [
        &[1, b'b', 0xc0, 14, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4][..],
        &[10, 0, 0, 2],
    ]
    .concat();
    vec![
        [header(1), v4].concat(),
        [header(1), v6].concat(),
        [header(2), alias, target].concat(),
    ]
}

fn attempt(bytes: &[u8]) -> Outcome {
    let Ok(Some(answer)) = OverheardAnswer::read(bytes) else {
        return Outcome::Refused;
    };
    // Twelve bytes of header; an address takes sixteen.
    assert!((1..=bytes.len() / 16).contains(&answer.addresses.len()));
    assert!(answer.aliases.len() <= 16);
    assert!(answer.life <= Duration::from_hours(24));
    let names = answer.aliases.iter().chain([&answer.name]);
    for name in names {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'*' && byte != b'/';
        assert!(name.as_str().bytes().all(is_plain), "{name}");
        assert!(!name.as_str().bytes().any(|byte| byte.is_ascii_uppercase()));
    }
    Outcome::Accepted
}

/// `a.org`, asked for its address.
const NAME: &[u8] = b"\x01a\x03org\x00\x00\x01\x00\x01";
