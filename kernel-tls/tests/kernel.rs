//! What the kernel does with keys, records and its own rules. Each test states one fact that the
//! agent relies on, or one trap that it walks around.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(unsafe_code, reason = "bpf(2), to try what the crate refuses")]

mod common;

use std::io::{self, ErrorKind, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::thread;
use std::time::{Duration, Instant};

use common::{
    ALERT, CLOSE_NOTIFY, DATA, HANDSHAKE, KEY_UPDATE, Records, key, noise, pair, receive, receiver,
    require_kernel_tls, sender,
};
use kernel_tls::{
    Capabilities, Cipher, Drained, KernelVersion, MAX_RECORD_DATA, Pipe, Received, RecordType, Ulp,
};
use nix::errno::Errno;
use socket2::SockRef;

#[test]
fn the_probe_finds_what_the_table_says() {
    let found = Capabilities::probe();
    let version = found.version.unwrap();
    let is = |ability: &kernel_tls::Ability| match ability {
        Ok(()) => "ok",
        Err(why) => why.as_str(),
    };
    let all: Vec<_> = found
        .each()
        .map(|(name, cipher, ability)| {
            let cipher = cipher.map_or("", Cipher::as_str);
            format!("{name} {cipher} {}", is(ability))
        })
        .collect();
    println!("{version}: {all:?}");
    let (ulp, tx, rx, rekey, splice) = (
        is(found.ulp()),
        Cipher::ALL.map(|cipher| is(found.tx(cipher))),
        Cipher::ALL.map(|cipher| is(found.rx(cipher))),
        is(found.rekey()),
        is(found.splice()),
    );
    if ulp == "no-config-tls" {
        assert_eq!((tx, rx), ([ulp; 3], [ulp; 3]));
        common::skip(found.ulp().as_ref().unwrap_err());
        return;
    }
    let of_line = |major, minor, first_good| {
        ((version.major, version.minor) == (major, minor)).then_some(version.patch >= first_good)
    };
    let safe = of_line(6, 1, 190).or(of_line(6, 12, 111));
    let splices = of_line(6, 1, 190).or(of_line(6, 12, 113));
    match safe.zip(splices) {
        Some((true, splices)) => {
            assert_eq!((ulp, tx, rx), ("ok", ["ok"; 3], ["ok"; 3]));
            assert_eq!(rekey, "no-rekey");
            assert_eq!(splice, if splices { "ok" } else { "unsafe-kernel" });
        }
        Some((false, _)) => {
            assert_eq!(ulp, "unsafe-kernel");
            assert_eq!((tx, rx), ([ulp; 3], [ulp; 3]));
            assert_eq!((rekey, splice), (ulp, ulp));
        }
        None => {
            assert_ne!(splice, "ok", "nobody has looked at this line");
            assert_eq!(rekey == "ok", version >= KernelVersion::new(6, 14, 0));
        }
    }
}

#[test]
fn every_byte_arrives_under_every_cipher_whoever_seals() {
    require_kernel_tls!();
    let sent = noise(3 * MAX_RECORD_DATA + 1000);
    for cipher in Cipher::ALL {
        // The kernel seals.
        let (near, mut far) = pair();
        let mut tx = sender(&near, cipher);
        let (mut at, mut wire) = (0, Vec::new());
        let mut buffer = vec![0; 1 << 18];
        while at < sent.len() {
            at += tx.send(&near, &[IoSlice::new(&sent[at..])]).unwrap();
        }
        near.shutdown(Shutdown::Write).unwrap();
        far.read_to_end(&mut wire).unwrap();
        let mut records = Records::new(cipher, 1);
        let (mut opened, mut rest) = (Vec::new(), &wire[..]);
        while !rest.is_empty() {
            let (content_type, content, len) = records.open(rest);
            assert_eq!(content_type, DATA);
            opened.extend(content);
            rest = &rest[len..];
        }
        assert!(opened == sent, "{cipher:?} tx");

        // The kernel opens: maximal records, padded ones, one of a single byte.
        let (near, mut far) = pair();
        let rx = receiver(&near, cipher);
        let mut records = Records::new(cipher, 1);
        let mut wire = Vec::new();
        for (index, piece) in sent.chunks(MAX_RECORD_DATA).enumerate() {
            let padding = if piece.len() < MAX_RECORD_DATA {
                200 * index
            } else {
                0
            };
            wire.extend(records.seal(DATA, piece, padding));
        }
        wire.extend(records.seal(DATA, b"!", 0));
        let writer = thread::spawn(move || {
            far.write_all(&wire).unwrap();
            far
        });
        let mut opened = Vec::new();
        while opened.len() < sent.len() + 1 {
            let (received, content) = receive(&near, &rx).unwrap();
            assert!(matches!(received, Received::Data(_)), "{received:?}");
            opened.extend(content);
        }
        assert!(
            opened[..sent.len()] == sent && opened.ends_with(b"!"),
            "{cipher:?} rx"
        );
        let _far = writer.join().unwrap();
        assert_eq!(
            rx.receive(&near, &mut buffer).unwrap_err().raw_os_error(),
            Some(libc::EAGAIN)
        );
    }
}

#[test]
fn a_socket_whose_peer_has_closed_takes_the_protocol_no_more_but_keys_still() {
    require_kernel_tls!();
    let (near, mut far) = pair();
    far.write_all(b"all I have to say").unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    wait_for_fin(&near);
    let late = Ulp::attach(&near).unwrap_err();
    assert_eq!((late.option, late.errno), ("TCP_ULP", Errno::ENOTCONN));

    let (near, mut far) = pair();
    let early = Ulp::attach(&near).unwrap();
    far.write_all(&Records::new(Cipher::Aes128Gcm, 1).seal(DATA, b"early", 0))
        .unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    wait_for_fin(&near);
    let mut tx = early.tx.install(&near, &key(Cipher::Aes128Gcm, 1)).unwrap();
    let rx = early.rx.install(&near, &key(Cipher::Aes128Gcm, 1)).unwrap();
    assert_eq!(receive(&near, &rx).unwrap().1, b"early");
    assert_eq!(receive(&near, &rx).unwrap().0, Received::End);
    tx.send(&near, &[IoSlice::new(b"answer")]).unwrap();
    let mut record = [0; 28];
    far.read_exact(&mut record).unwrap();
    assert_eq!(
        Records::new(Cipher::Aes128Gcm, 1).open(&record).1,
        b"answer"
    );
}

#[test]
fn the_protocol_can_be_attached_once() {
    require_kernel_tls!();
    let (near, _far) = pair();
    let _ulp = Ulp::attach(&near).unwrap();
    assert_eq!(Ulp::attach(&near).unwrap_err().errno, Errno::EEXIST);
}

#[test]
fn records_of_other_types_come_alone_and_in_order() {
    require_kernel_tls!();
    let (near, mut far) = pair();
    let rx = receiver(&near, Cipher::Aes128Gcm);
    let mut records = Records::new(Cipher::Aes128Gcm, 1);
    let mut wire = records.seal(DATA, b"before", 0);
    wire.extend(records.seal(HANDSHAKE, &[4, 0, 0, 1, 7], 0));
    wire.extend(records.seal(DATA, b"one ", 0));
    wire.extend(records.seal(DATA, b"two", 30));
    wire.extend(records.seal(ALERT, &CLOSE_NOTIFY, 0));
    far.write_all(&wire).unwrap();
    far.shutdown(Shutdown::Write).unwrap();
    let other = |record_type, len| Received::Other { record_type, len };
    for (received, content) in [
        (Received::Data(6), &b"before"[..]),
        (other(HANDSHAKE, 5), &[4, 0, 0, 1, 7]),
        (Received::Data(7), b"one two"),
        (other(ALERT, 2), &CLOSE_NOTIFY),
        (Received::End, b""),
    ] {
        let got = receive(&near, &rx).unwrap();
        assert_eq!((got.0, &got.1[..]), (received, content));
    }
}

#[test]
fn an_empty_record_is_not_the_end_of_the_stream() {
    require_kernel_tls!();
    let (near, mut far) = pair();
    let rx = receiver(&near, Cipher::Aes128Gcm);
    let mut records = Records::new(Cipher::Aes128Gcm, 1);
    let mut wire = records.seal(HANDSHAKE, b"", 3);
    wire.extend(records.seal(DATA, b"", 0));
    wire.extend(records.seal(DATA, b"x", 0));
    far.write_all(&wire).unwrap();
    let empty = Received::Other {
        record_type: HANDSHAKE,
        len: 0,
    };
    assert_eq!(receive(&near, &rx).unwrap().0, empty);
    let mut data = Vec::new();
    while data.is_empty() {
        let (received, content) = receive(&near, &rx).unwrap();
        assert!(matches!(received, Received::Data(_)), "{received:?}");
        data = content;
    }
    assert_eq!(data, b"x");
}

#[test]
fn a_forged_record_is_an_error_of_its_own_and_an_alert_can_still_be_sent() {
    require_kernel_tls!();
    let (near, mut far) = pair();
    let ulp = Ulp::attach(&near).unwrap();
    let mut tx = ulp.tx.install(&near, &key(Cipher::Aes128Gcm, 1)).unwrap();
    let rx = ulp.rx.install(&near, &key(Cipher::Aes128Gcm, 1)).unwrap();
    let mut records = Records::new(Cipher::Aes128Gcm, 1);
    let mut wire = records.seal(DATA, b"good", 0);
    let mut forged = records.seal(DATA, b"forged", 0);
    *forged.last_mut().unwrap() ^= 1;
    wire.extend(forged);
    far.write_all(&wire).unwrap();
    assert_eq!(receive(&near, &rx).unwrap().1, b"good");
    let error = receive(&near, &rx).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADMSG));
    // The error sticks to the socket and would hit the alert.
    let stuck = near
        .take_error()
        .unwrap()
        .and_then(|error| error.raw_os_error());
    println!("stuck: {stuck:?}");
    tx.send_record(&near, RecordType::Alert, &[2, 20]).unwrap();
    let mut record = [0; 24];
    far.read_exact(&mut record).unwrap();
    let opened = Records::new(Cipher::Aes128Gcm, 1).open(&record);
    assert_eq!((opened.0, &opened.1[..]), (ALERT, &[2, 20][..]));
    // And nothing behind it is ever delivered.
    far.write_all(&records.seal(DATA, b"behind", 0)).unwrap();
    assert!(receive(&near, &rx).is_err());
}

