//! Has the local hops of one worker accelerated. See [`crate::bpf::LocalHops`].

use std::os::fd::AsFd as _;

use ebpf_abi::HopId;
use tokio::net::TcpStream;
use tracing::warn;

use super::{
    Loader, LoaderError,
    channel::Channel,
    client::{PATIENCE, ask},
    protocol::{Accelerate, ServeLocalHops},
};
use crate::bpf::WhyTcp;

/// A worker's own channel to the loader; `None` once it has failed, as nobody knows which answer would
/// come next.
#[derive(Debug)]
pub(crate) struct LocalHops(Option<Channel>);

impl LocalHops {
    pub(super) fn open(loader: &Loader) -> Result<Self, LoaderError> {
        let (near, far) = Channel::pair().map_err(LoaderError::Gone)?;
        near.set_patience(PATIENCE).map_err(LoaderError::Gone)?;
        loader.call_with(ServeLocalHops {}, &[far.as_fd()])?;
        Ok(Self(Some(near)))
    }

    /// Lets the kernel hand what the program on the other end of this accepted socket sends straight
    /// to it, past the loopback's TCP.
    ///
    /// # Errors
    /// Why everything goes through TCP instead.
    pub(crate) fn accelerate(&mut self, socket: &TcpStream, hop: HopId) -> Result<(), WhyTcp> {
        let HopId { cookie, opened } = hop;
        let channel = self.0.as_ref().ok_or(WhyTcp::NotTaken)?;
        match ask(channel, Accelerate { cookie, opened }, &[socket.as_fd()]) {
            Ok((accelerated, _)) => accelerated,
            Err(error) => {
                warn!(%error, "no more local hops of this worker are accelerated");
                self.0 = None;
                Err(WhyTcp::NotTaken)
            }
        }
    }
}
