//! Hosts as network namespaces on a bridge, which is in a namespace of its own: the root namespace
//! is never touched.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{env, thread};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};

use crate::cgroup::{self, Cgroup};
use crate::program::HostCommand;
use crate::sniffer::Sniffer;

/// A small network that exists as long as this value does. Dropping it kills what still runs in
/// it and removes its namespaces, cgroups and pins, also when a test panics.
#[derive(Debug)]
pub struct Testbed {
    id: Id,
    hosts: BTreeMap<String, Host>,
    hub: Netns,
    cgroup: Cgroup,
    directory: tempfile::TempDir,
    _pins: Pins,
}

impl Testbed {
    /// Makes a network of hosts with these names.
    pub fn new(names: &[&str]) -> Result<Self> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(sweep);

        let id = Id::next();
        let root = cgroup::mount_point().context("no cgroup2 is mounted")?;
        let netns = |name: &str| Netns {
            name: format!("{id}-{name}"),
        };
        let mut bed = Self {
            hosts: BTreeMap::new(),
            hub: netns("hub"),
            cgroup: Cgroup::create(root.join(format!("sealwire-{id}")))?,
            directory: tempfile::Builder::new()
                .prefix(&format!("{id}-"))
                .tempdir()?,
            _pins: Pins(id),
            id,
        };
        for (index, name) in names.iter().enumerate() {
            let last = u8::try_from(index + 1).context("too many hosts")?;
            let host = Host {
                name: (*name).to_owned(),
                v4: Ipv4Addr::new(10, 77, 0, last),
                v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, last.into()),
                netns: netns(name),
                cgroup: Cgroup::create(bed.cgroup.path().join(name))?,
            };
            bed.hosts.insert((*name).to_owned(), host);
        }
        bed.wire()?;
        Ok(bed)
    }

    /// With hosts that have nothing but their loopback.
    pub fn with_unwired(mut self, names: &[String]) -> Result<Self> {
        let mut namespaces = Vec::new();
        for name in names {
            let host = Host {
                name: name.clone(),
                v4: Ipv4Addr::LOCALHOST,
                v6: Ipv6Addr::LOCALHOST,
                netns: Netns {
                    name: format!("{}-{name}", self.id),
                },
                cgroup: Cgroup::create(self.cgroup.path().join(name))?,
            };
            namespaces.push(format!("netns add {}", host.netns.name));
            self.hosts.insert(name.clone(), host);
        }
        ip(&[], &namespaces.join("\n"))?;
        Ok(self)
    }

    /// The host of this name; panics if the testbed was made without it.
    pub fn host(&self, name: &str) -> &Host {
        &self.hosts[name]
    }

    /// Lets what was just sent get to the wire: the first packet to a neighbour waits for its address.
    pub fn settle(&self) {
        thread::sleep(SETTLE);
    }

    /// Names what belongs to this testbed; unique on the machine while it exists.
    pub fn id(&self) -> String {
        self.id.to_string()
    }

    /// A directory for files of this test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts to watch every frame that a host sends, for [`crate::MARKER`].
    pub fn sniff(&self) -> Result<Sniffer> {
        self.sniff_for(&[crate::MARKER])
    }

    /// Starts to watch every frame that a host sends, for any of `markers`.
    pub fn sniff_for(&self, markers: &[&[u8]]) -> Result<Sniffer> {
        Sniffer::start(self.hub.open()?, markers)
    }

    /// The namespace with the bridge between the hosts, `br0`.
    pub(crate) fn hub(&self) -> &Netns {
        &self.hub
    }

    /// A new cgroup beside those of the hosts, removed with the testbed.
    pub(crate) fn cgroup(&self, name: &str) -> Result<PathBuf> {
        let path = self.cgroup.path().join(name);
        fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(path)
    }

    fn wire(&self) -> Result<()> {
        let mut namespaces = vec![format!("netns add {}", self.hub.name)];
        let mut hub = vec![
            "link add br0 type bridge mcast_snooping 0".to_owned(),
            "link set br0 addrgenmode none".to_owned(),
            "link set br0 up".to_owned(),
        ];
        for (index, host) in self.hosts.values().enumerate() {
            let netns = &host.netns.name;
            namespaces.push(format!("netns add {netns}"));
            hub.push(format!(
                "link add p{index} type veth peer name eth0 netns {netns}"
            ));
            hub.push(format!("link set p{index} master br0 addrgenmode none"));
            hub.push(format!("link set p{index} up"));
        }
        ip(&[], &namespaces.join("\n"))?;
        ip(&["-n", &self.hub.name], &hub.join("\n"))?;
        for host in self.hosts.values() {
            let Host { v4, v6, .. } = host;
            ip(
                &["-n", &host.netns.name],
                &format!(
                    "link set lo up\n\
                     link set eth0 addrgenmode none\n\
                     addr add {v4}/24 dev eth0\n\
                     addr add {v6}/64 dev eth0 nodad\n\
                     link set eth0 up\n"
                ),
            )?;
            // The machine's default may pace or be unavailable; without the option it is used.
            let _ = ip(
                &["-n", &host.netns.name],
                &format!(
                    "route replace 10.77.0.0/24 dev eth0 src {v4} congctl cubic\n\
                     -6 route replace fd77::/64 dev eth0 congctl cubic\n"
                ),
            );
        }
        Ok(())
    }
}