#[test]
fn a_malformed_record_is_named_by_its_error() {
    require_kernel_tls!();
    for (bytes, errno) in [
        (&[23, 3, 3, 0x41, 0x12][..], libc::EMSGSIZE),
        (&[23, 3, 1, 0, 40], libc::EINVAL),
        (b"GET / HTTP/1.0\r\n\r\n", libc::EINVAL),
        (&[20, 3, 3, 0, 1, 1], libc::EBADMSG),
        (&[21, 3, 3, 0, 2, 2, 40], libc::EBADMSG),
    ] {
        let (near, mut far) = pair();
        let rx = receiver(&near, Cipher::Aes128Gcm);
        far.write_all(bytes).unwrap();
        far.write_all(&[0; 64]).unwrap();
        let error = receive(&near, &rx).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(errno), "{bytes:?}");
    }
}

#[test]
fn a_record_of_padding_alone_cannot_be_opened() {
    require_kernel_tls!();
    let (near, mut far) = pair();
    let rx = receiver(&near, Cipher::Aes128Gcm);
    let record = Records::new(Cipher::Aes128Gcm, 1).seal(0, b"", 20);
    far.write_all(&record).unwrap();
    let error = receive(&near, &rx).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADMSG));
}

#[test]
fn a_key_is_replaced_only_where_the_probe_says_so() {
    require_kernel_tls!();
    let can = Capabilities::probe().rekey().is_ok();
    let (near, mut far) = pair();
    let ulp = Ulp::attach(&near).unwrap();
    let mut tx = ulp.tx.install(&near, &key(Cipher::Aes128Gcm, 1)).unwrap();
    let mut rx = ulp.rx.install(&near, &key(Cipher::Aes128Gcm, 1)).unwrap();
    let mut records = Records::new(Cipher::Aes128Gcm, 1);
    far.write_all(&records.seal(HANDSHAKE, &KEY_UPDATE, 0))
        .unwrap();
    assert_eq!(receive(&near, &rx).unwrap().1, KEY_UPDATE);
    let next = key(Cipher::Aes128Gcm, 2);
    let (sending, receiving) = (tx.replace_key(&near, &next), rx.replace_key(&near, &next));
    if can {
        sending.unwrap();
        receiving.unwrap();
        return;
    }
    assert_eq!(sending.unwrap_err().errno, Errno::EBUSY);
    assert_eq!(receiving.unwrap_err().errno, Errno::EBUSY);
    // Under the old key the peer's next record is a forgery.
    let mut records = Records::new(Cipher::Aes128Gcm, 2);
    far.write_all(&records.seal(DATA, b"new key", 0)).unwrap();
    let error = receive(&near, &rx).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBADMSG));
}

