//! Just enough DER to make certificates and lists that AMD does not.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const UTF8_STRING: u8 = 0x0c;
pub(crate) const IA5_STRING: u8 = 0x16;
pub(crate) const SEQUENCE: u8 = 0x30;

/// One value of `tag`, of the concatenated `parts`.
pub(crate) fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let header = match length {
        [0, short @ 0..=0x7f] => vec![tag, short],
        [0, long] => vec![tag, 0x81, long],
        [high, low] => vec![tag, 0x82, high, low],
    };
    [header, content].concat()
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    value(SEQUENCE, parts)
}

pub(crate) fn bit_string(bytes: &[u8]) -> Vec<u8> {
    value(BIT_STRING, &[&[0], bytes])
}

/// A small integer, in as few bytes as it takes.
pub(crate) fn integer(number: u8) -> Vec<u8> {
    let zero: &[u8] = if number < 0x80 { &[] } else { &[0] };
    value(INTEGER, &[zero, &[number]])
}

/// A name of nothing but a common name.
pub(crate) fn name(common_name: &str) -> Vec<u8> {
    const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];
    let attribute = sequence(&[COMMON_NAME, &value(UTF8_STRING, &[common_name.as_bytes()])]);
    sequence(&[&value(0x31, &[&attribute])])
}

/// An extension; `oid` is the content of the OBJECT IDENTIFIER.
pub(crate) fn extension(oid: &[u8], critical: bool, content: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[0x01, 0x01, 0xff] } else { &[] };
    sequence(&[
        &value(0x06, &[oid]),
        critical,
        &value(OCTET_STRING, &[content]),
    ])
}

/// `date` as `YYMMDDHHMMSSZ`.
pub(crate) fn utc_time(date: &str) -> Vec<u8> {
    value(0x17, &[date.as_bytes()])
}
