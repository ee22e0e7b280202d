//! Where links and maps are pinned, so that they outlive the agent.
//!
//! `<bpffs>/sealwire/<instance>/` (mode 0700) holds `maps-<version>/`, a directory of links for each
//! workload, and `agent/`. The version is [that of the maps](super::abi): those of another version are
//! never reused, links of any version are taken over.

use std::{
    collections::HashSet,
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::{
        stat::fstat,
        statfs::{BPF_FS_MAGIC, statfs},
    },
};

use super::{BpfError, abi::version, clsact, sys};
use crate::netns::{Interfaces, Netns};

/// The pin directory of one agent instance.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    maps: PathBuf,
    fresh: bool,
    new_maps: bool,
}

impl Pins {
    /// The pin directory of `instance`, created if need be; mounts a bpf file system at `bpffs`
    /// where there is none.
    ///
    /// # Errors
    /// [`BpfError::Bpffs`] where the directory can't be made or the mount is refused.
    pub fn open(bpffs: &Path, instance: &str) -> Result<Self, BpfError> {
        let failed = |source| BpfError::Bpffs {
            path: bpffs.to_owned(),
            source,
        };
        fs::create_dir_all(bpffs).map_err(failed)?;
        if !is_bpffs(bpffs).map_err(failed)? {
            mount(
                Some("bpf"),
                bpffs,
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .map_err(|errno| failed(errno.into()))?;
        }
        let root = bpffs.join("sealwire").join(instance);
        let maps = root.join(format!("maps-{}", version()));
        let (fresh, new_maps) = (!root.exists(), !maps.exists());
        private_directory(&bpffs.join("sealwire")).map_err(failed)?;
        private_directory(&root).map_err(failed)?;
        private_directory(&maps).map_err(failed)?;
        Ok(Self {
            root,
            maps,
            fresh,
            new_maps,
        })
    }

    /// Whether nothing of the instance was pinned before: then a failed start may remove it all.
    pub fn are_fresh(&self) -> bool {
        self.fresh
    }

    /// Whether there were no maps of this version before: then the guard has no mark of any socket.
    pub(crate) fn has_new_maps(&self) -> bool {
        self.new_maps
    }

    /// Where the map `name` is pinned.
    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// The directory of `owner`'s links, created if need be.
    pub(super) fn links(&self, owner: &str) -> Result<PathBuf, BpfError> {
        let path = self.root.join(owner);
        match private_directory(&path) {
            Ok(()) => Ok(path),
            Err(source) => Err(BpfError::Pin { path, source }),
        }
    }

    /// The link of one of the programs for the agent's own sockets. By the number of its cgroup, as a
    /// link can't move.
    pub(super) fn agent(&self, program: &str, cgroup: BorrowedFd<'_>) -> Result<PathBuf, BpfError> {
        let status = fstat(cgroup).map_err(|errno| BpfError::Cgroup(errno.into()))?;
        let links = self.links(super::AGENT)?;
        Ok(links.join(format!("{program}-{}", status.st_ino)))
    }

    /// The cgroups whose sockets are agents': that of this one, and those of agents before it as long as
    /// sockets of theirs are in use.
    pub(crate) fn agent_cgroups(&self) -> Result<HashSet<u64>, BpfError> {
        let pins = self.agents()?;
        Ok(pins.into_iter().map(|(cgroup, _)| cgroup).collect())
    }

    /// Takes the programs for agents' sockets away from other cgroups than these, in which an agent has
    /// run before.
    pub(crate) fn forget_agents_but(&self, cgroups: &HashSet<u64>) -> Result<(), BpfError> {
        for (cgroup, path) in self.agents()? {
            if !cgroups.contains(&cgroup) {
                fs::remove_file(&path).map_err(|source| BpfError::Pin { path, source })?;
            }
        }
        Ok(())
    }

    fn agents(&self) -> Result<Vec<(u64, PathBuf)>, BpfError> {
        let links = self.links(super::AGENT)?;
        let failed = |source| BpfError::Pin {
            path: links.clone(),
            source,
        };
        let mut agents = Vec::new();
        for pin in fs::read_dir(&links).map_err(failed)? {
            let path = pin.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let cgroup = name.rsplit_once('-').and_then(|(_, it)| it.parse().ok());
            if let Some(cgroup) = cgroup {
                agents.push((cgroup, path));
            }
        }
        Ok(agents)
    }

    /// Whether there are links of this owner.
    pub(super) fn has_links(&self, owner: &str) -> bool {
        self.root.join(owner).exists()
    }

    /// Removes one owner's links, and its filters from devices.
    pub(super) fn release(&self, owner: &str) -> Result<(), BpfError> {
        let path = self.root.join(owner);
        if !path.exists() {
            return Ok(());
        }
        release_devices(std::slice::from_ref(&path))?;
        match remove_pins(&path) {
            Ok(_) => Ok(()),
            Err(source) => Err(BpfError::Pin { path, source }),
        }
    }

    /// The link directories that belong to none of `owners`: workloads that were served before.
    pub(super) fn strangers(&self, owners: &[String]) -> io::Result<Vec<PathBuf>> {
        let mut strangers = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let known = owners.iter().any(|owner| name == owner.as_str());
            if !known && !name.to_string_lossy().starts_with("maps-") {
                strangers.push(entry.path());
            }
        }
        Ok(strangers)
    }