#[test]
fn the_number_of_the_next_record_can_be_asked_for() {
    require_kernel_tls!();
    for cipher in Cipher::ALL {
        let (near, _far) = pair();
        let mut tx = sender(&near, cipher);
        assert_eq!(tx.sequence(&near).unwrap(), 0);
        tx.send(&near, &[IoSlice::new(&noise(MAX_RECORD_DATA + 1))])
            .unwrap();
        assert_eq!(tx.sequence(&near).unwrap(), 2, "{cipher:?}");
        tx.send_record(&near, RecordType::Alert, &CLOSE_NOTIFY)
            .unwrap();
        assert_eq!(tx.sequence(&near).unwrap(), 3, "{cipher:?}");
    }
}

/// The kernel accepts a record before TCP has room for all of it: see [`kernel_tls::Tx::drained`].
#[test]
fn what_the_kernel_has_accepted_arrives_if_the_end_waits_until_it_is_drained() {
    require_kernel_tls!();
    for buffer in [4096, 16_384, 65_536] {
        let (near, far) = pair();
        SockRef::from(&near).set_send_buffer_size(buffer).unwrap();
        SockRef::from(&far).set_recv_buffer_size(4096).unwrap();
        let mut tx = sender(&near, Cipher::Aes128Gcm);
        let sent = noise(1 << 17);
        let mut at = 0;
        let mut far = far;
        let mut wire = Vec::new();
        let reader = thread::spawn(move || {
            let mut piece = vec![0; 3000];
            loop {
                match far.read(&mut piece).unwrap() {
                    0 => return wire,
                    len => wire.extend_from_slice(&piece[..len]),
                }
            }
        });
        let retry = || thread::sleep(Duration::from_micros(500));
        while at < sent.len() {
            match tx.send(&near, &[IoSlice::new(&sent[at..])]) {
                Ok(len) => at += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => retry(),
                Err(error) => panic!("{error}"),
            }
        }
        loop {
            match tx.send_record(&near, RecordType::Alert, &CLOSE_NOTIFY) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::WouldBlock => retry(),
                Err(error) => panic!("{error}"),
            }
        }
        let mut waits = 0;
        while tx.drained(&near).unwrap() == Drained::NotYet {
            waits += 1;
            retry();
        }
        println!("buffer {buffer}: waited {waits} times");
        near.shutdown(Shutdown::Write).unwrap();
        let wire = reader.join().unwrap();
        let mut records = Records::new(Cipher::Aes128Gcm, 1);
        let (mut opened, mut rest, mut last) = (Vec::new(), &wire[..], 0);
        while !rest.is_empty() {
            let (content_type, content, len) = records.open(rest);
            if content_type == DATA {
                opened.extend(content);
            }
            (last, rest) = (content_type, &rest[len..]);
        }
        assert!(opened == sent, "{} of {}", opened.len(), sent.len());
        assert_eq!(last, ALERT);
    }
}

