//! One virtual machine, for one command.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, BufRead as _, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{self as std_process, Child, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    CPUS, Fetched, MEMORY_MIB, TIMEOUT_SECONDS, guest,
    initramfs::{self, Initramfs},
    kernel_log, modules,
};
use crate::{process, workspace};

/// A machine that is to run a command.
pub(crate) struct Machine<'k> {
    kernel: &'k Fetched,
    memory: u32,
    cpus: u32,
    timeout: Duration,
    counts_instructions: bool,
    files: Vec<(PathBuf, PathBuf)>,
    programs: Vec<String>,
    environment: Vec<(String, OsString)>,
    out: Option<PathBuf>,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Its exit code.
    pub(crate) code: u8,
    /// Faults of its own that the kernel found meanwhile.
    pub(crate) complaints: Vec<String>,
}

impl<'k> Machine<'k> {
    pub(crate) fn new(kernel: &'k Fetched) -> Self {
        Self {
            kernel,
            memory: MEMORY_MIB,
            cpus: CPUS,
            timeout: Duration::from_secs(TIMEOUT_SECONDS),
            counts_instructions: false,
            files: Vec::new(),
            programs: PROGRAMS.map(str::to_owned).to_vec(),
            environment: Vec::new(),
            out: None,
        }
    }

    /// MiB.
    pub(crate) fn memory(&mut self, mebibytes: u32) -> &mut Self {
        self.memory = mebibytes;
        self
    }

    pub(crate) fn cpus(&mut self, cpus: u32) -> &mut Self {
        self.cpus = cpus;
        self
    }

    /// The machine is ended after so long.
    pub(crate) fn timeout(&mut self, timeout: Duration) -> &mut Self {
        self.timeout = timeout;
        self
    }

    /// One CPU, and a clock that is the number of instructions so far, each a nanosecond.
    pub(crate) fn count_instructions(&mut self) -> &mut Self {
        self.counts_instructions = true;
        self.cpus(1)
    }

    /// Puts a file there too; a program with its libraries.
    pub(crate) fn file(&mut self, host: &Path, guest: &Path) -> &mut Self {
        self.files.push((host.to_owned(), guest.to_owned()));
        self
    }

    /// Puts a program of this machine there too, if it is installed.
    pub(crate) fn program(&mut self, name: &str) -> &mut Self {
        self.programs.push(name.to_owned());
        self
    }

    /// Sets a variable of the command's environment.
    pub(crate) fn env(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Where the files go that the command leaves in `/out`.
    pub(crate) fn out(&mut self, directory: &Path) -> &mut Self {
        self.out = Some(directory.to_owned());
        self
    }

    /// Runs the command; what it says goes to our standard output and error, byte for byte.
    pub(crate) fn run(&self, command: &[impl AsRef<OsStr>]) -> Result<Outcome> {
        self.run_with(command, |stdout| copy(stdout, io::stdout()))
    }

    /// Runs the command and hands on the lines of its standard output.
    pub(crate) fn run_lines(
        &self,
        command: &[impl AsRef<OsStr>],
        mut line: impl FnMut(&str) + Send,
    ) -> Result<Outcome> {
        self.run_with(command, |stdout| {
            for text in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                line(&String::from_utf8_lossy(&text));
            }
        })
    }

    fn run_with(
        &self,
        command: &[impl AsRef<OsStr>],
        take: impl FnOnce(ChildStdout) + Send,
    ) -> Result<Outcome> {
        let run = Run::new()?;
        self.pack(command, &run.path("initramfs"))?;
        let mut child = self.start(&run)?;
        let pipes = child.stdout.take().zip(child.stderr.take());
        let (stdout, stderr) = pipes.context("qemu without standard output and error")?;
        let ended = thread::scope(|scope| {
            scope.spawn(|| take(stdout));
            scope.spawn(|| copy(stderr, io::stderr()));
            self.wait(&mut child)
        });
        let outcome = ended.and_then(|()| run.outcome());
        if let (Ok(_), Some(out)) = (&outcome, &self.out) {
            run.unpack(out)?;
        }
        outcome
    }

