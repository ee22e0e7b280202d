//! `sealwire run`: a program of a host whose namespace it shares, under an agent of its own. The host is
//! one of the testbed's.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testbed::admin::{Answer, Metrics};
use testbed::agent::{binary_of, free_port};
use testbed::pki::Mesh;
use testbed::{
    Agent, Client, Finished, Host, HostCommand, Server, Testbed, WorkloadConfig, peer, require,
};

#[test]
fn without_sealwire_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    let bed = Testbed::new(&["peer", "host"])?;
    let address = bed.host("host").at(PORT);
    let _serving = Server::start_outside_the_cgroup(bed.host("host"), &[address], SERVE)?;
    let sniffer = bed.sniff()?;
    Client::run(bed.host("peer"), address, CONNECT)?.assert_exact(3000, 2000);
    sniffer.finish()?.assert_saw_plaintext();
    Ok(())
}

#[test]
fn a_program_run_is_reached_in_mutual_tls_at_the_ports_it_listens_on() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let admin_port = free_port()?;
    let options = ["--admin-port".to_owned(), admin_port.to_string()];
    let serving = runs.serve("web", &options, &[any_v6(PORT), any_v6(OTHER)], "")?;
    for address in [PORT, OTHER].iter().flat_map(|port| runs.both(*port)) {
        runs.assert_exact(address)?;
        let refused = Client::run(runs.outsider(), address, CONNECT)?;
        ensure!(refused.received == 0, "{refused:?}");
    }
    ensure!(serving.connections() == 4);
    let metrics = runs
        .host()
        .run_in_thread(|| Answer::fetch(admin_port, "/metrics"))??;
    let metrics = Metrics::parse(&metrics.body);
    let ingress = [("direction", "ingress"), ("mode", "mtls")];
    ensure!(metrics.sum("sealwire_connections_total", &ingress) == 4);
    Ok(())
}

#[test]
fn a_program_run_connects_in_mutual_tls() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    for address in [runs.peer().at(PORT), runs.peer().at_v6(PORT)] {
        let serving = Server::start(runs.peer(), &[address], SERVE)?;
        let sniffer = runs.bed.sniff()?;
        let command = runs.command("job", &[])?.arg(peer::binary()?);
        let client = Client::start_by(command, address, CONNECT)?;
        client.closed()?.assert_exact(3000, 2000);
        serving.closed(0)?.assert_exact(2000, 3000);
        sniffer.finish()?.assert_only_ciphertext(5000);
    }
    Ok(())
}

#[test]
fn other_programs_of_the_host_are_untouched() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let _own = runs.serve("web", &[], &[any_v6(PORT)], "")?;
    let other = Server::start_outside_the_cgroup(runs.host(), &[any_v6(OTHER)], SERVE)?;
    for (nth, address) in runs.both(OTHER).into_iter().enumerate() {
        let sniffer = runs.bed.sniff()?;
        Client::run(runs.outsider(), address, CONNECT)?.assert_exact(3000, 2000);
        other.closed(nth)?.assert_exact(2000, 3000);
        sniffer.finish()?.assert_saw_plaintext();
    }
    for address in [runs.outsider().at(PORT), runs.outsider().at_v6(PORT)] {
        let _serving = Server::start(runs.outsider(), &[address], SERVE)?;
        let client = Client::start_outside_the_cgroup(runs.host(), address, CONNECT)?;
        client.closed()?.assert_exact(3000, 2000);
    }
    Ok(())
}

#[test]
fn two_programs_run_on_one_host_talk_in_mutual_tls() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let serving = runs.serve("web", &[], &[any_v6(PORT)], "")?;
    for (nth, address) in runs.both(PORT).into_iter().enumerate() {
        let command = runs.command("job", &[])?.arg(peer::binary()?);
        let client = Client::start_by(command, address, CONNECT)?;
        client.closed()?.assert_exact(3000, 2000);
        serving.closed(nth)?.assert_exact(2000, 3000);
    }
    let command = runs.command("job", &[])?.arg(peer::binary()?);
    let by_loopback = Client::start_by(command, (Ipv4Addr::LOCALHOST, PORT).into(), CONNECT)?;
    let refused = by_loopback.closed()?;
    ensure!(refused.received == 0 && serving.connections() == 2);
    Ok(())
}

