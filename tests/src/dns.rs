//! A name server on a host, whose records a test changes as it goes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::BinDecodable as _;

use crate::testbed::Host;

/// A name server, until it drops. It answers over UDP and, where an answer is too long for that, over
/// TCP.
#[derive(Debug)]
pub struct NameServer {
    records: Arc<Records>,
    resolv_conf: Vec<PathBuf>,
    address: IpAddr,
}

#[derive(Debug, Default)]
struct Records {
    addresses: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    aliases: Mutex<BTreeMap<String, String>>,
    is_silent: AtomicBool,
    spoils: Mutex<Option<Spoil>>,
    queries: AtomicUsize,
    has_ended: AtomicBool,
}

/// What is wrong with what it sends over UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    /// Before each answer comes one with another ID, with this address: from whoever has to guess it.
    Forged(IpAddr),
    /// After its header each answer is noise.
    Noise,
}

impl NameServer {
    /// Starts it on `host`, as the one that the programs of `clients` ask.
    pub fn start(host: &Host, clients: &[&Host]) -> Result<Self> {
        let (udp, tcp) = host.run_in_thread(|| {
            anyhow::Ok((
                UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT))?,
                TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT))?,
            ))
        })??;
        udp.set_read_timeout(Some(TICK))?;
        tcp.set_nonblocking(true)?;
        let records = Arc::<Records>::default();
        let (of_udp, of_tcp) = (records.clone(), records.clone());
        thread::spawn(move || of_udp.serve_udp(&udp));
        thread::spawn(move || of_tcp.serve_tcp(&tcp));
        let mut this = Self {
            records,
            resolv_conf: Vec::new(),
            address: host.v4(),
        };
        for client in clients {
            this.serve(client)?;
        }
        Ok(this)
    }

    /// What `name` (with its final dot) resolves to from now on. Answers are good for a second.
    pub fn set(&self, name: &str, addresses: &[IpAddr]) {
        let mut known = self.records.addresses();
        known.insert(name.to_owned(), addresses.to_vec());
    }

    /// That `name` (with its final dot) is another name of `target` from now on.
    pub fn set_alias(&self, name: &str, target: &str) {
        let mut aliases = lock(&self.records.aliases);
        aliases.insert(name.to_owned(), target.to_owned());
    }

    /// What is wrong with what it sends over UDP from now on.
    pub fn spoil(&self, spoil: Option<Spoil>) {
        *lock(&self.records.spoils) = spoil;
    }

    /// Whether it answers nothing any more.
    pub fn set_silent(&self, is_silent: bool) {
        self.records.is_silent.store(is_silent, Ordering::Relaxed);
    }

    /// How many queries have come.
    pub fn queries(&self) -> usize {
        self.records.queries.load(Ordering::Relaxed)
    }

    fn serve(&mut self, client: &Host) -> Result<()> {
        let netns = client.netns();
        let name = netns.file_name().context("a namespace without a name")?;
        let directory = PathBuf::from("/etc/netns").join(name);
        fs::create_dir_all(&directory)?;
        let file = directory.join("resolv.conf");
        let address = self.address;
        fs::write(
            &file,
            format!("nameserver {address}\noptions timeout:2 attempts:2\n"),
        )?;
        self.resolv_conf.push(file);
        Ok(())
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.records.has_ended.store(true, Ordering::Relaxed);
        for file in &self.resolv_conf {
            let _ = file.parent().map(fs::remove_dir_all);
        }
    }
}

