//! Two namespaces on one wire, and pins in a directory of their own.

use std::{
    env, fs,
    io::{self, Write as _},
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use aya::Ebpf;
use ebpf_abi::WorkloadId;
use nix::{
    mount::{MntFlags, umount2},
    net::if_::if_nametoindex,
};
use socket2::{Domain, Socket, Type};

use crate::{
    bpf::{
        Device, Object, Options, Pins, Purpose, Tenancy,
        attach::{Target, attach, load},
        rtnetlink::{Filter, Side, filters},
    },
    netns::Netns,
};

/// The guarded device.
pub(super) const DEVICE: &str = "v0";
const PEER: &str = "10.99.0.2:9";
const INSTANCE: &str = "test";

/// Removes what it made when it is dropped, also when a test panics.
pub(super) struct Bed {
    name: String,
    guarded: Netns,
    far: Netns,
    device: Device,
    bpffs: tempfile::TempDir,
}

/// What one agent has of the kernel side, as far as the device's guard goes. Dropping it is that
/// agent's end.
pub(super) struct Guard {
    pub(super) object: Ebpf,
    pub(super) links: PathBuf,
    pub(super) device: Device,
    pub(super) netns: Netns,
}

/// A bed, or `None` on a machine that can't have one, which is then said aloud.
pub(super) fn bed() -> Option<Bed> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if !nix::unistd::geteuid().is_root() {
        return skip("it is not run as root");
    }
    if !Command::new("tc")
        .arg("-V")
        .output()
        .is_ok_and(|it| it.status.success())
    {
        return skip("iproute2 is not installed");
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("sw-clsact-{}-{number}", std::process::id());
    let far = format!("{name}-far");
    for netns in [&name, &far] {
        ip(&["netns", "add", netns]);
    }
    for (netns, device, address) in [
        (&name, DEVICE, "10.99.0.1/24"),
        (&far, "v1", "10.99.0.2/24"),
    ] {
        if device == DEVICE {
            ip(&[
                "-n", netns, "link", "add", DEVICE, "type", "veth", "peer", "name", "v1", "netns",
                &far,
            ]);
        }
        ip(&["-n", netns, "addr", "add", address, "dev", device]);
        ip(&["-n", netns, "link", "set", device, "up"]);
    }
    let open = |name: &str| Netns::open(&PathBuf::from("/run/netns").join(name)).unwrap();
    let guarded = open(&name);
    let index = guarded.run(|| Ok(if_nametoindex(DEVICE)?)).unwrap();
    Some(Bed {
        guarded,
        far: open(&far),
        name,
        device: Device {
            index,
            name: DEVICE.to_owned(),
        },
        bpffs: tempfile::tempdir().unwrap(),
    })
}

impl Bed {
    /// A new agent that serves the workload.
    pub(super) fn agent(&self) -> Guard {
        self.agent_of("workload")
    }

    /// A new agent that serves the workload with this link directory.
    pub(super) fn agent_of(&self, owner: &str) -> Guard {
        self.agent_with(INSTANCE, owner)
    }

    /// A new agent of another instance.
    pub(super) fn agent_of_instance(&self, instance: &str) -> Guard {
        self.agent_with(instance, "workload")
    }

    fn agent_with(&self, instance: &str, owner: &str) -> Guard {
        let pins = Pins::open(self.bpffs.path(), instance).unwrap();
        let links = pins.links(owner).unwrap();
        let object = Object::new(pins, Options::default()).unwrap();
        let mut object = object
            .load(WorkloadId(1), Tenancy::Sole, None, Purpose::Steering)
            .unwrap();
        // By its link the namespace is found again.
        let netns = Target::Netns(self.guarded.as_fd());
        attach(&mut object, "ingress", &links.join("ingress"), netns).unwrap();
        load(object.program_mut("guard_device").unwrap()).unwrap();
        Guard {
            object,
            links,
            device: self.device.clone(),
            netns: self.guarded.clone(),
        }
    }

    /// What `--detach` does.
    pub(super) fn detach(&self) {
        Pins::detach(self.bpffs.path(), INSTANCE).unwrap();
    }

    pub(super) fn links(&self) -> PathBuf {
        self.bpffs
            .path()
            .join("sealwire")
            .join(INSTANCE)
            .join("workload")
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn inside<T: Send>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        self.guarded.run(work)
    }

    /// The egress filters of the device.
    pub(super) fn filters(&self) -> Vec<Filter> {
        let index = self.device.index;
        self.inside(|| filters(index, Side::Egress)).unwrap()
    }

    /// Runs `tc` in the guarded namespace.
    pub(super) fn tc(&self, arguments: &[&str]) -> Result<(), String> {
        run(Command::new("tc").args(["-n", &self.name]).args(arguments))
    }

    /// Adds a filter that lets everything pass and ends the chain.
    pub(super) fn foreign_filter(&self, side: &str, priority: &str, protocol: &str) {
        // One instruction of classic BPF, which returns TC_ACT_OK.
        let filter = [
            "filter", "add", "dev", DEVICE, side, "pref", priority, "protocol", protocol,
        ];
        let bpf = ["bpf", "direct-action", "bytecode", "1,6 0 0 0,"];
        self.tc(&[&filter[..], &bpf[..]].concat()).unwrap();
    }

    /// Sends so many segments that open a connection, and as many datagrams, and waits until what
    /// was let through has arrived.
    pub(super) fn send(&self, count: usize) {
        let before = self.datagrams_received();
        self.inside(|| (0..count).try_for_each(|_| send_one()))
            .unwrap();
        let sent = Instant::now();
        while sent.elapsed() < ARRIVAL && self.datagrams_received() == before {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends all the while; how many segments that were.
    pub(super) fn send_during(&self, work: impl FnOnce()) -> usize {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                self.inside(|| {
                    let mut sent = 0;
                    while !stop.load(Ordering::Relaxed) {
                        send_one()?;
                        sent += 1;
                    }
                    Ok(sent)
                })
            });
            // The sender ends also when this panics.
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            stop.store(true, Ordering::Relaxed);
            let sent = sender.join().unwrap().unwrap();
            worked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            sent
        })
    }

    /// TCP segments that arrived at the far end, ever.
    pub(super) fn segments_received(&self) -> u64 {
        self.received("Tcp", "InSegs")
    }

    /// UDP datagrams that arrived at the far end, ever.
    pub(super) fn datagrams_received(&self) -> u64 {
        // Nobody listens there.
        self.received("Udp", "NoPorts")
    }

    /// A counter of the far namespace (RFC 4022, RFC 4113).
    fn received(&self, protocol: &str, counter: &str) -> u64 {
        let counters = self
            .far
            .run(|| fs::read_to_string("/proc/thread-self/net/snmp"))
            .unwrap();
        let mut lines = counters
            .lines()
            .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(": "));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let place = names.split(' ').position(|name| name == counter).unwrap();
        values.split(' ').nth(place).unwrap().parse().unwrap()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = umount2(self.bpffs.path(), MntFlags::MNT_DETACH);
        for netns in [self.name.clone(), format!("{}-far", self.name)] {
            let _ = run(Command::new("ip").args(["netns", "del", &netns]));
        }
    }
}