#[test]
fn a_listener_that_was_never_bound_is_not_reachable_in_clear() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    for (nth, listen) in [any_v4(0), any_v6(0)].into_iter().enumerate() {
        let serving = runs.serve(&format!("web{nth}"), &[], &[listen], "--unbound")?;
        let [v4, v6] = runs.both(serving.listening(0)?.port());
        let address = if listen.is_ipv4() { v4 } else { v6 };
        let refused = Client::run(runs.outsider(), address, CONNECT)?;
        ensure!(refused.received == 0 && serving.connections() == 0);
        runs.assert_exact(address)?;
    }
    Ok(())
}

#[test]
fn a_signal_reaches_the_program() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let script =
        "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo hup' HUP; trap 'echo int' INT
                  trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.02; done";
    let running = runs
        .command("web", &[])?
        // Bash sets no trap for a signal that it was started to ignore, as by nohup.
        .args(["env", "--default-signal", "bash", "-c", script])
        .spawn()?;
    let says = |word: &str| running.wait_for(LIMIT, |line| (line == word).then_some(()));
    says("ready")?;
    for (signal, word) in [
        (Signal::SIGUSR1, "usr1"),
        (Signal::SIGUSR2, "usr2"),
        (Signal::SIGHUP, "hup"),
        (Signal::SIGINT, "int"),
        (Signal::SIGTERM, "term"),
    ] {
        running.signal(signal)?;
        says(word).with_context(|| format!("{signal}"))?;
    }
    ensure!(running.wait(LIMIT)?.status.code() == Some(5));
    Ok(())
}

#[test]
fn the_exit_code_is_the_programs() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let file = runs.bed.directory().join("file");
    fs::write(&file, "")?;
    let no_program = file.to_str().context("a path of ASCII")?;
    for (words, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9),
        (&["no-such-program"], 127),
        (&[no_program], 126),
    ] {
        let finished = runs.run("web", words)?;
        ensure!(
            finished.status.code() == Some(code),
            "{words:?}: {finished:?}"
        );
        runs.assert_nothing_left("web")?;
    }
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    // A process that ends when it is told, with a cgroup of its own; and one that has to be killed.
    let mark = format!("{}", 100_000 + std::process::id());
    let script = format!(
        "mkdir $0/below; (echo 0 > $0/below/cgroup.procs; exec setsid sleep {mark}) & \
         (trap '' TERM; exec sleep {mark}.5) & sleep 0.2; exit 3"
    );
    let running = runs.command("web", &[])?;
    let program = runs.cgroup("web").join("program");
    let running = running.args(["bash", "-c", &script]).arg(program).spawn()?;
    wait_for("the second one is told, too", || {
        Ok(!is_running(&mark)? && is_running(&format!("{mark}.5"))?)
    })?;
    running.signal(Signal::SIGINT)?;
    ensure!(running.wait(LIMIT)?.status.code() == Some(3));
    ensure!(!is_running(&format!("{mark}.5"))?);
    runs.assert_nothing_left("web")
}

#[test]
fn an_agent_that_can_not_start_is_told_and_the_program_never_runs() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let file = runs.bed.directory().join("file");
    let command = runs.sealwire().args(["run", "--name", &runs.name("web")]);
    let finished = command
        .args(["--tls-dir", "/nonexistent", "--", "touch"])
        .arg(&file)
        .run(LIMIT)?;
    ensure!(finished.status.code() == Some(2), "{finished:?}");
    let said = finished.stderr_text();
    ensure!(said.contains("/nonexistent does not exist"), "{said}");
    ensure!(said.contains("the program was not started"), "{said}");
    ensure!(!file.exists());
    runs.assert_nothing_left("web")
}

#[test]
fn a_name_in_use_is_refused() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let serving = runs.serve("web", &[], &[any_v6(PORT)], "")?;
    let second = runs.run("web", &["true"])?;
    ensure!(second.status.code() == Some(2), "{second:?}");
    ensure!(
        second
            .stderr_text()
            .contains("another program runs under the name")
    );
    runs.assert_exact(runs.host().at(PORT))?;
    drop(serving);
    Ok(())
}

