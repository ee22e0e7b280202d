use super::*;
use crate::content::NEW_SESSION_TICKET;

#[test]
fn every_cipher_opens_what_it_sealed() {
    // rustls alone makes 16-byte keys: AES-128 is covered by the relay's tests.
    for secrets in [
        |key, iv| ConnectionTrafficSecrets::Aes256Gcm { key, iv },
        |key, iv| ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
    ] {
        let secrets: ConnectionTrafficSecrets = secrets([7; 32].into(), [9; 12].into());
        let mut sealer = Sealer::new(5, &secrets, 100).unwrap();
        let mut opener = Opener::new(5, &secrets, Role::Client).unwrap();
        for len in [1, MAX_PLAINTEXT_LEN] {
            let mut record = vec![b'x'; len + OVERHEAD];
            assert_eq!(
                sealer.seal(&mut record, ContentType::Data, len),
                Ok(record.len())
            );
            assert_eq!(record_len(&record), Ok(Some(record.len())));
            let range = HEADER_LEN..HEADER_LEN + len;
            assert_eq!(opener.open(&mut record), Ok(Opened::Data(range.clone())));
            assert!(record[range].iter().all(|&byte| byte == b'x'));
        }
    }
}

#[test]
fn records_out_of_order_are_refused() {
    let (mut sealer, mut opener) = pair(Role::Client);
    let _first = seal(&mut sealer, ContentType::Data, b"1");
    let mut second = seal(&mut sealer, ContentType::Data, b"2");
    assert_eq!(opener.open(&mut second), Err(RecordError::Undecryptable));
}

#[test]
fn handshake_messages_may_share_records_and_span_them() {
    let (mut sealer, mut opener) = pair(Role::Client);
    let ticket = [NEW_SESSION_TICKET, 0, 0, 3, 1, 2, 3];
    let messages = [&ticket[..], &ticket, &KEY_UPDATE_MESSAGE].concat();
    let mut results = Vec::new();
    for part in messages.chunks(6) {
        let mut record = seal(&mut sealer, ContentType::Handshake, part);
        results.push(opener.open(&mut record).unwrap());
    }
    let key_update = Opened::KeyUpdate { requested: false };
    assert_eq!(
        results,
        [
            Opened::Nothing,
            Opened::Nothing,
            Opened::Nothing,
            key_update
        ]
    );
    assert_eq!(opener.rules.held_capacity(), 0);
}

#[test]
fn what_breaks_the_protocol_is_refused_by_name() {
    use ContentType::{Alert, Data, Handshake, Padding};
    use RecordError as E;
    let one = |content_type, content: &'static [u8]| vec![(content_type, content)];
    let many = |content_type, content: &'static [u8]| vec![(content_type, content); 33];
    let ticket = &[NEW_SESSION_TICKET, 0, 0, 0];
    for (records, error) in [
        (one(Handshake, b""), E::Empty),
        (one(Alert, b""), E::Empty),
        (one(Alert, &[1]), E::Malformed),
        (one(Padding, &[0; 10]), E::NoContentType),
        (one(Padding, &[1, 20]), E::UnexpectedContentType(20)),
        (one(Handshake, &[1, 0, 0, 0]), E::UnexpectedHandshake(1)),
        (one(Handshake, ticket), E::UnexpectedHandshake(4)),
        (
            one(Handshake, &[KEY_UPDATE, 1, 0, 1]),
            E::HandshakeTooLong(0x1_0001),
        ),
        (one(Handshake, &[KEY_UPDATE, 0, 0, 1, 2]), E::Malformed),
        (one(Handshake, &[KEY_UPDATE, 0, 0, 0]), E::Malformed),
        (
            one(Handshake, &[KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE]),
            E::BehindKeyUpdate,
        ),
        (
            [one(Handshake, &[KEY_UPDATE, 0]), one(Data, b"x")].concat(),
            E::Interleaved,
        ),
        (many(Data, b""), E::Flood),
        (many(Handshake, &KEY_UPDATE_MESSAGE), E::Flood),
        (many(Alert, &[1, 90]), E::Flood),
    ] {
        let (mut sealer, mut opener) = pair(Role::Server);
        let mut result = Ok(Opened::Nothing);
        for (content_type, content) in records {
            assert!(result.is_ok(), "{error} too early: {result:?}");
            result = opener.open(&mut seal(&mut sealer, content_type, content));
        }
        assert_eq!(result, Err(error));
    }
}

#[test]
fn plaintext_longer_than_a_record_may_carry_is_refused() {
    let (mut sealer, mut opener) = pair(Role::Server);
    for (len, expected) in [
        (
            MAX_PLAINTEXT_LEN,
            Ok(Opened::Data(HEADER_LEN..HEADER_LEN + MAX_PLAINTEXT_LEN)),
        ),
        (MAX_PLAINTEXT_LEN + 1, Err(RecordError::TooLong)),
    ] {
        let mut record = seal(&mut sealer, ContentType::Data, &vec![1; len]);
        assert_eq!(opener.open(&mut record), expected);
    }
}

#[test]
fn empty_records_between_data_are_no_flood() {
    let (mut sealer, mut opener) = pair(Role::Server);
    for _ in 0..100 {
        for content in [&b""[..], b"x"] {
            opener
                .open(&mut seal(&mut sealer, ContentType::Data, content))
                .unwrap();
        }
    }
}

#[test]
fn alerts_are_told_apart() {
    let (mut sealer, mut opener) = pair(Role::Server);
    for (description, expected) in [
        (Alert::USER_CANCELED, Opened::Nothing),
        (Alert::CLOSE_NOTIFY, Opened::CloseNotify),
        (Alert(40), Opened::FatalAlert(Alert(40))),
    ] {
        // The level is ignored.
        let mut record = seal(&mut sealer, ContentType::Alert, &[1, description.0]);
        assert_eq!(opener.open(&mut record), Ok(expected));
    }
}

#[test]
fn a_slot_that_is_too_short_is_no_panic() {
    let (mut sealer, _) = pair(Role::Client);
    assert_eq!(
        sealer.seal(&mut [0; 30], ContentType::Data, 9),
        Err(RecordError::Internal)
    );
}

fn pair(role: Role) -> (Sealer, Opener) {
    let secrets = ConnectionTrafficSecrets::Aes256Gcm {
        key: [7; 32].into(),
        iv: [9; 12].into(),
    };
    (
        Sealer::new(0, &secrets, 1 << 24).unwrap(),
        Opener::new(0, &secrets, role).unwrap(),
    )
}

fn seal(sealer: &mut Sealer, content_type: ContentType, content: &[u8]) -> Vec<u8> {
    let mut record = vec![0; content.len() + OVERHEAD];
    record[HEADER_LEN..HEADER_LEN + content.len()].copy_from_slice(content);
    sealer
        .seal(&mut record, content_type, content.len())
        .unwrap();
    record
}