impl Records {
    fn addresses(&self) -> MutexGuard<'_, BTreeMap<String, Vec<IpAddr>>> {
        lock(&self.addresses)
    }

    fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut query = [0; 4096];
        while !self.has_ended() {
            let Ok((len, from)) = socket.recv_from(&mut query) else {
                continue;
            };
            if let Some(answer) = self.answer(&query[..len], LONGEST_UDP) {
                let spoil = *lock(&self.spoils);
                for datagram in spoiled(answer, spoil) {
                    let _ = socket.send_to(&datagram, from);
                }
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while !self.has_ended() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let _ = self.converse(stream);
                }
                Err(_) => thread::sleep(TICK),
            }
        }
    }

    /// Messages over TCP follow their length (RFC 1035 section 4.2.2).
    fn converse(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        loop {
            let mut len = [0; 2];
            stream.read_exact(&mut len)?;
            let mut query = vec![0; u16::from_be_bytes(len).into()];
            stream.read_exact(&mut query)?;
            let answer = self.answer(&query, usize::MAX).context("it is silent")?;
            stream.write_all(&u16::try_from(answer.len())?.to_be_bytes())?;
            stream.write_all(&answer)?;
        }
    }

    fn answer(&self, query: &[u8], longest: usize) -> Option<Vec<u8>> {
        self.queries.fetch_add(1, Ordering::Relaxed);
        if self.is_silent.load(Ordering::Relaxed) {
            return None;
        }
        let asked = Message::from_bytes(query).ok()?;
        let question = asked.queries.first()?.clone();
        let mut name = question.name().clone();
        let known = self.addresses();
        let alias = lock(&self.aliases).get(&name.to_ascii()).cloned();
        let mut answer = Message::response(asked.metadata.id, asked.metadata.op_code);
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_available = true;
        answer.add_query(question.clone());
        if let Some(alias) = alias {
            let target = Name::from_ascii(alias).ok()?;
            let data = RData::CNAME(CNAME(target.clone()));
            answer.add_answer(Record::from_rdata(name, SECONDS_TO_LIVE, data));
            name = target;
        }
        match known.get(&name.to_ascii()) {
            None => answer.metadata.response_code = ResponseCode::NXDomain,
            Some(addresses) => {
                for address in addresses {
                    let data = match (address, question.query_type()) {
                        (IpAddr::V4(v4), RecordType::A) => RData::A(A(*v4)),
                        (IpAddr::V6(v6), RecordType::AAAA) => RData::AAAA(AAAA(*v6)),
                        _ => continue,
                    };
                    answer.add_answer(Record::from_rdata(name.clone(), SECONDS_TO_LIVE, data));
                }
            }
        }
        let whole = answer.to_vec().ok()?;
        if whole.len() <= longest {
            return Some(whole);
        }
        answer.answers.clear();
        answer.metadata.truncation = true;
        answer.to_vec().ok()
    }
}

/// Asks `server` over UDP for the addresses of `name`, of the family of `like`, as programs do.
pub fn look_up(name: &str, server: SocketAddr, like: IpAddr) -> Result<Vec<IpAddr>> {
    let local: IpAddr = match server {
        SocketAddr::V4(_) => [0; 4].into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let kind = match like {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    };
    // The port is as good as chance.
    let id = socket.local_addr()?.port();
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(Name::from_ascii(name)?, kind));
    socket.send(&question.to_vec()?)?;
    let mut answer = [0; 4096];
    loop {
        let length = socket.recv(&mut answer).context("no answer")?;
        let Ok(answer) = Message::from_bytes(&answer[..length]) else {
            continue;
        };
        if answer.metadata.id == id {
            let records = answer.answers.iter();
            return Ok(records.filter_map(|it| it.data.ip_addr()).collect());
        }
    }
}

fn spoiled(mut answer: Vec<u8>, spoil: Option<Spoil>) -> Vec<Vec<u8>> {
    match spoil {
        None => vec![answer],
        Some(Spoil::Noise) => {
            for (byte, nth) in answer[HEADER..].iter_mut().zip(0_u8..) {
                *byte = 0xc0 | nth;
            }
            vec![answer]
        }
        Some(Spoil::Forged(address)) => {
            let forged = Message::from_bytes(&answer).ok().and_then(|mut forged| {
                let name = forged.queries.first()?.name().clone();
                let data = match address {
                    IpAddr::V4(v4) => RData::A(A(v4)),
                    IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
                };
                forged.metadata.id ^= 1;
                forged.metadata.response_code = ResponseCode::NoError;
                forged.answers = vec![Record::from_rdata(name, 3600, data)];
                forged.to_vec().ok()
            });
            forged.into_iter().chain([answer]).collect()
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const HEADER: usize = 12;
const PATIENCE: Duration = Duration::from_secs(5);
const PORT: u16 = 53;
const TICK: Duration = Duration::from_millis(20);
const SECONDS_TO_LIVE: u32 = 1;

/// Without an extension that says otherwise (RFC 1035 section 4.2.1).
const LONGEST_UDP: usize = 512;
