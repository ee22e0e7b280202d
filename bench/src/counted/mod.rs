//! What a request and a MiB cost on each route, counted in instructions.
//!
//! Meant for a virtual machine with one CPU whose clock counts instructions (`qemu -icount shift=0`:
//! a nanosecond each): there a program, the agents and the kernel cost the same in every run, and
//! figures of two commits can be compared to a percent. `cargo xtask bench counted` starts that
//! machine. On any other machine the figures are times, and noisy.
//!
//! An instruction under emulation says nothing of how long it takes on silicon: the figures are for
//! comparing commits and routes, never to be quoted as throughput.

mod compare;
pub(crate) mod exchange;
mod report;
mod route;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};
use testbed::Running;

use crate::cost::Meter;
use crate::site::{Setting, Sides, Site};
use crate::statistics::Rounds;
use exchange::{Exchanged, Load};
use report::{Environment, Figure, Report};
use route::{Datapath, Route};

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Counted {
    /// Measure every route that this kernel has
    Measure(Options),
    /// Compare figures with a baseline; exit code 1 where a request has become dearer, 3 where they
    /// can't be compared
    Compare(compare::Options),
}

/// How much to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds of each figure; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Requests a round
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,

    /// MiB a round
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4095))]
    mebibytes: u32,

    /// What the machine outside is, where it decides the figures: compiler and emulator
    #[arg(long, value_name = "TEXT", default_value = "not said")]
    outside: String,

    /// Where to write the figures
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Counted {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Measure(options) => measure(options),
            Self::Compare(options) => compare::run(options),
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let has_kernel_tls = kernel_has_tls();
    let figures = Route::ALL
        .into_iter()
        .filter(|route| has_kernel_tls || !route.takes_kernel_tls())
        .map(|route| options.figure(route))
        .collect::<Result<Vec<_>>>()?;
    let report = Report {
        environment: Environment::read(&options.outside)?,
        requests: options.requests,
        mebibytes: options.mebibytes,
        figures,
    };
    print!("{}", report.table());
    if let Some(path) = &options.json {
        fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

/// Whether a TCP socket can be given the upper-layer protocol `tls` here.
fn kernel_has_tls() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp")
        .is_ok_and(|names| names.split_whitespace().any(|name| name == "tls"))
}

impl Options {
    fn figure(&self, route: Route) -> Result<Figure> {
        let name = route.name();
        let measure = || -> Result<Figure> {
            let site = site(route)?;
            let server = site.server().at(PORT);
            let serving = Site::load(site.server())?
                .args(["answer", &server.to_string()])
                .spawn()?;
            serving.wait_for(LIMIT, |line| line.contains("listening").then_some(()))?;
            let rounds = |load| {
                let values = (0..self.rounds).map(|_| exchange(&site, route, load));
                let values = values.collect::<Result<Vec<_>>>()?;
                Rounds::of(values).context("no round")
            };
            let meter = Meter::start(None)?;
            let request = rounds(Load::Requests(self.requests))?;
            let mebibyte = rounds(Load::Mebibytes(self.mebibytes))?;
            let busy = meter.stop()?.busy;
            Ok(Figure {
                route,
                request,
                mebibyte,
                busy,
            })
        };
        let figure = measure().with_context(|| name.to_owned())?;
        eprintln!("{name}: {:.0} a request", figure.request.median);
        Ok(figure)
    }
}

fn site(route: Route) -> Result<Site> {
    let setting = match (route, route.agents()) {
        (_, Some(agents)) => Setting {
            offload: Some(agents.offload),
            splice: Some(agents.splice),
            local_acceleration: Some(agents.local_acceleration),
            ..Setting::default()
        },
        (Route::Plaintext, None) => {
            return Site::client_agent(Setting {
                egress_default: Some("plaintext"),
                ..Setting::default()
            });
        }
        (_, None) => return Site::direct(),
    };
    Site::sealwire_with(Sides {
        client: setting,
        server: setting,
    })
}

/// One connection with its load; nanoseconds of a request or of a MiB. Fails where the agents did
/// not carry it as the route says.
fn exchange(site: &Site, route: Route, load: Load) -> Result<f64> {
    let address = site.server().at(PORT).to_string();
    let client = Site::load(site.client())?;
    let client = match load {
        Load::Requests(count) => client.args(["ask", &address, &count.to_string()]),
        Load::Mebibytes(count) => client.args(["send", &address, &count.to_string()]),
    };
    let client = if route.client_never_blocks() {
        client.arg("--never-blocking")
    } else {
        client
    };
    let client = client.with_stdin().spawn()?;
    let said = client.wait_for(LIMIT, |line| serde_json::from_str::<Exchanged>(line).ok())?;
    check_datapath(site, route.datapaths(load))?;
    finish(client)?;
    Ok(said.nanoseconds)
}

/// What the agents say of the connection while it is open.
fn check_datapath(site: &Site, expected: Option<[Datapath; 2]>) -> Result<()> {
    let Some(expected) = expected else {
        return Ok(());
    };
    for (host, expected) in [site.client(), site.server()].into_iter().zip(expected) {
        let connections = Site::connections(host)?;
        let lines = connections.as_array().into_iter().flatten();
        let mut found = lines.filter_map(|line| {
            let why = line["datapath_why"].as_str()?;
            let datapath = match line["datapath"].as_str()? {
                "kernel" => format!("kernel:{why}"),
                other => other.to_owned(),
            };
            let spliced = line["spliced"].as_u64()? > 0;
            Some((datapath, spliced, line["local_hop"].as_str()?))
        });
        ensure!(
            found.any(|(datapath, spliced, local_hop)| {
                (datapath.as_str(), spliced, local_hop)
                    == (expected.name, expected.spliced, expected.local_hop)
            }),
            "the agent of {} did not carry it as {expected:?}: {connections}",
            host.name(),
        );
    }
    Ok(())
}

fn finish(mut client: Running) -> Result<()> {
    client.write_line("done")?;
    let finished = client.wait(LIMIT)?;
    if !finished.status.success() {
        bail!("the client failed: {}", finished.stderr_text());
    }
    Ok(())
}

const PORT: u16 = 8080;

/// Emulation takes its time.
const LIMIT: Duration = Duration::from_mins(5);