/// Linux 6.12 accepts a second record while the first still waits; 6.1 mostly does not.
#[test]
fn a_shutdown_cuts_the_stream_exactly_when_it_is_not_drained() {
    require_kernel_tls!();
    for buffer in [2048, 4096, 10_000, 30_000, 100_000] {
        let (near, mut far) = pair();
        SockRef::from(&near).set_send_buffer_size(buffer).unwrap();
        SockRef::from(&far).set_recv_buffer_size(4096).unwrap();
        let mut tx = sender(&near, Cipher::Aes128Gcm);
        let sent = noise(1 << 20);
        let mut at = 0;
        while let Ok(len) = tx.send(&near, &[IoSlice::new(&sent[at..])]) {
            at += len;
        }
        let drained = tx.drained(&near).unwrap();
        let accepted = at as u64 + 22 * tx.sequence(&near).unwrap();
        near.shutdown(Shutdown::Write).unwrap();
        let mut wire = Vec::new();
        far.read_to_end(&mut wire).unwrap();
        println!("buffer {buffer}: {drained:?}, {} of {accepted}", wire.len());
        assert_eq!(drained == Drained::Yes, wire.len() as u64 == accepted);
    }
}

/// As above, which buffers leave something in the kernel's TLS depends on the kernel.
#[test]
fn what_is_held_for_a_connection_that_was_reset_is_never_drained() {
    require_kernel_tls!();
    for buffer in [2048, 4096, 10_000, 30_000, 100_000] {
        let (near, far) = pair();
        SockRef::from(&near).set_send_buffer_size(buffer).unwrap();
        SockRef::from(&far).set_recv_buffer_size(4096).unwrap();
        let mut tx = sender(&near, Cipher::Aes128Gcm);
        let sent = noise(1 << 20);
        let mut at = 0;
        while let Ok(len) = tx.send(&near, &[IoSlice::new(&sent[at..])]) {
            at += len;
        }
        if tx.drained(&near).unwrap() == Drained::Yes {
            println!("buffer {buffer}: nothing is held");
            continue;
        }
        SockRef::from(&far)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(far);
        let mut waits = 0;
        while tx.drained(&near).unwrap() != Drained::Never {
            waits += 1;
            assert!(waits < 10_000, "it waits for ever");
            thread::sleep(Duration::from_micros(500));
        }
    }
}