    fn pack(&self, command: &[impl AsRef<OsStr>], archive: &Path) -> Result<()> {
        let mut tree = Initramfs::new(archive.with_extension("tree"))?;
        let busybox = initramfs::find_program("busybox").context("busybox is not installed")?;
        tree.file(&busybox, Path::new("/usr/bin/busybox"))?;
        tree.script("/init", guest::INIT)?;
        for (name, text) in guest::FILES {
            tree.text(name, text)?;
        }
        let exports = self.environment.iter().map(|(name, value)| {
            let value = value.to_string_lossy().replace('\'', r"'\''");
            format!("export {name}='{value}'\n")
        });
        let line = exports.collect::<String>() + &guest::command_line(command);
        tree.text("/command", &line)?;
        tree.modules(&modules::in_order(
            &self.kernel.modules(),
            &modules::WANTED,
        )?)?;
        for name in &self.programs {
            tree.program(name)?;
        }
        for (host, guest) in &self.files {
            tree.file(host, guest)?;
        }
        if let Some(program) = command.first() {
            let program = program.as_ref();
            let path = Path::new(program);
            if path.components().count() > 1 {
                let host = path
                    .canonicalize()
                    .with_context(|| format!("there is no {}", path.display()))?;
                // Where the command names it, from the guest's working directory or from its root.
                tree.file(&host, &Path::new("/root").join(path))?;
            } else {
                tree.program(&program.to_string_lossy())?;
            }
        }
        tree.pack(archive)
    }

    fn start(&self, run: &Run) -> Result<Child> {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-m", &self.memory.to_string()])
            .args(["-smp", &self.cpus.to_string()])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(run.path("initramfs"))
            .args(["-append", KERNEL_ARGUMENTS])
            .arg("-serial")
            .arg(file("file:", &run.path("console")))
            .args(["-device", "virtio-serial-pci"]);
        if self.counts_instructions {
            // String instructions of these two would be counted by the byte.
            qemu.args(["-accel", "tcg,thread=single"])
                .args(["-cpu", "max,-erms,-fsrm"])
                .args(["-icount", "shift=0,sleep=off"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
        }
        for port in guest::PORTS {
            let path = match port {
                "stdout" => "/dev/fd/1".into(),
                "stderr" => "/dev/fd/2".into(),
                port => run.path(port),
            };
            let mut chardev = file(&format!("file,append=on,id={port},path="), &path);
            qemu.arg("-chardev").arg(std::mem::take(&mut chardev));
            qemu.args([
                "-device",
                &format!("virtserialport,chardev={port},name={port}"),
            ]);
        }
        // Pipes, as qemu opens them anew: of a file it would begin at the beginning.
        qemu.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting qemu-system-x86_64")
    }

    fn wait(&self, child: &mut Child) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(status) = child.try_wait().context("waiting for qemu")? {
                if status.success() {
                    return Ok(());
                }
                bail!("qemu ended with {status}");
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                bail!(
                    "the machine was ended after {} s; --timeout allows more",
                    self.timeout.as_secs()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The files of one run, which go with it.
struct Run(PathBuf);

impl Run {
    fn new() -> Result<Self> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let directory = workspace::target().join(format!("vm/run-{}-{number}", std_process::id()));
        fs::create_dir_all(&directory)
            .with_context(|| format!("making {}", directory.display()))?;
        Ok(Self(directory))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.path(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The status comes last: without it the guest did not get to its end.
    fn outcome(&self) -> Result<Outcome> {
        let console = self.read("console");
        let code = self.read("status").trim().parse().map_err(|_| {
            let lines: Vec<_> = console.lines().collect();
            let tail = lines[lines.len().saturating_sub(CONSOLE_TAIL)..].join("\n");
            anyhow!("the machine went down before the command had ended\n{tail}")
        })?;
        // What the console shows is part of the log, unless the log was not written any more.
        let complaints = kernel_log::complaints(&self.read("log"));
        Ok(Outcome { code, complaints })
    }

    fn unpack(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        process::run(
            process::quiet_stdout("tar")
                .args(["--extract", "--no-same-owner", "--file"])
                .arg(self.path("out"))
                .arg("--directory")
                .arg(directory),
        )
        .context("unpacking what the command left in /out")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Copies what comes as it comes. A reader of ours that is gone is no reason to fail.
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if to
            .write_all(&buffer[..len])
            .and_then(|()| to.flush())
            .is_err()
        {
            return;
        }
    }
}

fn file(before: &str, path: &Path) -> OsString {
    let mut text = OsString::from(before);
    text.push(path);
    text
}

/// Errors on the console; the rest is read from the log. Emulation on a busy machine looks like a
/// stall to watchdogs.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 loglevel=4 panic=-1 mitigations=off \
     random.trust_cpu=on nowatchdog rcupdate.rcu_cpu_stall_suppress=1 hung_task_panic=0";

/// Always there, where this machine has them.
const PROGRAMS: [&str; 6] = ["ip", "tc", "ss", "nft", "bpftool", "bash"];

const CONSOLE_TAIL: usize = 30;
