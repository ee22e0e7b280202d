//! A head as it is stored: text, so that a person with the store's own tools can read it.
//!
//! `1 <seq> <transition> <check>`, where 1 is the version of the format and the check is the
//! first eight bytes of the SHA-256 hash of what precedes it. It finds damage, not malice.

use attestation::Digest;

use super::StoredHead;
use super::error::{Found, Object, StoreError};

pub(super) fn encode(head: &StoredHead) -> String {
    let text = format!("1 {} {}", head.seq, head.transition);
    let check = hex::encode(&Digest::of(text.as_bytes()).0[..8]);
    format!("{text} {check}")
}

/// Reads what [`encode`] wrote, and nothing else; `object` is where it was found.
pub(super) fn decode(bytes: &[u8], object: Object) -> Result<StoredHead, StoreError> {
    parse(bytes)
        .filter(|head| encode(head).as_bytes() == bytes)
        .ok_or_else(|| StoreError::Corrupt {
            object,
            got: Found::no_head(bytes),
        })
}

fn parse(bytes: &[u8]) -> Option<StoredHead> {
    let text = str::from_utf8(bytes).ok()?;
    let mut fields = text.split(' ').skip(1);
    Some(StoredHead {
        seq: fields.next()?.parse().ok()?,
        transition: Digest::from_hex(fields.next()?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> StoredHead {
        StoredHead {
            seq: 41,
            transition: Digest::of(b"a transition"),
        }
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let read = decode(encode(&head()).as_bytes(), Object::Head).unwrap();
        assert_eq!(read, head());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let written = encode(&head()).into_bytes();
        for bit in 0..written.len() * 8 {
            let mut damaged = written.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(
                matches!(
                    decode(&damaged, Object::Head),
                    Err(StoreError::Corrupt { .. })
                ),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn every_other_length_is_found() {
        let mut written = encode(&head()).into_bytes();
        written.push(b' ');
        for length in 0..written.len() {
            if length != written.len() - 1 {
                assert!(
                    decode(&written[..length], Object::Head).is_err(),
                    "{length}"
                );
            }
        }
        assert!(decode(&written, Object::Head).is_err());
    }

    #[test]
    fn a_number_in_another_form_is_found() {
        let text = format!("1 +41 {}", head().transition);
        let check = hex::encode(&Digest::of(text.as_bytes()).0[..8]);
        assert!(decode(format!("{text} {check}").as_bytes(), Object::Head).is_err());
    }
}
