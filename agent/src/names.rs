//! Host names, looked up as the workload's own programs would: from its namespace, with the
//! `resolv.conf` and the `hosts` that are in force there.

mod answer;
mod follow;
mod heard;
mod overhear;
mod table;

use std::{
    cell::RefCell,
    fmt,
    fs::{self, File},
    io,
    net::{IpAddr, SocketAddr, TcpStream as StdTcpStream, UdpSocket as StdUdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use hickory_resolver::{
    Hosts, Resolver,
    config::LookupIpStrategy,
    net::{
        DnsError, NetError,
        runtime::{
            RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
            iocompat::AsyncIoTokioAsStd,
        },
    },
    proto::rr::RecordType,
    system_conf::parse_resolv_conf,
};
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::{
    net::{TcpSocket, TcpStream, UdpSocket},
    time::timeout,
};

pub use answer::OverheardAnswer;
pub(crate) use follow::NameFollower;
pub(crate) use heard::Hearsay;
pub(crate) use overhear::Overhearing;
pub(crate) use table::NameTable;

use crate::{
    config::{Host, Remote},
    netns::Netns,
    policy::DnsName,
    socket_options::Permits,
};

/// Looks up names for one workload. Answers are kept for as long as they say.
#[derive(Debug)]
pub(crate) struct Names {
    network: InNamespace,
    files: Files,
    resolver: RefCell<Option<Loaded>>,
}

/// Why a name has no address.
#[derive(Debug, Error)]
pub(crate) enum LookupError {
    /// Who to ask is not known.
    #[error("reading {}: {source}", path.display())]
    Unconfigured {
        /// The file that should say so.
        path: PathBuf,
        /// What is wrong with it.
        source: NetError,
    },
    /// The resolver says so, or none answered.
    #[error("{0}")]
    Failed(NetError),
    /// There are no addresses.
    #[error("the name has no address")]
    Nothing,
    /// Nobody answered.
    #[error("no resolver has answered within {} s", LONGEST_LOOKUP.as_secs())]
    Timeout,
}

/// What a name leads to.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Until when they are good.
    pub valid_until: tokio::time::Instant,
}

#[derive(Debug)]
struct Loaded {
    from: Seen,
    resolver: Arc<Resolver<InNamespace>>,
}

impl Names {
    /// Of the namespace `netns`, with marks that the guard lets its queries pass by.
    pub(crate) fn new(netns: &Netns, permits: Permits) -> Self {
        Self {
            network: InNamespace {
                tokio: TokioRuntimeProvider::new(),
                netns: netns.clone(),
                permits,
            },
            files: Files::of(netns),
            resolver: RefCell::default(),
        }
    }

    /// The addresses that `remote` has now, those of IPv4 first; at most [`MOST_ADDRESSES`].
    pub(crate) async fn look_up(&self, remote: &Remote) -> Result<Vec<SocketAddr>, LookupError> {
        let port = remote.port.get();
        let name = match &remote.host {
            Host::V4(address) => return Ok(vec![(*address, port).into()]),
            Host::V6(address) => return Ok(vec![(*address, port).into()]),
            Host::Name(name) => name,
        };
        let resolver = self.resolver()?;
        let found = timeout(LONGEST_LOOKUP, resolver.lookup_ip(name.as_str()))
            .await
            .map_err(|_| LookupError::Timeout)?
            .map_err(LookupError::Failed)?;
        let mut addresses: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
        addresses.sort_by_key(SocketAddr::is_ipv6);
        addresses.truncate(MOST_ADDRESSES);
        if addresses.is_empty() {
            return Err(LookupError::Nothing);
        }
        Ok(addresses)
    }

    /// Every address that `name` has now, and for how long. It has none where the resolvers say so.
    ///
    /// # Errors
    /// Where they can't say, for IPv4 or for IPv6.
    pub(crate) async fn addresses(&self, name: &DnsName) -> Result<Answer, LookupError> {
        let resolver = self.resolver()?;
        let mut addresses = Vec::new();
        let mut valid_until = Instant::now() + LONGEST_LIFE;
        for kind in [RecordType::A, RecordType::AAAA] {
            let found = timeout(LONGEST_LOOKUP, resolver.lookup(name.as_str(), kind))
                .await
                .map_err(|_| LookupError::Timeout)?;
            let life = match found {
                Ok(found) => {
                    let of_answers = found
                        .answers()
                        .iter()
                        .filter_map(|record| record.data.ip_addr());
                    addresses.extend(of_answers);
                    found.valid_until()
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
                    let life = nothing
                        .negative_ttl
                        .map_or(NO_LIFE, |seconds| Duration::from_secs(seconds.into()));
                    Instant::now() + life
                }
                Err(error) => return Err(LookupError::Failed(error)),
            };
            valid_until = valid_until.min(life);
        }
        Ok(Answer {
            addresses,
            valid_until: valid_until.into(),
        })
    }

    /// The resolver that the files say, which may have changed.
    fn resolver(&self) -> Result<Arc<Resolver<InNamespace>>, LookupError> {
        let seen = self.files.look();
        let mut loaded = self.resolver.borrow_mut();
        if let Some(Loaded { from, resolver }) = &*loaded
            && *from == seen
        {
            return Ok(resolver.clone());
        }
        let resolver = Arc::new(read(&seen, self.network.clone())?);
        *loaded = Some(Loaded {
            from: seen,
            resolver: resolver.clone(),
        });
        Ok(resolver)
    }
}

/// `resolv.conf` and `hosts`, as ip-netns(8) has it: a file in `/etc/netns/NAME` stands in for that of
/// `/etc`.
#[derive(Debug)]
struct Files {
    of_namespace: Option<PathBuf>,
}

/// What the files were at one moment.
type Seen = [(PathBuf, Option<SystemTime>); 2];

impl Files {
    fn of(netns: &Netns) -> Self {
        let name = ["/run/netns", "/var/run/netns"]
            .iter()
            .find_map(|directory| netns.path().strip_prefix(directory).ok());
        Self {
            of_namespace: name.map(|name| Path::new("/etc/netns").join(name)),
        }
    }

    fn look(&self) -> Seen {
        ["resolv.conf", "hosts"].map(|file| {
            let own = self.of_namespace.as_ref().map(|it| it.join(file));
            let path = own
                .filter(|path| path.exists())
                .unwrap_or_else(|| Path::new("/etc").join(file));
            let modified = fs::metadata(&path).and_then(|file| file.modified()).ok();
            (path, modified)
        })
    }
}

fn read(
    [(resolv_conf, _), (hosts, _)]: &Seen,
    network: InNamespace,
) -> Result<Resolver<InNamespace>, LookupError> {
    let unconfigured = |source| LookupError::Unconfigured {
        path: resolv_conf.clone(),
        source,
    };
    let (config, mut options) = fs::read(resolv_conf)
        .map_err(NetError::from)
        .and_then(parse_resolv_conf)
        .map_err(unconfigured)?;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    let mut resolver = Resolver::builder_with_config(config, network)
        .with_options(options)
        .build()
        .map_err(unconfigured)?;
    let mut known = Hosts::default();
    if let Ok(file) = File::open(hosts) {
        // What can't be read names nobody.
        let _ = known.read_hosts_conf(file);
    }
    resolver.set_hosts(Arc::new(known));
    Ok(resolver)
}

/// Sockets of a namespace, for the resolver.
#[derive(Clone)]
struct InNamespace {
    tokio: TokioRuntimeProvider,
    netns: Netns,
    permits: Permits,
}

impl fmt::Debug for InNamespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { netns, .. } = self;
        f.debug_struct("InNamespace")
            .field("netns", netns)
            .finish_non_exhaustive()
    }
}