    /// Removes the maps of other versions; to be called once no link uses them.
    pub(super) fn remove_old_maps(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let old = path.file_name().is_some_and(|name| {
                name.to_string_lossy().starts_with("maps-") && path != self.maps
            });
            if old {
                remove_pins(&path)?;
            }
        }
        Ok(())
    }

    /// Removes every pin of `instance`: nothing is steered, guarded or refused any more.
    ///
    /// Links go before maps. Returns how many objects were unpinned.
    ///
    /// # Errors
    /// [`BpfError::Pin`] names the file that could not be removed, [`BpfError::Release`] the
    /// workload whose devices still have filters: then everything is still pinned.
    pub fn detach(bpffs: &Path, instance: &str) -> Result<usize, BpfError> {
        let root = bpffs.join("sealwire").join(instance);
        let failed = |source| BpfError::Pin {
            path: root.clone(),
            source,
        };
        let entries = match fs::read_dir(&root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(failed(error)),
        };
        let mut directories = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()
            .map_err(failed)?;
        directories.sort_by_key(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("maps-"))
        });
        release_devices(&directories)?;
        let mut removed = 0;
        for directory in directories {
            removed += remove_pins(&directory).map_err(|source| BpfError::Pin {
                path: directory.clone(),
                source,
            })?;
        }
        fs::remove_dir(&root).map_err(failed)?;
        Ok(removed)
    }
}

/// Removes what no pin holds: the filters on devices, by workload, in whose namespaces they are.
fn release_devices(directories: &[PathBuf]) -> Result<(), BpfError> {
    let mut places = Vec::new();
    for links in directories {
        let failed = |source| BpfError::Release {
            owner: links
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            source,
        };
        if clsact::is_used_by(links).map_err(failed)? {
            // What is left without a namespace has gone with it.
            if let Some(netns) = namespace(links).map_err(|error| failed(error.into()))? {
                places.push((links, netns, failed));
            }
        }
    }
    // The filters of all first: a qdisc may be shared with a workload that was served before.
    for step in [clsact::remove_filters, clsact::remove_qdiscs] {
        for (links, netns, failed) in &places {
            let work = || Ok(step(links, &Interfaces::list()?.devices));
            netns
                .run(work)
                .map_err(Into::into)
                .and_then(|done| done)
                .map_err(failed)?;
        }
    }
    Ok(())
}

/// The namespace that the workload's ingress program is attached to, if it is still there.
fn namespace(links: &Path) -> io::Result<Option<Netns>> {
    let link = match sys::object_get(&links.join("ingress")) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // Zero where the namespace is gone.
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let inode = info
        .lines()
        .find_map(|line| line.strip_prefix("netns_ino:"))
        .and_then(|inode| inode.trim().parse().ok())
        .ok_or_else(|| io::Error::other("the link `ingress` names no namespace"))?;
    Ok(Netns::find(inode))
}

/// Removes a directory of pins and what is pinned in it; returns how many objects that were.
pub(super) fn remove_pins(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(directory)? {
        fs::remove_file(entry?.path())?;
        removed += 1;
    }
    fs::remove_dir(directory)?;
    Ok(removed)
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Whoever can write here controls the guarantee, so the mode is set even where it exists.
fn private_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}
