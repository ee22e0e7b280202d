//! nginx, unmodified: plain HTTP, a page and a long film, a log with the client's address.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;
use testbed::{Host, MARKER, Running};

use crate::machine;

/// A running nginx.
pub(crate) struct Nginx {
    running: Running,
    log: PathBuf,
    page: String,
}

impl Nginx {
    /// Starts it on this host with its files in `directory`, which is made.
    pub(crate) fn start(host: &Host, directory: &Path) -> Result<Self> {
        let page = page();
        fs::create_dir(directory)?;
        fs::write(directory.join("page"), &page)?;
        fs::write(directory.join("film"), page.repeat(FILM_PAGES))?;
        let config = directory.join("nginx.conf");
        fs::write(&config, configuration(directory))?;
        let log = directory.join("access.log");
        let program = machine::program("nginx").context("nginx is not installed")?;
        let running = host.command(program).arg("-c").arg(config).spawn()?;
        let nginx = Self { running, log, page };
        nginx.wait_until_it_listens(host)?;
        Ok(nginx)
    }

    /// What it serves as `/page`.
    pub(crate) fn page(&self) -> &[u8] {
        self.page.as_bytes()
    }

    /// Waits until its log says that this client was served. (It logs a request after its end.)
    pub(crate) fn wait_for_client(&self, client: SocketAddr) -> Result<()> {
        let deadline = Instant::now() + LOG_LIMIT;
        while !self.clients()?.contains(&client) {
            ensure!(
                Instant::now() < deadline,
                "nginx logged no request of {client}, but of {:?}",
                self.clients()?
            );
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Whose requests it has logged, in this order.
    pub(crate) fn clients(&self) -> Result<Vec<SocketAddr>> {
        let log = fs::read_to_string(&self.log)?;
        log.lines()
            .map(|line| client(line).with_context(|| format!("nginx's log is odd: {line}")))
            .collect()
    }

    /// The process.
    pub(crate) fn pid(&self) -> Pid {
        self.running.pid()
    }

    fn wait_until_it_listens(&self, host: &Host) -> Result<()> {
        let listens = || {
            (0..1000).any(|_| {
                thread::sleep(POLL);
                self.running.has_ended() || TcpStream::connect(host.at(PORT)).is_ok()
            })
        };
        ensure!(
            host.run_in_thread(listens)? && !self.running.has_ended(),
            "nginx does not run: {}",
            self.running.stderr()
        );
        Ok(())
    }
}

/// Text, so that whoever stops the demonstration half-way can look at it.
fn page() -> String {
    let marker = String::from_utf8_lossy(MARKER);
    (1..=PAGE_LINES)
        .map(|line| format!("<p>Line {line:04}, which nobody else may read: {marker}</p>\n"))
        .collect::<Vec<_>>()
        .concat()
}

fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    format!(
        "user root; daemon off; worker_processes 1; pid {directory}/nginx.pid;\n\
         error_log stderr;\n\
         events {{}}\n\
         http {{\n\
         log_format client '$remote_addr $remote_port \"$request\" $status $body_bytes_sent';\n\
         access_log {directory}/access.log client;\n\
         client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;\n\
         fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;\n\
         scgi_temp_path {directory}/scgi;\n\
         server {{ listen {PORT}; listen [::]:{PORT}; root {directory}; }}\n\
         }}\n"
    )
}

fn client(line: &str) -> Option<SocketAddr> {
    let mut words = line.split(' ');
    let ip: IpAddr = words.next()?.parse().ok()?;
    Some(SocketAddr::new(ip, words.next()?.parse().ok()?))
}

/// Where it listens, on every address of its host.
pub(crate) const PORT: u16 = 80;

/// Makes the page about a quarter of a MiB: a slow download of it lasts for a second.
const PAGE_LINES: usize = 4000;
/// Makes the film more than all buffers on its way hold, so that it does not end early.
const FILM_PAGES: usize = 128;
const LOG_LIMIT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(5);
