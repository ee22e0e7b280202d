//! The eBPF object, loaded once for each workload over the maps of the instance.
//!
//! For each new `EbpfLoader` aya 0.14 reads all of the kernel's type information, which takes longer than all
//! else in loading, and which this object has no use for. So loaders are kept, and what differs from
//! workload to workload is written into the object instead of told to a loader.

use std::{cell::RefCell, collections::HashMap, fmt};

use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use ebpf_abi::{SocketLayout, WorkloadId};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

use super::{BpfError, OBJECT, Options, Pins, Tenancy, dns_answers, local_hops};

/// The object, to be loaded over the instance's maps.
pub(super) struct Object {
    pins: Pins,
    options: Options,
    variables: Variables,
    loaders: RefCell<HashMap<Kind, EbpfLoader<'static>>>,
}

/// Which programs of the object an instance is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Purpose {
    /// Those that steer and guard.
    Steering,
    /// Those that overhear what resolvers answer.
    Overhearing,
}

/// What loaders differ by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    purpose: Purpose,
    is_accelerated: bool,
}

impl Object {
    /// Nothing is loaded yet.
    ///
    /// # Errors
    /// [`BpfError::Missing`] where it lacks a variable.
    pub(super) fn new(pins: Pins, options: Options) -> Result<Self, BpfError> {
        Ok(Self {
            pins,
            options,
            variables: Variables::find()?,
            loaders: RefCell::default(),
        })
    }

    pub(super) fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Loads it; with a `layout`, where local hops are accelerated.
    pub(super) fn load(
        &self,
        workload: WorkloadId,
        tenancy: Tenancy,
        layout: Option<&'static SocketLayout>,
        purpose: Purpose,
    ) -> Result<Ebpf, BpfError> {
        let kind = Kind {
            purpose,
            is_accelerated: layout.is_some(),
        };
        let mut loaders = self.loaders.borrow_mut();
        let loader = loaders
            .entry(kind)
            .or_insert_with(|| self.loader(layout, purpose));
        let mut object = loader
            .load(&self.variables.written(workload, tenancy))
            .map_err(|error| BpfError::Load(Box::new(error)))?;
        if self.options.debug {
            // Each instance has a log of its own; the logger's task ends with the runtime.
            match EbpfLogger::init(&mut object) {
                Ok(logger) => forward(logger),
                Err(error) => tracing::warn!(%error, "the eBPF programs' log can't be read"),
            }
        }
        Ok(object)
    }

    fn loader(
        &self,
        layout: Option<&'static SocketLayout>,
        purpose: Purpose,
    ) -> EbpfLoader<'static> {
        let level = if self.options.debug {
            &LOG_ALL
        } else {
            &LOG_NONE
        };
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global(aya_log::LEVEL, level, true);
        if let Some(layout) = layout {
            loader.override_global("SOCKET_LAYOUT", layout, true);
        }
        for name in MAPS {
            loader.map_pin_path(name, self.pins.map(name));
        }
        for name in local_hops::MAPS {
            if layout.is_some() {
                loader.map_pin_path(name, self.pins.map(name));
            } else {
                // Not used; the object names them all the same.
                loader.map_max_entries(name, 1);
            }
        }
        if purpose == Purpose::Steering {
            for name in dns_answers::MAPS {
                loader.map_max_entries(name, 1);
            }
        }
        if let Some(entries) = self.options.flow_table_entries {
            loader.map_max_entries("FLOWS", entries);
        }
        loader
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pins, options, .. } = self;
        f.debug_struct("Object")
            .field("pins", pins)
            .field("options", options)
            .finish_non_exhaustive()
    }
}

/// Where the object has what its programs know of their workload, as offsets in the file.
#[derive(Clone, Copy, Debug)]
struct Variables {
    workload: usize,
    shares_netns: usize,
}

impl Variables {
    fn find() -> Result<Self, BpfError> {
        Ok(Self {
            workload: variable("WORKLOAD", size_of::<u64>())?,
            shares_netns: variable("SHARES_NETNS", size_of::<u32>())?,
        })
    }

    /// The object with them.
    fn written(self, workload: WorkloadId, tenancy: Tenancy) -> Vec<u8> {
        let shares_netns = u32::from(tenancy == Tenancy::Shared);
        let mut object = OBJECT.to_vec();
        write(&mut object, self.workload, &workload.0.to_ne_bytes());
        write(&mut object, self.shares_netns, &shares_netns.to_ne_bytes());
        object
    }
}

/// Where the object has the initial value of this variable.
fn variable(name: &'static str, size: usize) -> Result<usize, BpfError> {
    let find = || {
        let file = object::File::parse(OBJECT).ok()?;
        let symbol = file.symbol_by_name(name)?;
        let section = file.section_by_index(symbol.section_index()?).ok()?;
        let (start, length) = section.file_range()?;
        let at = symbol.address().checked_sub(section.address())?;
        let is_whole = symbol.size() == size as u64 && at.checked_add(symbol.size())? <= length;
        is_whole.then_some((start + at) as usize)
    };
    find().ok_or(BpfError::Missing(name))
}

fn write(object: &mut [u8], at: usize, value: &[u8]) {
    object[at..at + value.len()].copy_from_slice(value);
}

/// Every map that the workloads of an instance share in any case.
const MAPS: [&str; 18] = [
    "ACCEPTED",
    "ADDRESSES",
    "CLIENTS",
    "COUNTERS",
    "FLOWS",
    "HEARTBEAT",
    "INGRESS_PORTS",
    "INNER_FLOWS",
    "LISTENERS",
    "ORIGINALS",
    "PERMITTED",
    "PROGRAM_PORTS",
    "REFUSALS",
    "REFUSED",
    "TOKEN",
    "TRUE_PEERS",
    "UDP_DENIED",
    "WORKLOADS",
];

const LOG_NONE: u8 = 0;
const LOG_ALL: u8 = 5;

/// Hands the programs' log lines to the agent's own log until the process ends.
fn forward<T: log::Log + Send + 'static>(mut logger: EbpfLogger<T>) {
    std::thread::spawn(move || {
        loop {
            logger.flush();
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workloads_number_is_written_where_its_programs_read_it_and_nowhere_else() {
        let variables = Variables::find().unwrap();
        let zero = variables.written(WorkloadId(0), Tenancy::Sole);
        assert_eq!(zero, OBJECT);
        let number = 0x1122_3344_5566_7788_u64;
        let written = variables.written(WorkloadId(number), Tenancy::Shared);
        let read = aya_obj::Object::parse(&written).unwrap();
        let data = read
            .maps
            .iter()
            .filter(|(name, _)| name.starts_with(".rodata"));
        let has = |bytes: &[u8]| {
            let places = data.clone().map(|(_, map)| {
                let windows = map.data().windows(bytes.len());
                windows.filter(|part| *part == bytes).count()
            });
            places.sum::<usize>()
        };
        assert_eq!(has(&number.to_ne_bytes()), 1);
        let changed = zero
            .iter()
            .zip(&written)
            .filter(|(one, other)| one != other);
        assert_eq!(changed.count(), 8 + 1);
    }
}
