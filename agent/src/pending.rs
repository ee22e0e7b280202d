#![allow(missing_docs, dead_code, clippy::all)]
pub mod registry {
    #[derive(Debug)]
    pub struct Registry;
    impl Registry {
        pub fn new(_: std::num::NonZeroUsize) -> Self { Self }
    }
}
pub mod readiness {
    #[derive(Debug, Clone)]
    pub struct ReadinessBoard;
    impl ReadinessBoard {
        pub fn new(_: &[std::sync::Arc<crate::workload::Workload>]) -> Self { Self }
        pub fn set(&self, _: &crate::policy::WorkloadName, _: &crate::certificates::Credential, _: std::time::SystemTime) {}
    }
}
pub mod report {
    use crate::access_log::*;
    use crate::connection::*;
    use crate::policy::*;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use userspace_tls::Traffic;
    #[derive(Debug)]
    pub struct Telemetry { log: RefusalLog }
    impl Telemetry {
        pub fn new() -> Self { Self { log: RefusalLog::default() } }
        pub fn certificate_loaded(&self, _: &WorkloadName, _: userspace_tls::Validity) {}
        pub fn certificate_refused(&self, _: &WorkloadName) {}
        pub fn kernel(&self, _: &crate::bpf::KernelReports) {}
        pub fn refused_by_kernel(&self, workload: &str, direction: Direction, from: SocketAddr, to: SocketAddr, reason: ebpf_abi::KernelRefusal) {
            self.log.log(&RefusalLine { workload, direction, from, to, reason: reason.as_str(), detail: &"kernel" }, std::time::Instant::now());
        }
    }
    #[derive(Debug)]
    pub struct Reporter { t: Arc<Telemetry>, name: WorkloadName, direction: Direction }
    impl Reporter {
        pub fn new(t: &Arc<Telemetry>, name: &WorkloadName, direction: Direction) -> Self { Self { t: t.clone(), name: name.clone(), direction } }
        pub fn handshake(&self, _: std::time::Duration) {}
        pub fn refused(&self, r: &Refusal) {
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            self.t.log.log(&RefusalLine { workload: self.name.as_str(), direction: self.direction, from: r.from.unwrap_or(any), to: r.to.unwrap_or(any), reason: r.reason.as_str(), detail: &r.detail }, std::time::Instant::now());
        }
        pub fn opened(&self, _: &Worker, _: &About, _: DatapathKind, _: Arc<Traffic>) {}
        pub fn closed(&self, about: &About, kind: DatapathKind, traffic: &Traffic, close: CloseReason) {
            let (datapath, why) = kind.as_strs();
            let tls = about.tls.as_ref();
            ConnectionLine { workload: self.name.as_str(), direction: self.direction, from: about.ends.from, to: about.ends.to, mode: about.mode, rule: about.rule, identity: about.identity.as_ref(), peer: tls.and_then(|t| t.peer.as_ref()), datapath, why, key_exchange: tls.map(|t| t.key_exchange), cipher: tls.map(|t| t.cipher), alpn: None, sent: traffic.sent.load(std::sync::atomic::Ordering::Relaxed), received: traffic.received.load(std::sync::atomic::Ordering::Relaxed), duration: about.since.elapsed(), close: close.as_str() }.log();
        }
    }
}
pub mod admin {
    #[derive(Debug, thiserror::Error)]
    #[error("admin")]
    pub struct AdminError;
    pub struct Listeners;
    pub async fn bind(_: std::num::NonZeroU16) -> Result<Listeners, AdminError> { Ok(Listeners) }
}