#[test]
fn a_socket_in_a_sockmap_gets_no_key_and_a_socket_with_tls_gets_into_none() {
    require_kernel_tls!();
    let map = sockmap::Map::new();
    let (near, _far) = pair();
    map.put(&near).unwrap();
    if let Ok(ulp) = Ulp::attach(&near) {
        let key = key(Cipher::Aes128Gcm, 1);
        let refused = ulp.tx.install(&near, &key).unwrap_err();
        assert_eq!((refused.option, refused.errno), ("TLS_TX", Errno::EINVAL));
        let refused = ulp.rx.install(&near, &key).unwrap_err();
        assert_eq!((refused.option, refused.errno), ("TLS_RX", Errno::EINVAL));
    }

    let (near, _far) = pair();
    let _ulp = Ulp::attach(&near).unwrap();
    assert_eq!(sockmap::Map::new().put(&near), Err(Errno::EINVAL));
    let (near, _far) = pair();
    let _tx = sender(&near, Cipher::Aes128Gcm);
    assert_eq!(sockmap::Map::new().put(&near), Err(Errno::EINVAL));
}

/// Tried here even on releases that the agent refuses, to know where the line is. The kernel is the
/// test's own; no program is attached to the map.
#[test]
#[ignore = "does on purpose what the agent never does; for a kernel that may be lost"]
fn tls_sockets_are_kept_out_of_sockmaps_from_the_release_in_the_table_on() {
    use kernel_tls::Why;
    let refused_by_agent = match Capabilities::probe().ulp() {
        Err(Why::NoConfigTls { .. }) => return,
        Err(Why::KnownBad { .. }) => true,
        Ok(()) => false,
        Err(why) => panic!("{why}"),
    };
    let map = sockmap::Map::new();
    let (first, _far) = pair();
    map.put(&first).unwrap();
    let keys =
        Ulp::attach(&first).map(|ulp| ulp.tx.install(&first, &key(Cipher::Aes128Gcm, 1)).map(drop));
    println!("in a map, then TLS: {keys:?}");
    let is_refused = !matches!(keys, Ok(Ok(())));
    assert_eq!(is_refused, !refused_by_agent);

    let (second, _far) = pair();
    let _ulp = Ulp::attach(&second).unwrap();
    let put = sockmap::Map::new().put(&second);
    println!("TLS, then into a map: {put:?}");
    assert_eq!(put, Err(Errno::EINVAL));
}

