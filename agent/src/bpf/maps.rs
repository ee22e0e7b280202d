//! Typed handles to the pinned maps, by which the control thread tells and is told.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::maps::{HashMap, LpmTrie, MapData, MapError, PerCpuArray, SockHash, lpm_trie::Key};
use ebpf_abi::{
    AddressEntry, AddressKey, Counter, Endpoint, FlowKey, IPV4, IPV6, ListenerKey,
    OriginalDestination, PortKey, ProgramPort, Workload, WorkloadId,
};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{BpfError, Pins};

/// The maps by which the agent tells the kernel what it knows of the workloads.
pub struct ControlMaps {
    workloads: HashMap<MapData, WorkloadId, Workload>,
    addresses: LpmTrie<MapData, AddressKey, AddressEntry>,
    ingress_ports: HashMap<MapData, PortKey, u32>,
    listeners: SockHash<MapData, ListenerKey>,
    clients: HashMap<MapData, FlowKey, Endpoint>,
    program_ports: HashMap<MapData, ProgramPort, u64>,
    udp_denied: HashMap<MapData, WorkloadId, u32>,
}

impl fmt::Debug for ControlMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // aya's socket hash has none.
        f.debug_struct("ControlMaps").finish_non_exhaustive()
    }
}

impl ControlMaps {
    /// Opens the maps that [`super::Steering`] has pinned.
    pub fn open(pins: &Pins) -> Result<Self, BpfError> {
        Ok(Self {
            workloads: open(pins, "WORKLOADS")?,
            addresses: open(pins, "ADDRESSES")?,
            ingress_ports: open(pins, "INGRESS_PORTS")?,
            listeners: open(pins, "LISTENERS")?,
            clients: open(pins, "CLIENTS")?,
            program_ports: open(pins, "PROGRAM_PORTS")?,
            udp_denied: open(pins, "UDP_DENIED")?,
        })
    }

    /// Forgets the workloads that are not served any more: the hooks refuse what they don't know.
    pub fn forget_all_but(&mut self, served: &[WorkloadId]) -> Result<(), BpfError> {
        let stale: Vec<_> = self
            .workloads
            .keys()
            .filter_map(Result::ok)
            .filter(|id| !served.contains(id))
            .collect();
        stale
            .iter()
            .try_for_each(|id| self.workloads.remove(id).map_err(full("WORKLOADS")))
    }

    /// Forgets whom an agent has named that was killed while it dialled: in a namespace that is shared,
    /// who gets the same port would be taken for the agent.
    pub fn forget_clients(&mut self) {
        let stale: Vec<_> = self.clients.keys().filter_map(Result::ok).collect();
        for key in stale {
            let _ = self.clients.remove(&key);
        }
    }

    /// Forgets one of them, and its ports and addresses. Where its programs listen is for the kernel
    /// side to know as long as there are any.
    pub fn forget(&mut self, id: WorkloadId) -> Result<(), BpfError> {
        if self.workloads.get(&id, 0).is_ok() {
            self.workloads.remove(&id).map_err(full("WORKLOADS"))?;
        }
        let ports: Vec<_> = self.ingress_ports.keys().filter_map(Result::ok).collect();
        for key in ports.iter().filter(|key| key.workload == id) {
            let _ = self.ingress_ports.remove(key);
        }
        self.set_addresses(id, &[])
    }

    /// Forgets where a workload's programs listened, and that it may send no datagrams: its programs
    /// are not attached any more.
    pub fn forget_released(&mut self, id: WorkloadId) {
        let _ = self.udp_denied.remove(&id);
        let ports: Vec<_> = self.program_ports.keys().filter_map(Result::ok).collect();
        for key in ports.iter().filter(|key| key.workload == id) {
            let _ = self.program_ports.remove(key);
        }
    }