/// A SYN and a datagram, of sockets that no agent has permitted.
fn send_one() -> io::Result<()> {
    let peer: SocketAddr = PEER.parse().map_err(io::Error::other)?;
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    match socket.connect(&peer.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        other => other?,
    }
    let datagrams = UdpSocket::bind("0.0.0.0:0")?;
    match datagrams.send_to(b"datagram", peer) {
        // What came back for one before.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        other => other.map(drop),
    }
}

/// A datagram takes microseconds on a wire within one machine; this is for one that is busy.
const ARRIVAL: Duration = Duration::from_secs(5);

fn ip(arguments: &[&str]) {
    run(Command::new("ip").args(arguments)).unwrap();
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// Says on standard error, and in the file that `SEALWIRE_SKIP_LOG` names, that this test does not
/// run.
fn skip<T>(reason: &str) -> Option<T> {
    let thread = thread::current();
    let line = format!("SKIPPED {}: {reason}", thread.name().unwrap_or("a test"));
    // Not eprintln!, which libtest swallows when a test passes.
    let _ = writeln!(io::stderr(), "{line}");
    if let Some(path) = env::var_os("SEALWIRE_SKIP_LOG")
        && let Ok(mut log) = fs::File::options().create(true).append(true).open(path)
    {
        let _ = writeln!(log, "{line}");
    }
    None
}
