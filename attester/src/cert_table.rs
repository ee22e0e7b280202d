use thiserror::Error;

/// The certificates that the host of an SEV-SNP guest gives along with a report (GHCB
/// specification 2.03, section 4.1.8.1). The host is not trusted: neither are they.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertTable {
    /// The VCEK's certificate, DER.
    pub vcek: Option<Vec<u8>>,
    /// The VLEK's certificate, DER.
    pub vlek: Option<Vec<u8>>,
    /// AMD's certificate revocation list, DER.
    pub crl: Option<Vec<u8>>,
}

impl CertTable {
    /// Reads a table: entries of GUID, offset and length (little endian), ended by an entry of
    /// zeros, and what they point to. Entries of other kinds are passed over; no bytes at all are an
    /// empty table.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertTableError> {
        let mut table = Self::default();
        let mut rest = bytes;
        for index in 0.. {
            if bytes.is_empty() {
                break;
            }
            let Some((entry, tail)) = rest.split_first_chunk::<ENTRY_BYTES>() else {
                return Err(CertTableError::NoEnd);
            };
            rest = tail;
            let (guid, place) = entry.split_at(16);
            if guid == [0; 16] {
                break;
            }
            let slot = match guid {
                VCEK => &mut table.vcek,
                VLEK => &mut table.vlek,
                CRL => &mut table.crl,
                _ => continue,
            };
            let contents = contents(bytes, place).ok_or(CertTableError::OutOfBounds { index })?;
            if slot.replace(contents.to_vec()).is_some() {
                return Err(CertTableError::Twice { index });
            }
        }
        Ok(table)
    }
}

fn contents<'a>(bytes: &'a [u8], place: &[u8]) -> Option<&'a [u8]> {
    let (offset, length) = place.split_first_chunk::<4>()?;
    let offset = u32::from_le_bytes(*offset) as usize;
    let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
    let contents = bytes.get(offset..offset.checked_add(length)?)?;
    (!contents.is_empty()).then_some(contents)
}

/// What is wrong with a table of certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CertTableError {
    /// The entry of zeros is missing.
    #[error("it has no end")]
    NoEnd,
    /// An entry points outside the table, or to nothing.
    #[error("entry {index} points outside of it, or to nothing")]
    OutOfBounds {
        /// Which entry, from 0.
        index: usize,
    },
    /// A kind of certificate that was there already.
    #[error("entry {index} is of a kind that was there before")]
    Twice {
        /// Which entry, from 0.
        index: usize,
    },
}

const ENTRY_BYTES: usize = 24;
/// 63da758d-e664-4564-adc5-f4b93be8accd
const VCEK: &[u8] = b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd";
/// a8074bc2-a25a-483e-aae6-39c045a0b8a1
const VLEK: &[u8] = b"\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1";
/// 92f81bc3-5811-4d3d-97ff-d19f88dc67ea
const CRL: &[u8] = b"\x92\xf8\x1b\xc3\x58\x11\x4d\x3d\x97\xff\xd1\x9f\x88\xdc\x67\xea";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn table_with_vcek(vcek: &[u8]) -> Vec<u8> {
        table(&[(VCEK, vcek)])
    }

    pub(crate) fn table_with_vcek_and_vlek(chip: &[u8], leased: &[u8]) -> Vec<u8> {
        table(&[(VCEK, chip), (VLEK, leased)])
    }

    fn table(entries: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut head = Vec::new();
        let mut body = Vec::new();
        let start = (entries.len() + 1) * ENTRY_BYTES;
        for (guid, contents) in entries {
            head.extend_from_slice(guid);
            head.extend_from_slice(&((start + body.len()) as u32).to_le_bytes());
            head.extend_from_slice(&(contents.len() as u32).to_le_bytes());
            body.extend_from_slice(contents);
        }
        head.extend_from_slice(&[0; ENTRY_BYTES]);
        [head, body].concat()
    }

    const ARK: &[u8] = b"\xc0\xb4\x06\xa4\xa8\x03\x49\x52\x97\x43\x3f\xb6\x01\x4c\xd0\xae";

    #[test]
    fn the_certificates_are_found_among_others() {
        let bytes = table(&[
            (ARK, b"ark"),
            (VCEK, b"vcek"),
            (VLEK, b"vlek"),
            (CRL, b"crl"),
        ]);
        let table = CertTable::parse(&bytes).unwrap();
        assert_eq!(table.vcek.as_deref(), Some(&b"vcek"[..]));
        assert_eq!(table.vlek.as_deref(), Some(&b"vlek"[..]));
        assert_eq!(table.crl.as_deref(), Some(&b"crl"[..]));
    }

    #[test]
    fn nothing_and_an_empty_table_are_no_certificates() {
        let none = CertTable::default();
        assert_eq!(CertTable::parse(&[]).unwrap(), none);
        assert_eq!(CertTable::parse(&table(&[])).unwrap(), none);
    }

    #[test]
    fn a_table_without_an_end_is_refused() {
        let whole = table(&[(VCEK, b"vcek")]);
        for length in 1..2 * ENTRY_BYTES {
            let error = CertTable::parse(&whole[..length]).unwrap_err();
            assert!(
                matches!(
                    error,
                    CertTableError::NoEnd | CertTableError::OutOfBounds { .. }
                ),
                "{length}: {error}"
            );
        }
    }

    #[test]
    fn an_entry_that_points_outside_is_refused() {
        let outside = Err(CertTableError::OutOfBounds { index: 0 });
        for (offset, length) in [
            (48, 5),
            (52, 1),
            (0, u32::MAX),
            (u32::MAX, u32::MAX),
            (48, 0),
        ] {
            let mut bytes = table(&[(VCEK, b"vcek")]);
            bytes[16..20].copy_from_slice(&u32::to_le_bytes(offset));
            bytes[20..24].copy_from_slice(&u32::to_le_bytes(length));
            assert_eq!(CertTable::parse(&bytes), outside, "{offset} {length}");
        }
    }

    #[test]
    fn a_kind_that_comes_twice_is_refused() {
        let bytes = table(&[(VCEK, b"one"), (VCEK, b"two")]);
        assert_eq!(
            CertTable::parse(&bytes),
            Err(CertTableError::Twice { index: 1 })
        );
    }
}