impl InNamespace {
    fn udp(&self, local: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.netns.run(|| {
            let kind = Type::DGRAM.nonblocking();
            let socket = Socket::new(Domain::for_address(local), kind, None)?;
            socket.bind(&local.into())?;
            Ok(socket)
        })?;
        self.permits.permit(&socket)?;
        UdpSocket::from_std(StdUdpSocket::from(OwnedFd::from(socket)))
    }

    fn tcp(&self, server: SocketAddr) -> io::Result<TcpSocket> {
        let socket = self.netns.run(|| {
            let kind = Type::STREAM.nonblocking();
            Socket::new(Domain::for_address(server), kind, Some(Protocol::TCP))
        })?;
        self.permits.permit(&socket)?;
        let socket = StdTcpStream::from(OwnedFd::from(socket));
        Ok(TcpSocket::from_std_stream(socket))
    }
}

type Made<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

impl RuntimeProvider for InNamespace {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.tokio.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _from: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Made<Self::Tcp> {
        let socket = self.tcp(server);
        let limit = limit.unwrap_or(LONGEST_LOOKUP);
        Box::pin(async move {
            let connected = timeout(limit, socket?.connect(server)).await;
            let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            Ok(AsyncIoTokioAsStd(stream))
        })
    }

    fn bind_udp(&self, local: SocketAddr, _server: SocketAddr) -> Made<Self::Udp> {
        let socket = self.udp(local);
        Box::pin(async move { socket })
    }
}

/// A resolver may say that it does not know in several ways; whoever waits for one has a limit.
const LONGEST_LOOKUP: Duration = Duration::from_secs(10);

/// An answer is asked for again after a day at the latest.
const LONGEST_LIFE: Duration = Duration::from_hours(24);

/// How long that a name has no address is good for, where no resolver says.
const NO_LIFE: Duration = Duration::from_secs(5);

/// A name may have thousands; nobody waits for all of them in turn.
const MOST_ADDRESSES: usize = 6;
