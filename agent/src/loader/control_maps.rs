//! The maps by which the agent tells the kernel what it knows of the workloads, by way of the loader.
//! What each call does: [`crate::bpf::ControlMaps`].

use std::{net::TcpListener, os::fd::AsFd as _};

use ebpf_abi::{Workload, WorkloadId};

use super::{
    Loader, LoaderError,
    protocol::{
        Forget, ForgetAllBut, ForgetClients, ForgetReleased, SetAddresses, SetIngressPorts,
        SetListener, SetUdpDenied, SetWorkload,
    },
};
use crate::bpf::AddressPrefix;

/// The maps of the instance that the loader has open.
#[derive(Debug)]
pub(crate) struct ControlMaps {
    loader: Loader,
}

impl ControlMaps {
    pub(crate) fn new(loader: Loader) -> Self {
        Self { loader }
    }

    pub(crate) fn forget_all_but(&mut self, served: &[WorkloadId]) -> Result<(), LoaderError> {
        let served = served.iter().map(|id| id.0).collect();
        self.loader.call(ForgetAllBut { served })
    }

    pub(crate) fn forget_clients(&mut self) -> Result<(), LoaderError> {
        self.loader.call(ForgetClients {})
    }

    pub(crate) fn forget(&mut self, id: WorkloadId) -> Result<(), LoaderError> {
        self.loader.call(Forget { id: id.0 })
    }

    pub(crate) fn forget_released(&mut self, id: WorkloadId) -> Result<(), LoaderError> {
        self.loader.call(ForgetReleased { id: id.0 })
    }

    pub(crate) fn set_udp_denied(
        &mut self,
        id: WorkloadId,
        is_denied: bool,
    ) -> Result<(), LoaderError> {
        let id = id.0;
        self.loader.call(SetUdpDenied { id, is_denied })
    }

    pub(crate) fn set_workload(
        &mut self,
        id: WorkloadId,
        state: Workload,
    ) -> Result<(), LoaderError> {
        self.loader.call(SetWorkload { id: id.0, state })
    }

    pub(crate) fn set_listener(
        &mut self,
        id: WorkloadId,
        worker: u32,
        ipv6: bool,
        socket: &TcpListener,
    ) -> Result<(), LoaderError> {
        let id = id.0;
        let request = SetListener { id, worker, ipv6 };
        self.loader.call_with(request, &[socket.as_fd()]).map(drop)
    }

    pub(crate) fn set_ingress_ports(
        &mut self,
        id: WorkloadId,
        default_is_plaintext: bool,
        ports: &[(u16, bool)],
    ) -> Result<(), LoaderError> {
        self.loader.call(SetIngressPorts {
            id: id.0,
            default_is_plaintext,
            ports: ports.to_vec(),
        })
    }

    pub(crate) fn set_addresses(
        &mut self,
        id: WorkloadId,
        addresses: &[AddressPrefix],
    ) -> Result<(), LoaderError> {
        self.loader.call(SetAddresses {
            id: id.0,
            addresses: addresses.to_vec(),
        })
    }
}