/// A host of the testbed: a network namespace with `lo` and `eth0`, and a cgroup.
#[derive(Debug)]
pub struct Host {
    name: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    cgroup: Cgroup,
    netns: Netns,
}

impl Host {
    /// The name it was made with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The IPv4 address of its `eth0`.
    pub fn v4(&self) -> IpAddr {
        self.v4.into()
    }

    /// The IPv6 address of its `eth0`.
    pub fn v6(&self) -> IpAddr {
        self.v6.into()
    }

    /// A port of its IPv4 address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4(), port)
    }

    /// A port of its IPv6 address.
    pub fn at_v6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6(), port)
    }

    /// Its network namespace's file.
    pub fn netns(&self) -> PathBuf {
        self.netns.path()
    }

    /// The directory of its cgroup.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// A program to be started on this host, in its namespace and cgroup.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> HostCommand {
        HostCommand::new(
            program,
            self.netns.path(),
            Some(self.cgroup.path().to_owned()),
        )
    }

    /// Runs a closure on a thread in this host's namespace. Its sockets belong to the cgroup of
    /// this process, so nothing steers them.
    pub fn run_in_thread<T: Send>(&self, run: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.run_in_thread(run)
    }

    /// Starts to watch every frame that the host receives, for [`crate::MARKER`], those that pass its
    /// loopback as well: there the way between a program and its agent is in clear.
    pub fn sniff(&self) -> Result<Sniffer> {
        Sniffer::start(self.netns.open()?, &[crate::MARKER])
    }

    /// Sets a sysctl of the namespace, `net/ipv4/tcp_fastopen` say.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.run_in_thread(|| fs::write(Path::new("/proc/sys").join(path), value))?
            .with_context(|| format!("could not set {path}"))
    }

    /// Runs `ip` with these arguments in the namespace, `link set eth0 down` say.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        ip(&["-n", &self.netns.name], arguments)
    }
}

/// A named network namespace; dropping it takes the name away.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }

    /// Runs a closure on a thread in it.
    pub(crate) fn run_in_thread<T: Send>(&self, run: impl FnOnce() -> T + Send) -> Result<T> {
        let netns = self.open()?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || -> Result<T> {
                setns(&netns, CloneFlags::CLONE_NEWNET).context("could not enter the namespace")?;
                Ok(run())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn open(&self) -> Result<OwnedFd> {
        let path = self.path();
        let file =
            File::open(&path).with_context(|| format!("could not open {}", path.display()))?;
        Ok(file.into())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove_namespace(&self.path());
    }
}

/// What the agents of a testbed pinned; dropping it after the agents unpins it.
#[derive(Debug)]
struct Pins(Id);

impl Drop for Pins {
    fn drop(&mut self) {
        remove_pins(|name| Id::parse(name) == Some(self.0));
    }
}

/// `sw<pid>n<number>`: tells the testbeds of running processes from left-over ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    process: u32,
    number: u32,
}

impl Id {
    fn next() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        Self {
            process: std::process::id(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// The id at the start of a namespace's or pin's name.
    fn parse(name: &str) -> Option<Self> {
        let (process, rest) = name.strip_prefix("sw")?.split_once('n')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        Some(Self {
            process: process.parse().ok()?,
            number: rest[..digits].parse().ok()?,
        })
    }

    fn is_stale(self) -> bool {
        !Path::new("/proc").join(self.process.to_string()).exists()
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sw{}n{}", self.process, self.number)
    }
}

fn ip(options: &[&str], batch: &str) -> Result<()> {
    let mut ip = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not run ip (package iproute2)")?;
    ip.stdin
        .take()
        .context("ip has no standard input")?
        .write_all(batch.as_bytes())?;
    let finished = ip.wait_with_output()?;
    if !finished.status.success() {
        bail!(
            "ip {options:?}: {}\n{batch}",
            String::from_utf8_lossy(&finished.stderr)
        );
    }
    Ok(())
}

/// Removes what test processes left behind that were killed before they could.
fn sweep() {
    let is_stale = |name: &str| Id::parse(name).is_some_and(Id::is_stale);
    for (name, path) in entries(Path::new(NAMESPACES)) {
        if is_stale(&name) {
            remove_namespace(&path);
        }
    }
    for (name, path) in cgroup::mount_point().iter().flat_map(|root| entries(root)) {
        if name.strip_prefix("sealwire-").is_some_and(is_stale) {
            let _ = cgroup::remove(&path);
        }
    }
    for (name, path) in entries(&env::temp_dir()) {
        if is_stale(&name) {
            let _ = fs::remove_dir_all(path);
        }
    }
    remove_pins(is_stale);
}

fn remove_namespace(path: &Path) {
    let _ = umount2(path, MntFlags::MNT_DETACH); // fails if it was never made
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("could not remove the namespace {}: {error}", path.display());
        }
        _ => {}
    }
}

/// Removes the pins of the agent's instances whose names are chosen.
fn remove_pins(chosen: impl Fn(&str) -> bool) {
    for (_, directory) in entries(Path::new(BPFFS)) {
        for (name, path) in entries(&directory) {
            if chosen(&name) {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}

fn entries(directory: &Path) -> Vec<(String, PathBuf)> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .collect()
}

const SETTLE: Duration = Duration::from_millis(100);
const NAMESPACES: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";
