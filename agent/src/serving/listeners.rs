//! The listeners of the workloads that are served: opened, inherited, shared, accepted from.

use std::{
    collections::HashSet,
    io,
    net::{SocketAddrV4, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
};

use nix::sys::stat::fstat;
use tokio::sync::watch;

use super::{Served, Serving};
use crate::{
    agent_error::{AgentError, failed},
    inherited::{Item, Purpose, Whose},
    listen::{ListenError, Listeners, NamedSocket, listen_at},
    sock_diag::{self, Which},
    worker::{Entrance, EntranceKind, Stop},
    workload::Workload,
};

/// One listener that the configuration names.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) listen: SocketAddrV4,
    pub(super) stop: watch::Sender<Stop>,
    /// By worker, for an agent that takes over.
    pub(super) sockets: Vec<TcpListener>,
}

/// Listeners that are open and that nobody accepts from yet: for each worker, its own.
#[derive(Debug, Default)]
pub(crate) struct Opened(Vec<Vec<NamedSocket>>);

impl Serving {
    /// Opens listeners at these addresses. Connections wait in them until [`Self::change`].
    pub(crate) fn open(
        &mut self,
        workload: &Workload,
        addresses: &[SocketAddrV4],
    ) -> Result<Opened, AgentError> {
        let opened = (0..self.workers.len())
            .map(|worker| {
                let (mut sockets, missing) = self.named(workload, worker, addresses);
                let opened = listen_at(&workload.netns, &missing);
                let opened = opened.map(|opened| {
                    sockets.extend(opened);
                    // In the same order for every worker.
                    sockets.sort_by_key(|socket| socket.listen);
                    sockets
                });
                opened.map_err(|error| match error {
                    ListenError::Taken(listen) => AgentError::ListenerTaken {
                        workload: workload.name.clone(),
                        listen,
                    },
                    ListenError::System(source) => {
                        failed("listening in a workload's namespace")(source)
                    }
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Opened(opened))
    }

    /// The listeners of one worker, those of the agent before if there are any.
    pub(super) fn listeners(
        &mut self,
        workload: &Workload,
        worker: usize,
    ) -> io::Result<Listeners> {
        let mut take = |purpose| self.inherited.take(&item(workload, worker, purpose));
        let (egress, ingress) = (take(Purpose::Egress), take(Purpose::Ingress));
        if egress.is_empty() || ingress.is_empty() {
            return Listeners::open(&workload.netns);
        }
        let listeners = |sockets: Vec<OwnedFd>| sockets.into_iter().map(Into::into).collect();
        Ok(Listeners {
            egress: listeners(egress),
            ingress: listeners(ingress),
        })
    }

    /// Of these addresses, the listeners that the agent before had, and those that it had not.
    fn named(
        &mut self,
        workload: &Workload,
        worker: usize,
        addresses: &[SocketAddrV4],
    ) -> (Vec<NamedSocket>, Vec<SocketAddrV4>) {
        let mut missing = Vec::new();
        let mut sockets = Vec::new();
        for &listen in addresses {
            let inherited = self
                .inherited
                .take(&item(workload, worker, Purpose::Named(listen)));
            match inherited.into_iter().next() {
                Some(socket) => sockets.push(NamedSocket {
                    listen,
                    socket: socket.into(),
                }),
                None => missing.push(listen),
            }
        }
        (sockets, missing)
    }

    /// Every listener, for an agent that takes over.
    pub(crate) fn share(&self) -> io::Result<Vec<(Item, OwnedFd)>> {
        let mut shared = Vec::new();
        for Served {
            workload,
            listeners,
            sockets,
            ..
        } in &self.served
        {
            let mut share = |worker, purpose, socket: &TcpListener| {
                let socket = socket.as_fd().try_clone_to_owned()?;
                shared.push((item(workload, worker, purpose), socket));
                io::Result::Ok(())
            };
            for (worker, purpose, socket) in sockets {
                share(*worker, *purpose, socket)?;
            }
            for named in listeners {
                for (worker, socket) in named.sockets.iter().enumerate() {
                    share(worker, Purpose::Named(named.listen), socket)?;
                }
            }
        }
        Ok(shared)
    }

    pub(super) fn accept_from(
        &self,
        served: &mut Served,
        opened: Opened,
    ) -> Result<(), AgentError> {
        let Opened(opened) = opened;
        if opened.iter().all(Vec::is_empty) {
            return Ok(());
        }
        let mut new = Vec::new();
        for (nth, NamedSocket { listen, .. }) in opened.iter().take(1).flatten().enumerate() {
            let sockets = opened.iter().filter_map(|worker| worker.get(nth));
            let sockets = sockets.map(|it| it.socket.try_clone());
            new.push(Named {
                listen: *listen,
                stop: watch::Sender::new(Stop::Running),
                sockets: sockets
                    .collect::<Result<_, _>>()
                    .map_err(failed("keeping a listener"))?,
            });
        }
        for (worker, sockets) in self.workers.iter().zip(opened) {
            let stops = new.iter().map(|named| named.stop.subscribe());
            let kind = EntranceKind::Named {
                listeners: sockets.into_iter().zip(stops).collect(),
                permits: self.steering.permits(),
            };
            let _ = worker.send(Entrance {
                workload: served.workload.clone(),
                kind,
            });
        }
        served.listeners.extend(new);
        Ok(())
    }

    /// The cgroups in which the listeners were made: that of this agent, or those of agents before it.
    pub(crate) fn listener_cgroups(&self) -> io::Result<HashSet<u64>> {
        let mut cgroups = HashSet::new();
        for served in &self.served {
            let listeners = served.listeners.iter().flat_map(|named| &named.sockets);
            let listeners = listeners.chain(served.sockets.iter().map(|(_, _, socket)| socket));
            let inodes = listeners
                .map(|socket| Ok(fstat(socket)?.st_ino))
                .collect::<nix::Result<HashSet<_>>>()?;
            let listed = served
                .workload
                .netns
                .run(|| sock_diag::list(Which::Listeners));
            let own = listed?.into_iter();
            cgroups.extend(
                own.filter(|socket| inodes.contains(&socket.inode.into()))
                    .map(|socket| socket.cgroup),
            );
        }
        Ok(cgroups)
    }
}

fn item(workload: &Workload, worker: usize, purpose: Purpose) -> Item {
    Item::Listener {
        workload: Whose {
            name: workload.name.to_string(),
            id: workload.id.0,
            netns: workload.netns_cookie,
        },
        worker,
        purpose,
    }
}
