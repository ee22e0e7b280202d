//! Watches the wire of a testbed for plaintext.
//!
//! It keeps no frames: it counts, and remembers the first few frames with a marker.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use memchr::memmem::Finder;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use crate::sys;

/// A running watch of every frame that any host of a testbed sends.
#[derive(Debug)]
pub struct Sniffer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Capture>>>,
}

impl Sniffer {
    pub(crate) fn start(hub: OwnedFd, markers: &[&[u8]]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = mpsc::channel();
        let watch = {
            let stop = Arc::clone(&stop);
            let finders = markers
                .iter()
                .map(|marker| Finder::new(marker).into_owned())
                .collect();
            move || {
                let socket = open(&hub)?;
                let _ = ready.send(());
                watch(socket, finders, &stop)
            }
        };
        let thread = thread::Builder::new()
            .name("sniffer".to_owned())
            .spawn(watch)?;
        let sniffer = Self {
            stop,
            thread: Some(thread),
        };
        match is_ready.recv() {
            Ok(()) => Ok(sniffer),
            Err(_) => sniffer
                .finish()
                .and(Err(anyhow!("the sniffer did not start"))),
        }
    }

    /// Stops the watch. Fails if the kernel dropped a frame that might have held a marker.
    pub fn finish(mut self) -> Result<Capture> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it finishes once")?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What was on the wire.
#[derive(Debug, Default)]
pub struct Capture {
    /// All frames, ARP and the like too.
    pub frames: u64,
    /// Bytes of TCP payload by the address that sent them.
    pub tcp_payload: BTreeMap<IpAddr, u64>,
    /// How many markers were seen.
    pub markers: u64,
    /// Where the first few of them were.
    pub sightings: Vec<Sighting>,
}

impl Capture {
    /// No marker was on the wire.
    #[track_caller]
    pub fn assert_no_plaintext(&self) {
        assert_eq!(
            self.markers, 0,
            "plaintext on the wire: {:#?}",
            self.sightings
        );
    }

    /// No marker was on the wire, though at least `bytes` bytes of TCP payload were.
    #[track_caller]
    pub fn assert_only_ciphertext(&self, bytes: u64) {
        self.assert_no_plaintext();
        assert!(
            self.tcp_bytes() >= bytes,
            "only {} bytes were on the wire",
            self.tcp_bytes()
        );
    }

    /// No marker was in what `address` sent, though another host may have spoken in clear.
    #[track_caller]
    pub fn assert_no_plaintext_from(&self, address: IpAddr) {
        let sent =
            |sighting: &&Sighting| sighting.flow.is_none_or(|(from, _)| from.ip() == address);
        let leaked: Vec<_> = self.sightings.iter().filter(sent).collect();
        assert!(leaked.is_empty(), "plaintext on the wire: {leaked:#?}");
        let unseen = self.markers - self.sightings.len() as u64;
        assert_eq!(unseen, 0, "{unseen} more markers, of unknown senders");
    }

    /// How many of the sightings were in what `from` sent to `to`.
    pub fn sightings_between(&self, from: SocketAddr, to: SocketAddr) -> usize {
        let sightings = self.sightings.iter();
        sightings.filter(|it| it.flow == Some((from, to))).count()
    }

    /// The positive control: markers were on the wire, and the sniffer found them.
    #[track_caller]
    pub fn assert_saw_plaintext(&self) {
        assert!(
            self.markers > 0,
            "the sniffer found no marker in {} frames",
            self.frames
        );
    }

    /// Bytes of TCP payload, retransmitted ones too.
    pub fn tcp_bytes(&self) -> u64 {
        self.tcp_payload.values().sum()
    }