#[test]
fn a_program_that_is_given_a_socket_is_not_run() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    let _other = Server::start_outside_the_cgroup(runs.host(), &[address], SERVE)?;
    let bash = runs.host().command("bash").outside_the_cgroup();
    let finished = bash
        .args(["-c", "exec 7<>/dev/tcp/127.0.0.1/$0; exec \"$@\""])
        .arg(PORT.to_string())
        .arg(binary_of("sealwire"))
        .args(["run", "--name", &runs.name("web"), "--", "true"])
        .run(LIMIT)?;
    ensure!(finished.status.code() == Some(2), "{finished:?}");
    ensure!(finished.stderr_text().contains("descriptor 7 is a socket"));
    Ok(())
}

#[test]
fn a_killed_agent_is_started_again_and_nothing_is_in_clear_meanwhile() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let serving = runs.serve("web", &[], &[any_v6(PORT)], "")?;
    for address in runs.both(PORT) {
        runs.assert_exact(address)?;
        let before = serving.connections();
        let sniffer = runs.bed.sniff()?;
        let killed = runs.agent("web")?;
        kill(killed, Signal::SIGKILL)?;
        wait_for("the agent is not back", || {
            let local = Client::start_outside_the_cgroup(runs.host(), loopback(address), QUICK)?;
            ensure!(!is_answered(&local)?, "the loopback is open");
            let client = Client::start(runs.peer(), address, QUICK)?;
            is_answered(&client)
        })?;
        ensure!(runs.agent("web")? != killed);
        sniffer.finish()?.assert_no_plaintext();
        ensure!(serving.connections() == before + 1);
        runs.assert_exact(address)?;
    }
    let said = serving.running().stderr();
    ensure!(said.contains("the agent has ended"), "{said}");
    Ok(())
}

#[test]
fn what_is_left_of_a_run_that_was_killed_is_refused_until_the_next_clears_it_away() -> Result<()> {
    require!();
    let runs = Runs::start()?;
    let command = runs
        .command("web", &[])?
        .args(["sh", "-c", "trap '' TERM; exec \"$0\" \"$@\""]);
    let serving = Server::start_by(command.arg(peer::binary()?), &[any_v6(PORT)], SERVE)?;
    runs.assert_exact(runs.host().at(PORT))?;
    let agent = runs.agent("web")?;
    let program = pids(&runs.cgroup("web").join("program"))?;
    serving.running().signal(Signal::SIGKILL)?;
    wait_for("the agent goes on", || {
        Ok(!Path::new(&format!("/proc/{agent}")).exists())
    })?;
    ensure!(pids(&runs.cgroup("web").join("program"))? == program);
    let sniffer = runs.bed.sniff()?;
    for address in runs.both(PORT) {
        for from in [runs.outsider(), runs.peer()] {
            let client = Client::start(from, address, QUICK)?;
            ensure!(!is_answered(&client)?, "{address} is open");
        }
        let local = Client::start_outside_the_cgroup(runs.host(), loopback(address), QUICK)?;
        ensure!(!is_answered(&local)?, "the loopback is open");
    }
    let markers = sniffer.finish()?;
    markers.assert_no_plaintext_from(runs.host().v4());
    markers.assert_no_plaintext_from(runs.host().v6());

    let next = runs.run("web", &["sh", "-c", "exit 4"])?;
    ensure!(next.status.code() == Some(4), "{next:?}");
    ensure!(next.stderr_text().contains("was killed"), "{next:?}");
    for pid in program {
        // Whoever inherits it may take a while to bury it.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        ensure!(line.is_empty(), "{pid} still runs");
    }
    runs.assert_nothing_left("web")
}

/// A host to run programs on, and a workload elsewhere that is of the same mesh.
struct Runs {
    mesh: Mesh,
    _peers_agent: Agent,
    bed: Testbed,
}

impl Runs {
    fn start() -> Result<Self> {
        let bed = Testbed::new(&["peer", "host", "outsider"])?;
        let mesh = Mesh::new(&bed.directory().join("mesh"))?;
        let peer = WorkloadConfig::of(bed.host("peer"), &mesh.issue("peer")?);
        Ok(Self {
            _peers_agent: Agent::start(&bed, vec![peer])?,
            mesh,
            bed,
        })
    }

    fn host(&self) -> &Host {
        self.bed.host("host")
    }

    fn peer(&self) -> &Host {
        self.bed.host("peer")
    }

    fn outsider(&self) -> &Host {
        self.bed.host("outsider")
    }

    fn both(&self, port: u16) -> [SocketAddr; 2] {
        [self.host().at(port), self.host().at_v6(port)]
    }

