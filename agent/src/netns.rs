//! Network namespaces: entering them, making sockets in them, what interfaces they have.

use std::{
    cell::Cell,
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::{InterfaceFlags, if_nameindex},
    sched::{CloneFlags, setns},
};
use socket2::{Domain, Protocol, Socket, Type};

use crate::bpf::{AddressPrefix, Device};

/// A network namespace held open.
#[derive(Clone, Debug)]
pub struct Netns(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    file: File,
    path: PathBuf,
}

impl Netns {
    /// The namespace named by `path` (`/run/netns/NAME`, `/proc/PID/ns/net`).
    ///
    /// # Errors
    /// Where the file can't be opened; whether it is a namespace shows when it is entered.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(Handle {
            file: File::open(path)?,
            path: path.to_owned(),
        })))
    }

    /// The namespace this process was started in.
    pub fn own() -> io::Result<Self> {
        Self::open(Path::new("/proc/self/ns/net"))
    }

    /// The namespace whose file has this inode number, if it is mounted somewhere or a process is in
    /// it.
    pub(crate) fn find(inode: u64) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let name = format!("net:[{inode}]");
        let mounted = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(3);
            (fields.next()? == name).then_some(())?;
            Some(PathBuf::from(fields.next()?))
        });
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let inhabited = processes.map(|process| process.path().join("ns/net"));
        mounted
            .chain(inhabited)
            .filter(|path| path.metadata().is_ok_and(|file| file.ino() == inode))
            .filter_map(|path| Self::open(&path).ok())
            .find(|netns| {
                netns
                    .0
                    .file
                    .metadata()
                    .is_ok_and(|file| file.ino() == inode)
            })
    }

    /// Where the namespace was opened from.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Runs `work` on a thread of its own inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        run_in(self, work)
    }

    /// A TCP socket in the namespace, made on this thread, which stays in the namespace.
    ///
    /// Meant for worker threads, which do nothing that depends on the namespace they are in: it
    /// spares the switch where a worker serves one workload.
    pub fn tcp_socket(&self, address: &IpAddr) -> io::Result<Socket> {
        self.stay()?;
        let domain = if address.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
    }

    /// Moves this thread into the namespace, if it is not there already; see [`Self::tcp_socket`].
    pub(crate) fn stay(&self) -> io::Result<()> {
        thread_local! {
            static CURRENT: Cell<*const Handle> = const { Cell::new(std::ptr::null()) };
        }
        let this = Arc::as_ptr(&self.0);
        if CURRENT.get() != this {
            setns(self.as_fd(), CloneFlags::CLONE_NEWNET)?;
            CURRENT.set(this);
        }
        Ok(())
    }
}

/// Moves this thread into the network namespace `netns`.
pub(crate) fn enter(netns: &impl AsFd) -> io::Result<()> {
    Ok(setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

/// Runs `work` on a thread of its own inside the network namespace `netns`.
pub(crate) fn run_in<T: Send>(
    netns: &impl AsFd,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let netns = netns.as_fd();
    thread::scope(|scope| {
        scope
            .spawn(move || {
                enter(&netns)?;
                work()
            })
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("a thread in the namespace panicked")))
    })
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

/// What the interfaces of a namespace are, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Its own addresses and the prefixes reached from them.
    pub addresses: Vec<AddressPrefix>,
    /// Its devices, without the loopback.
    pub devices: Vec<Device>,
}

impl Interfaces {
    /// Lists the interfaces of the namespace that the calling thread is in.
    pub fn list() -> io::Result<Self> {
        let mut interfaces = Self::default();
        for interface in getifaddrs()? {
            if interface.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                continue;
            }
            let Some(address) = interface.address.and_then(|storage| ip(&storage)) else {
                continue;
            };
            let full = if address.is_ipv4() { 32 } else { 128 };
            let length = interface
                .netmask
                .and_then(|storage| ip(&storage))
                .map_or(full, prefix_length);
            interfaces.add(AddressPrefix {
                address,
                length: full,
                source: address,
                local: true,
            });
            let prefix = AddressPrefix {
                address,
                length,
                source: address,
                local: false,
            };
            // Of several addresses in one prefix the kernel takes the first; /32 and /128 are the
            // address itself.
            if length < full {
                interfaces.add(prefix);
            }
        }
        for (unspecified, probe) in [
            (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(PROBE_V4)),
            (IpAddr::from(Ipv6Addr::UNSPECIFIED), IpAddr::from(PROBE_V6)),
        ] {
            if let Some(source) = source_towards(probe) {
                let default = AddressPrefix {
                    address: unspecified,
                    length: 0,
                    source,
                    local: false,
                };
                interfaces.add(default);
            }
        }
        for interface in &if_nameindex()? {
            let device = Device {
                index: interface.index(),
                name: interface.name().to_string_lossy().into_owned(),
            };
            if device.index != LOOPBACK_IFINDEX {
                interfaces.devices.push(device);
            }
        }
        Ok(interfaces)
    }

    fn add(&mut self, prefix: AddressPrefix) {
        let masked = AddressPrefix {
            address: mask(prefix.address, prefix.length),
            ..prefix
        };
        let known = self
            .addresses
            .iter()
            .any(|known| known.address == masked.address && known.length == masked.length);
        if !known {
            self.addresses.push(masked);
        }
    }
}

/// The interface index of `lo`, the same in every namespace.
const LOOPBACK_IFINDEX: u32 = 1;
/// Documentation prefixes (RFC 5737, RFC 3849), reached by the default route if at all. Connecting
/// a UDP socket sends nothing.
const PROBE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const PROBE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The own address from which the kernel would reach `destination`.
fn source_towards(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn ip(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    storage
        .as_sockaddr_in()
        .map(|v4| IpAddr::V4(v4.ip()))
        .or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

fn prefix_length(netmask: IpAddr) -> u8 {
    let ones = match netmask {
        IpAddr::V4(mask) => u32::from(mask).leading_ones(),
        IpAddr::V6(mask) => u128::from(mask).leading_ones(),
    };
    ones as u8
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from(u32::from(address) & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from(u128::from(address) & mask).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{mask, prefix_length};

    #[test]
    fn masking_keeps_the_network_bits() {
        for (address, length, network) in [
            ("10.1.2.3", 24, "10.1.2.0"),
            ("10.1.2.3", 32, "10.1.2.3"),
            ("10.1.2.3", 0, "0.0.0.0"),
            ("fd00:1:2:3::9", 64, "fd00:1:2:3::"),
            ("fd00::9", 128, "fd00::9"),
            ("fd00::9", 0, "::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(mask(address, length), network.parse::<IpAddr>().unwrap());
        }
    }

    #[test]
    fn a_netmask_has_the_length_of_its_ones() {
        assert_eq!(prefix_length("255.255.240.0".parse().unwrap()), 20);
        assert_eq!(prefix_length("ffff:ffff::".parse().unwrap()), 32);
    }
}