    /// Tells whether a workload's datagrams are dropped, also while no agent runs.
    pub fn set_udp_denied(&mut self, id: WorkloadId, is_denied: bool) -> Result<(), BpfError> {
        if is_denied {
            let set = self.udp_denied.insert(id, 1, 0);
            return set.map_err(full("UDP_DENIED"));
        }
        if self.udp_denied.get(&id, 0).is_ok() {
            self.udp_denied.remove(&id).map_err(full("UDP_DENIED"))?;
        }
        Ok(())
    }

    /// Tells the state of a workload.
    pub fn set_workload(&mut self, id: WorkloadId, state: Workload) -> Result<(), BpfError> {
        self.workloads
            .insert(id, state, 0)
            .map_err(full("WORKLOADS"))
    }

    /// Makes `socket` the ingress listener of one worker in a workload. The map is a sockhash, which
    /// no socket with TLS may ever enter: so it takes listeners alone.
    pub fn set_listener(
        &mut self,
        workload: WorkloadId,
        worker: u32,
        ipv6: bool,
        socket: BorrowedFd<'_>,
    ) -> Result<(), BpfError> {
        let family = if ipv6 { IPV6 } else { IPV4 };
        self.listeners
            .insert(
                ListenerKey {
                    workload,
                    family,
                    worker,
                },
                socket.as_raw_fd(),
                0,
            )
            .map_err(full("LISTENERS"))
    }

    /// Tells which ports' ingress is steered and which goes straight to the program.
    ///
    /// `ports` are those that differ from the default.
    pub fn set_ingress_ports(
        &mut self,
        workload: WorkloadId,
        default_is_plaintext: bool,
        ports: &[(u16, bool)],
    ) -> Result<(), BpfError> {
        let key = |port| PortKey {
            workload,
            port,
            reserved: 0,
        };
        let value = |plaintext| {
            if plaintext {
                PortKey::PLAINTEXT
            } else {
                PortKey::STEERED
            }
        };
        let wanted: Vec<_> = ports
            .iter()
            .map(|(port, plaintext)| (key(u32::from(*port)), value(*plaintext)))
            .chain([(key(PortKey::DEFAULT), value(default_is_plaintext))])
            .collect();
        let stale: Vec<_> = self
            .ingress_ports
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.workload == workload)
            .filter(|key| !wanted.iter().any(|(wanted, _)| wanted == key))
            .collect();
        for key in stale {
            let _ = self.ingress_ports.remove(&key);
        }
        for (key, value) in wanted {
            self.ingress_ports
                .insert(key, value, 0)
                .map_err(full("INGRESS_PORTS"))?;
        }
        Ok(())
    }

    /// Replaces what is known of a workload's addresses. New entries come before old ones go, so
    /// that an address that stays is never unknown.
    pub fn set_addresses(
        &mut self,
        workload: WorkloadId,
        addresses: &[AddressPrefix],
    ) -> Result<(), BpfError> {
        let wanted: Vec<_> = addresses
            .iter()
            .map(|prefix| (prefix.key(workload), prefix.entry()))
            .collect();
        for (key, entry) in &wanted {
            self.addresses
                .insert(key, *entry, 0)
                .map_err(full("ADDRESSES"))?;
        }
        let same = |a: &Key<AddressKey>, b: &Key<AddressKey>| {
            a.prefix_len() == b.prefix_len() && a.data() == b.data()
        };
        let own = AddressKey::new(workload, [0; 4]).workload;
        let stale: Vec<_> = self
            .addresses
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.data().workload == own)
            .filter(|key| !wanted.iter().any(|(wanted, _)| same(wanted, key)))
            .collect();
        for key in stale {
            let _ = self.addresses.remove(&key);
        }
        Ok(())
    }
}

/// What a namespace's interfaces say of one prefix: from which own address it is reached, and
/// whether it is that address itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressPrefix {
    /// The prefix's address.
    pub address: IpAddr,
    /// Its length in bits, of the address's own family.
    pub length: u8,
    /// The namespace's own address from which the prefix is reached.
    pub source: IpAddr,
    /// Whether the prefix is an own address.
    pub local: bool,
}