    /// Unique on the machine.
    fn name(&self, name: &str) -> String {
        format!("{}-{name}", self.bed.id())
    }

    fn sealwire(&self) -> HostCommand {
        let sealwire = self.host().command(binary_of("sealwire"));
        sealwire.outside_the_cgroup()
    }

    /// `sealwire run` with a certificate; the program is still to be added.
    fn command(&self, name: &str, options: &[String]) -> Result<HostCommand> {
        let command = self.sealwire().args(["run", "--name", &self.name(name)]);
        let command = command.arg("--tls-dir").arg(self.mesh.issue(name)?);
        Ok(command.args(options).arg("--"))
    }

    fn run(&self, name: &str, program: &[&str]) -> Result<Finished> {
        self.command(name, &[])?.args(program).run(LIMIT)
    }

    fn serve(
        &self,
        name: &str,
        options: &[String],
        listen: &[SocketAddr],
        how: &str,
    ) -> Result<Server> {
        let command = self.command(name, options)?.arg(peer::binary()?);
        Server::start_by(command, listen, &format!("{SERVE} {how}"))
    }

    /// The workload elsewhere talks to a program that was started with [`SERVE`].
    fn assert_exact(&self, address: SocketAddr) -> Result<()> {
        let sniffer = self.bed.sniff()?;
        Client::run(self.peer(), address, CONNECT)?.assert_exact(3000, 2000);
        sniffer.finish()?.assert_only_ciphertext(5000);
        Ok(())
    }

    fn cgroup(&self, name: &str) -> PathBuf {
        let bed = self.host().cgroup();
        let root = bed.ancestors().nth(2).expect("it is below the mount point");
        root.join("sealwire").join(self.name(name))
    }

    /// The agent's process.
    fn agent(&self, name: &str) -> Result<Pid> {
        let agents = pids(&self.cgroup(name).join("agent"))?;
        agents.first().copied().context("no agent runs")
    }

    fn assert_nothing_left(&self, name: &str) -> Result<()> {
        let name = self.name(name);
        for path in [
            self.cgroup("").with_file_name(&name),
            Path::new("/sys/fs/bpf/sealwire").join(format!("run-{name}")),
            Path::new("/run/sealwire").join(format!("run-{name}.lock")),
            Path::new("/run/sealwire").join(format!("run-{name}.sock")),
            Path::new("/run/sealwire/run").join(format!("{name}.lock")),
            Path::new("/run/sealwire/run").join(format!("{name}.notify")),
        ] {
            ensure!(!path.exists(), "{} is left", path.display());
        }
        Ok(())
    }
}

impl Drop for Runs {
    /// Of a `sealwire run` that was killed with its guard, the next of its name clears away the rest.
    fn drop(&mut self) {
        for name in ["web", "web0", "web1", "job"] {
            if self.cgroup(name).exists() {
                let _ = self.run(name, &["true"]);
            }
        }
    }
}

/// Whether its conversation got an answer.
fn is_answered(client: &Client) -> Result<bool> {
    Ok(client.outcome()?.is_ok() && client.closed()?.received > 0)
}

fn pids(cgroup: &Path) -> Result<Vec<Pid>> {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    let pids = procs.lines().map(|pid| Ok(Pid::from_raw(pid.parse()?)));
    pids.collect()
}

/// Whether a process has this as an argument.
fn is_running(argument: &str) -> Result<bool> {
    for entry in fs::read_dir("/proc")? {
        let line = fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        if line
            .split(|byte| *byte == 0)
            .any(|it| it == argument.as_bytes())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn wait_for(otherwise: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{otherwise}");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn any_v4(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn any_v6(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// The loopback of the address's family, and its port.
fn loopback(of: SocketAddr) -> SocketAddr {
    if of.is_ipv4() {
        (Ipv4Addr::LOCALHOST, of.port()).into()
    } else {
        (Ipv6Addr::LOCALHOST, of.port()).into()
    }
}

const SERVE: &str = "--send 2000 --seed 22 --expect-seed 11";
const CONNECT: &str = "--send 3000 --seed 11 --expect-seed 22";
/// For who may not be answered at all.
const QUICK: &str = "--send 3000 --seed 11 --expect-seed 22 --patience 1000";
const PORT: u16 = 4000;
const OTHER: u16 = 4001;
const LIMIT: Duration = Duration::from_secs(30);
