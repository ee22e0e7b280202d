//! nginx, unmodified, with a page of 1 KiB.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use testbed::Running;

use crate::site::Site;

/// A running nginx on a site's server, with one worker: the cores are shared with the clients and
/// the agents, and a second worker only adds to the tail of the latencies.
#[derive(Debug)]
pub(crate) struct Nginx {
    address: SocketAddr,
    running: Running,
}

impl Nginx {
    /// Starts it and waits until it listens.
    pub(crate) fn start(site: &Site) -> Result<Self> {
        let address = site.server().at(PORT);
        let directory = site.directory().display();
        let pid_file = site.directory().join("nginx.pid");
        let config = site.directory().join("nginx.conf");
        let page = "x".repeat(PAGE);
        fs::write(
            &config,
            format!(
                "user root; daemon off; pid {}; error_log stderr error;\n\
                 worker_processes 1; worker_rlimit_nofile 16384;\n\
                 events {{ worker_connections 8192; }}\n\
                 http {{ access_log off; keepalive_timeout 1h; keepalive_requests 1000000000;\n\
                 client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n\
                 fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;\n\
                 scgi_temp_path {directory}/scgi;\n\
                 server {{ listen {address} backlog=8192;\n\
                 location / {{ return 200 \"{page}\"; }} }} }}\n",
                pid_file.display()
            ),
        )?;
        // Left by the nginx of an earlier trial, which was killed.
        let _ = fs::remove_file(&pid_file);
        let running = site
            .server()
            .command("nginx")
            .args(["-e", "stderr", "-c"])
            .arg(&config)
            .spawn()?;
        let nginx = Self { address, running };
        let deadline = Instant::now() + START_DEADLINE;
        // It is written once the listeners are open.
        while !pid_file.exists() {
            let wait = Instant::now() < deadline && !nginx.running.has_ended();
            ensure!(wait, "nginx did not start: {}", nginx.running.stderr());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(nginx)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it and its workers.
    pub(crate) fn stop(self) -> Result<()> {
        self.running.signal(nix::sys::signal::Signal::SIGTERM)?;
        self.running.wait(START_DEADLINE)?;
        Ok(())
    }
}

/// The length of the page, in bytes.
pub(crate) const PAGE: usize = 1024;

const PORT: u16 = 8080;
const START_DEADLINE: Duration = Duration::from_secs(5);