    /// Bytes of TCP payload that `address` sent.
    pub fn tcp_bytes_from(&self, address: IpAddr) -> u64 {
        self.tcp_payload.get(&address).copied().unwrap_or(0)
    }
}

/// A frame with a marker.
#[derive(Clone)]
pub struct Sighting {
    /// The number of the frame.
    pub frame: u64,
    /// Its sender and receiver, if it was TCP.
    pub flow: Option<(SocketAddr, SocketAddr)>,
    /// The bytes around the marker.
    pub excerpt: Vec<u8>,
}

impl fmt::Debug for Sighting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            frame,
            flow,
            excerpt,
        } = self;
        write!(
            f,
            "frame {frame}, {flow:?}: {:?}",
            String::from_utf8_lossy(excerpt)
        )
    }
}

fn open(hub: &OwnedFd) -> Result<Socket> {
    setns(hub, CloneFlags::CLONE_NEWNET).context("could not enter the hub's namespace")?;
    let every_protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol))
        .context("could not open a packet socket")?;
    sys::ignore_outgoing(&socket).context("could not leave outgoing frames out")?;
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &QUEUE)
        .context("could not enlarge the sniffer's queue")?;
    socket.set_read_timeout(Some(POLL))?;
    Ok(socket)
}

fn watch(mut socket: Socket, finders: Vec<Finder<'static>>, stop: &AtomicBool) -> Result<Capture> {
    let mut search = Search {
        finders,
        tails: HashMap::new(),
        capture: Capture::default(),
    };
    let mut buffer = vec![0; LONGEST_FRAME];
    let mut draining = false;
    loop {
        match socket.read(&mut buffer) {
            Ok(length) => search.frame(&buffer[..length]),
            Err(error) if is_timeout(&error) && draining => break,
            Err(error) if is_timeout(&error) => {}
            Err(error) => return Err(error).context("could not read a frame"),
        }
        if !draining && stop.load(Ordering::Relaxed) {
            draining = true;
            socket.set_nonblocking(true)?;
        }
    }
    let dropped = sys::dropped_frames(&socket)?;
    ensure!(
        dropped == 0,
        "the sniffer lost {dropped} frames: it cannot say what was on the wire"
    );
    Ok(search.capture)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

struct Search {
    finders: Vec<Finder<'static>>,
    /// The last bytes of each flow: a marker may lie across segments.
    tails: HashMap<(SocketAddr, SocketAddr), Vec<u8>>,
    capture: Capture,
}

impl Search {
    fn frame(&mut self, frame: &[u8]) {
        self.capture.frames += 1;
        let segment = Segment::parse(frame);
        let flow = segment.as_ref().map(|segment| (segment.from, segment.to));
        self.bytes(frame, flow);
        let Some(Segment { from, to, payload }) = segment else {
            return;
        };
        if payload.is_empty() {
            return;
        }
        *self.capture.tcp_payload.entry(from.ip()).or_default() += payload.len() as u64;

        let border = self.border();
        let mut joint = self.tails.remove(&(from, to)).unwrap_or_default();
        let tail = joint.len();
        joint.extend_from_slice(&payload[..payload.len().min(border)]);
        self.across(&joint, tail, flow);
        if payload.len() >= border {
            joint.clear();
            joint.extend_from_slice(&payload[payload.len() - border..]);
        } else {
            joint.drain(..joint.len().saturating_sub(border));
        }
        self.tails.insert((from, to), joint);
    }

    /// Looks for markers that lie within a frame.
    fn bytes(&mut self, bytes: &[u8], flow: Option<(SocketAddr, SocketAddr)>) {
        for index in 0..self.finders.len() {
            let found: Vec<_> = self.finders[index].find_iter(bytes).collect();
            for at in found {
                self.sighting(bytes, at, flow);
            }
        }
    }

    /// Looks for markers that begin before `tail` and end after it.
    fn across(&mut self, joint: &[u8], tail: usize, flow: Option<(SocketAddr, SocketAddr)>) {
        for index in 0..self.finders.len() {
            let length = self.finders[index].needle().len();
            let start = tail.saturating_sub(length - 1);
            let end = joint.len().min(tail + length - 1);
            if let Some(at) = self.finders[index].find(&joint[start..end]) {
                self.sighting(joint, start + at, flow);
            }
        }
    }

    fn sighting(&mut self, bytes: &[u8], at: usize, flow: Option<(SocketAddr, SocketAddr)>) {
        self.capture.markers += 1;
        if self.capture.sightings.len() < SIGHTINGS {
            let excerpt = bytes[at.saturating_sub(16)..bytes.len().min(at + 48)].to_vec();
            let frame = self.capture.frames;
            self.capture.sightings.push(Sighting {
                frame,
                flow,
                excerpt,
            });
        }
    }

    fn border(&self) -> usize {
        self.finders
            .iter()
            .map(|finder| finder.needle().len() - 1)
            .max()
            .unwrap_or(0)
    }
}

/// The TCP segment of an Ethernet frame.
struct Segment<'f> {
    from: SocketAddr,
    to: SocketAddr,
    payload: &'f [u8],
}

