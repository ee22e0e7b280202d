//! Where the demonstration takes place: three hosts on a wire, nginx, another mesh's certificate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use testbed::{Coordinator, Host, Testbed};

use crate::curl::{Curl, Download};
use crate::nginx::{self, Nginx};
use crate::traces::AgentDirectories;
use crate::wire::Wire;

/// Everything but the Coordinator and the agents. Dropping it takes it all away.
pub(crate) struct Stage {
    nginx: Nginx,
    foreign_certificate: PathBuf,
    bed: Testbed,
    _directories: AgentDirectories,
}

impl Stage {
    /// Makes the hosts, starts nginx on the server, issues certificates.
    pub(crate) fn set() -> Result<Self> {
        let directories = AgentDirectories::remember();
        let bed = Testbed::new(&["client", "outsider", "server"])?;
        let nginx = Nginx::start(bed.host("server"), &bed.directory().join("www"))?;
        let foreign = Coordinator::start_foreign(&bed, &["client"])?;
        Ok(Self {
            nginx,
            // The same name: only who signed it differs.
            foreign_certificate: foreign.init("client")?,
            bed,
            _directories: directories,
        })
    }

    /// Where curl runs.
    pub(crate) fn client(&self) -> &Host {
        self.bed.host("client")
    }

    /// Where nginx runs.
    pub(crate) fn server(&self) -> &Host {
        self.bed.host("server")
    }

    /// Who belongs to no mesh.
    pub(crate) fn outsider(&self) -> &Host {
        self.bed.host("outsider")
    }

    /// The web server.
    pub(crate) fn nginx(&self) -> &Nginx {
        &self.nginx
    }

    /// Its IPv4 address.
    pub(crate) fn address(&self) -> SocketAddr {
        self.server().at(nginx::PORT)
    }

    /// A curl of the client, over IPv4.
    pub(crate) fn curl(&self) -> Result<Curl> {
        Curl::http(self.client(), self.address())
    }

    /// A curl of the client, over IPv6.
    pub(crate) fn curl_v6(&self) -> Result<Curl> {
        Curl::http(self.client(), self.server().at_v6(nginx::PORT))
    }

    /// A curl of the client that is under way for long enough to do something meanwhile.
    pub(crate) fn slow_film(&self) -> Result<Download> {
        Curl::slow_film(self.client(), self.address())?.start()
    }

    /// A Coordinator on a simulated TEE, whose manifest lists the client and the server.
    pub(crate) fn coordinator(&self) -> Result<Coordinator> {
        Coordinator::start(&self.bed, &["client", "server"])
    }

    /// Watches the wire from now on.
    pub(crate) fn watch(&self) -> Result<Wire> {
        Wire::watch(&self.bed)
    }

    /// A certificate with the client's name, by another mesh's CA.
    pub(crate) fn foreign_certificate(&self) -> &Path {
        &self.foreign_certificate
    }

    /// For files.
    pub(crate) fn directory(&self) -> &Path {
        self.bed.directory()
    }

    /// The cgroup that holds the cgroups of the hosts.
    pub(crate) fn cgroup(&self) -> Result<&Path> {
        let cgroup = self.client().cgroup().parent();
        cgroup.context("the client's cgroup has no parent")
    }

    /// What the agent shall call itself, so that it disturbs no other.
    pub(crate) fn agent_instance(&self) -> String {
        format!("{}-demo", self.bed.id())
    }

    /// Where it can be found on the machine, the agent's files left out.
    pub(crate) fn paths(&self) -> Result<Vec<PathBuf>> {
        let mut paths = vec![self.directory().to_owned(), self.cgroup()?.to_owned()];
        paths.extend([self.client(), self.outsider(), self.server()].map(Host::netns));
        Ok(paths)
    }
}