fn wait_for_fin(socket: &std::net::TcpStream) {
    let mut waited = [nix::poll::PollFd::new(
        socket.as_fd(),
        nix::poll::PollFlags::from_bits_retain(libc::POLLRDHUP),
    )];
    let patience = nix::poll::PollTimeout::from(5000_u16);
    assert_eq!(nix::poll::poll(&mut waited, patience).unwrap(), 1);
}

/// Two bpf(2) calls, as the tests' own copy: the crate lends nobody a way into a sockmap.
mod sockmap {
    use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

    use nix::errno::Errno;

    pub(crate) struct Map(OwnedFd);

    impl Map {
        pub(crate) fn new() -> Self {
            let attributes = [18_u32, 4, 4, 1, 0];
            // SAFETY: BPF_MAP_CREATE reads the five numbers.
            let fd = unsafe { libc::syscall(libc::SYS_bpf, 0, &raw const attributes, 20) };
            let fd = Errno::result(fd).unwrap();
            // SAFETY: the call succeeded, so `fd` is new and nobody else's.
            Self(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        }

        pub(crate) fn put(&self, socket: &std::net::TcpStream) -> Result<(), Errno> {
            let (key, value) = (0_u32, socket.as_raw_fd());
            let map = u64::from(self.0.as_raw_fd().cast_unsigned());
            let attributes = [map, (&raw const key) as u64, (&raw const value) as u64, 0];
            // SAFETY: BPF_MAP_UPDATE_ELEM reads key and value, four bytes each, which live here.
            let failed = unsafe { libc::syscall(libc::SYS_bpf, 2, &raw const attributes, 32) };
            Errno::result(failed).map(drop)
        }
    }
}

#[test]
fn what_a_splice_leaves_before_a_full_buffer_goes_on_its_way() {
    require_kernel_tls!();
    let (near, far) = pair();
    let mut tx = sender(&near, Cipher::Aes128Gcm);
    let rx = receiver(&far, Cipher::Aes128Gcm);
    SockRef::from(&near).set_send_buffer_size(2048).unwrap();
    let (mut into, source) = pair();
    for socket in [&near, &far, &source] {
        socket.set_nonblocking(true).unwrap();
    }
    let sent = noise(Pipe::CAPACITY);
    let mut received = Vec::new();
    let mut buffer = vec![0; Pipe::CAPACITY];
    let mut pipe = Pipe::take().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| into.write_all(&sent).unwrap());
        let limit = Instant::now() + Duration::from_mins(1);
        while received.len() < sent.len() {
            assert!(Instant::now() < limit, "{} bytes came", received.len());
            unless_blocked(pipe.fill(&source));
            unless_blocked(tx.splice(&near, &mut pipe));
            if let Some(Received::Data(len)) = unless_blocked(rx.receive(&far, &mut buffer)) {
                received.extend_from_slice(&buffer[..len]);
            }
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert!(received == sent);
}

fn unless_blocked<T>(result: io::Result<T>) -> Option<T> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        done => Some(done.unwrap()),
    }
}