impl AddressPrefix {
    fn key(&self, workload: WorkloadId) -> Key<AddressKey> {
        let mapped = if self.address.is_ipv4() { 96 } else { 0 };
        let bits = AddressKey::WORKLOAD_BITS + mapped + u32::from(self.length);
        let ip = Endpoint::from(SocketAddr::new(self.address, 0)).ip;
        Key::new(bits, AddressKey::new(workload, ip))
    }

    fn entry(&self) -> AddressEntry {
        let source = Endpoint::from(SocketAddr::new(self.source, 0)).ip;
        AddressEntry {
            source,
            local: self.local.into(),
        }
    }
}

/// What the kernel side reports: counters, tables, and where it puts single refusals.
pub struct KernelReports {
    counters: PerCpuArray<MapData, u64>,
    flows: HashMap<MapData, FlowKey, OriginalDestination>,
    flow_capacity: u64,
    clients: HashMap<MapData, FlowKey, Endpoint>,
    client_capacity: u64,
}

impl KernelReports {
    /// Opens the maps that [`super::Steering`] has pinned.
    pub fn open(pins: &Pins) -> Result<Self, BpfError> {
        Ok(Self {
            counters: open(pins, "COUNTERS")?,
            flows: open(pins, "FLOWS")?,
            flow_capacity: capacity(pins, "FLOWS")?,
            clients: open(pins, "CLIENTS")?,
            client_capacity: capacity(pins, "CLIENTS")?,
        })
    }

    /// All counters by their [index](ebpf_abi::Counter::index), over all CPUs, since their map was made.
    pub fn counters(&self) -> Vec<u64> {
        let value = |index| {
            self.counters
                .get(&index, 0)
                .map_or(0, |values| values.iter().sum())
        };
        (0..Counter::COUNT).map(value).collect()
    }

    /// The tables that fill with connections under way.
    pub fn tables(&self) -> [Table; 2] {
        [
            Table {
                name: TableName::Flows,
                entries: self.flows.keys().count() as u64,
                capacity: self.flow_capacity,
            },
            Table {
                name: TableName::Clients,
                entries: self.clients.keys().count() as u64,
                capacity: self.client_capacity,
            },
        ]
    }

    /// The ring buffer that refusals are put into one by one, with its size in bytes.
    pub fn refusals(pins: &Pins) -> Result<(OwnedFd, usize), BpfError> {
        const NAME: &str = "REFUSALS";
        let failed = |source| BpfError::Map { name: NAME, source };
        let map = MapData::from_pin(pins.map(NAME)).map_err(failed)?;
        let bytes = map.info().map_err(failed)?.max_entries() as usize;
        let map = map.fd().as_fd().try_clone_to_owned();
        Ok((map.map_err(BpfError::Ring)?, bytes))
    }
}

impl fmt::Debug for KernelReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelReports").finish_non_exhaustive()
    }
}

/// How full a table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Which.
    pub name: TableName,
    /// Entries in it now.
    pub entries: u64,
    /// Entries it can hold.
    pub capacity: u64,
}

/// A table that fills with connections under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableName {
    /// Egress connections that no worker has accepted yet.
    Flows,
    /// Ingress connections that no program has accepted yet.
    Clients,
}

impl TableName {
    /// What metrics call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flows => "flows",
            Self::Clients => "clients",
        }
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds, as `bpf_ktime_get_ns` reads it.
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

pub(super) fn open<T>(pins: &Pins, name: &'static str) -> Result<T, BpfError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let failed = |source| BpfError::Map { name, source };
    let data = MapData::from_pin(pins.map(name)).map_err(failed)?;
    T::try_from(aya::maps::Map::from_map_data(data).map_err(failed)?).map_err(failed)
}

fn capacity(pins: &Pins, name: &'static str) -> Result<u64, BpfError> {
    MapData::from_pin(pins.map(name))
        .and_then(|data| data.info())
        .map(|info| info.max_entries().into())
        .map_err(|source| BpfError::Map { name, source })
}

pub(super) fn full(name: &'static str) -> impl Fn(MapError) -> BpfError {
    move |source| BpfError::Map { name, source }
}
