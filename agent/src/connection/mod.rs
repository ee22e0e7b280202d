//! The life of a connection, a file a step:
//! `intercept` -> `authorize` -> `handshake` (with `dial`) -> `offload` -> `relay` -> `close`.
//!
//! Each step consumes what the one before has made, so no connection can carry bytes without having
//! been authorized and authenticated. Whatever drops out on the way is reset: both sockets are
//! prepared for that before they carry anything.

mod authorize;
mod close;
mod dial;
mod handshake;
mod intercept;
mod listener;
mod offload;
mod refusal;
mod relay;

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc};

use tokio::net::TcpStream;

pub(crate) use close::{CloseCause, CloseReason};
pub(crate) use listener::NamedListener;
pub(crate) use refusal::{Refusal, RefusalReason};

use crate::{
    admission::Admission, kernel_tls::KernelTls, order::Order, policy::Direction,
    registry::Registry, report::Reporter, socket_options::ConnectionHooks, strangers::Strangers,
    workload::Workload,
};
use intercept::Intercepted;

/// What the connections of one worker thread share.
#[derive(Debug)]
pub(crate) struct Worker {
    /// Its number, from 0.
    pub index: usize,
    /// What it asks of the hooks.
    pub hooks: RefCell<ConnectionHooks>,
    /// Handshakes under way, by source.
    pub admission: Rc<Admission>,
    /// Connections on their way to a program, in their order.
    pub order: Rc<Order>,
    /// Destinations that are no agents.
    pub strangers: Strangers,
    /// The live connections, for the admin interface.
    pub registry: Arc<Registry>,
    /// What the kernel may do of a connection's cryptography.
    pub kernel_tls: Arc<KernelTls>,
}

/// One way into the agent: a worker's listener for one direction of one workload.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Who accepts here.
    pub worker: Rc<Worker>,
    /// For whom.
    pub workload: Arc<Workload>,
    /// Which way the connections go, seen from the workload.
    pub direction: Direction,
    /// Where its sockets listen themselves.
    pub listens_at: Vec<SocketAddr>,
    /// Where the program dials this one by its address, rather than being turned here.
    pub listener: Option<Rc<NamedListener>>,
    /// Where the outcome is told.
    pub reporter: Rc<Reporter>,
}

/// Serves one accepted connection to its end.
pub(crate) async fn serve(stream: TcpStream, door: Rc<Door>) {
    // The steps up to the relay need far more room than the relay, which may last for days.
    let established = Box::pin(async {
        let intercepted = match &door.listener {
            None => Intercepted::read(stream, &door)?,
            Some(listener) => Intercepted::forward(stream, &door, listener).await?,
        };
        intercepted.authorize(&door).await?.establish(&door).await
    });
    match established.await {
        Ok(established) => established.offload(&door).run(&door).await,
        Err(refusal) => door.reporter.refused(refusal),
    }
}