impl<'f> Segment<'f> {
    /// `None` if the frame holds anything else, an IP fragment or extension headers.
    fn parse(frame: &'f [u8]) -> Option<Self> {
        let packet = frame.get(14..)?;
        let (from, to, segment): (IpAddr, IpAddr, _) = match *frame.get(12..14)? {
            [0x08, 0x00] => {
                let total = usize::from(u16::from_be_bytes(array(packet, 2)?));
                let header = usize::from(packet.first()? & 0xf) * 4;
                let segment = packet.get(header..total).or_else(|| packet.get(header..))?;
                let is_tcp = *packet.get(9)? == TCP;
                let from = Ipv4Addr::from(array::<4>(packet, 12)?);
                let to = Ipv4Addr::from(array::<4>(packet, 16)?);
                is_tcp.then_some((from.into(), to.into(), segment))?
            }
            [0x86, 0xdd] => {
                let from = Ipv6Addr::from(array::<16>(packet, 8)?);
                let to = Ipv6Addr::from(array::<16>(packet, 24)?);
                let is_tcp = *packet.get(6)? == TCP;
                is_tcp.then_some((from.into(), to.into(), packet.get(40..)?))?
            }
            _ => return None,
        };
        let port = |at| Some(u16::from_be_bytes(array(segment, at)?));
        let header = usize::from(segment.get(12)? >> 4) * 4;
        Some(Self {
            from: SocketAddr::new(from, port(0)?),
            to: SocketAddr::new(to, port(2)?),
            payload: segment.get(header..)?,
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

const TCP: u8 = 6;
const SIGHTINGS: usize = 8;
const POLL: Duration = Duration::from_millis(10);
/// Enough for a second of bulk that this thread does not run; it is not taken before it is used.
const QUEUE: usize = 1 << 29;
/// A segment before it is cut to the link's size is at most 64 KiB, or 512 KiB with BIG TCP.
const LONGEST_FRAME: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_across_many_short_segments_is_found_once() {
        let payload = b"..a marker in pieces..";
        for step in 1..payload.len() {
            let mut search = search(b"marker");
            for piece in payload.chunks(step) {
                search.frame(&frame(1, piece));
            }
            assert_eq!(search.capture.markers, 1, "in pieces of {step}");
        }
    }

    #[test]
    fn pieces_of_different_flows_make_no_marker() {
        let mut search = search(b"marker");
        search.frame(&frame(1, b"mar"));
        search.frame(&frame(2, b"ker"));
        assert_eq!(search.capture.markers, 0);
    }

    fn search(marker: &'static [u8]) -> Search {
        let finders = vec![Finder::new(marker).into_owned()];
        Search {
            finders,
            tails: HashMap::new(),
            capture: Capture::default(),
        }
    }

    fn frame(port: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        let total = u16::try_from(40 + payload.len()).unwrap().to_be_bytes();
        frame.extend([0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, TCP, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([
            0, port, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0,
        ]);
        frame.extend(payload);
        frame
    }
}
