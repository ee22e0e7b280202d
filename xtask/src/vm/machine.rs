//! One virtual machine, for one command.

use std::{
    ffi::{OsStr, OsString},
    io::{self, BufRead as _, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    CPUS, Fetched, MEMORY_MIB, TIMEOUT_SECONDS, guest, initramfs::Initramfs, kernel_log, modules,
    run::Run,
};

/// A machine that is to run a command.
pub(crate) struct Machine<'k> {
    kernel: &'k Fetched,
    /// MiB.
    memory: u32,
    cpus: u32,
    timeout: Duration,
    counts_instructions: bool,
    kernel_arguments: Vec<String>,
    files: Vec<(PathBuf, PathBuf)>,
    programs: Vec<&'static str>,
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
            kernel_arguments: KERNEL_ARGUMENTS.map(str::to_owned).to_vec(),
            files: Vec::new(),
            programs: PROGRAMS.to_vec(),
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

    /// Adds to the kernel's command line.
    pub(crate) fn kernel_arguments(&mut self, arguments: &[String]) -> &mut Self {
        self.kernel_arguments.extend_from_slice(arguments);
        self
    }

    /// Puts a file there too; a program with its libraries, a directory with what is in it.
    pub(crate) fn file(&mut self, host: &Path, guest: &Path) -> &mut Self {
        self.files.push((host.to_owned(), guest.to_owned()));
        self
    }

    /// Puts a program of this machine there too, if it is installed.
    pub(crate) fn program(&mut self, name: &'static str) -> &mut Self {
        self.programs.push(name);
        self
    }

    /// Sets a variable of the command's environment.
    pub(crate) fn env(&mut self, name: &str, value: impl Into<OsString>) -> &mut Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Where the files go that the command leaves in `/out`, rather than to the folder of the kernel's
    /// last run.
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
        let run = Run::start(&self.kernel.release)?;
        self.pack(command, &run)?;
        let mut child = self.start(&run)?;
        let pipes = child.stdout.take().zip(child.stderr.take());
        let (stdout, stderr) = pipes.context("qemu without standard output and error")?;
        let ended = thread::scope(|scope| {
            scope.spawn(|| take(stdout));
            scope.spawn(|| copy(stderr, io::stderr()));
            self.wait(&mut child)
        });
        let code = ended.and_then(|()| {
            guest::exit_code(&run.read("status"))
                .context("the machine went down before the command had ended")
        });
        run.keep_log();
        let code =
            code.map_err(|error| anyhow!("{error:#}\n{}", last_words(&run.read("console"))))?;
        run.keep_out(self.out.as_deref())?;
        Ok(Outcome {
            code,
            complaints: kernel_log::complaints(&run.read("log")),
        })
    }

    fn pack(&self, command: &[impl AsRef<OsStr>], run: &Run) -> Result<()> {
        let mut files = Initramfs::default();
        files.program("busybox")?;
        files.script("/init", guest::INIT);
        for (name, text) in guest::FILES {
            files.text(name, text);
        }
        files.text(guest::MODULES, modules::WANTED.join("\n"));
        files.modules(self.kernel, &modules::WANTED)?;
        for (host, guest) in &self.files {
            files.file(host, guest)?;
        }
        for name in &self.programs {
            files.program(name)?;
        }
        if let Some(program) = command.first() {
            add_command(program.as_ref(), &mut files)?;
        }
        let mut own = Initramfs::default();
        own.text(
            guest::COMMAND,
            guest::command_script(&self.environment, command),
        );
        run.pack(&files, &own)
    }

    fn start(&self, run: &Run) -> Result<Child> {
        // Without it a machine would outlive us when we are killed.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-m", &self.memory.to_string()])
            .arg("-kernel")
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(run.path("initramfs"))
            .args(["-append", &self.kernel_arguments.join(" ")])
            .arg("-serial")
            .arg(joined("file:", &run.path("console")))
            .args(["-device", "virtio-serial-pci"]);
        if self.counts_instructions {
            // String instructions of these two would be counted by the byte.
            qemu.args(["-accel", "tcg,thread=single", "-cpu", "max,-erms,-fsrm"])
                .args(["-icount", "shift=0,sleep=off"]);
        } else {
            qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max"])
                .args(["-smp", &self.cpus.to_string()]);
        }
        for port in guest::PORTS {
            let path = match port {
                "stdout" => "/dev/fd/1".into(),
                "stderr" => "/dev/fd/2".into(),
                port => run.path(port),
            };
            qemu.arg("-chardev")
                .arg(joined(&format!("file,append=on,id={port},path="), &path))
                .arg("-device")
                .arg(format!("virtserialport,chardev={port},name={port}"));
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
                let _ = child.kill(); // it may have ended
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

/// The command's program goes where the command names it, from the guest's working directory or
/// from its root. One that is not here may be in the guest by another way.
fn add_command(program: &OsStr, files: &mut Initramfs) -> Result<()> {
    let path = Path::new(program);
    if path.components().count() == 1 {
        return files.program(&program.to_string_lossy());
    }
    if !path.is_file() {
        return Ok(());
    }
    files.file(path, &Path::new(guest::HOME).join(path))
}

/// What the console says of why a machine did not come to its end.
fn last_words(console: &str) -> String {
    let complaints = kernel_log::complaints(console);
    let lines: Vec<_> = console.lines().collect();
    let tail = &lines[lines.len().saturating_sub(CONSOLE_TAIL)..];
    let told = complaints.iter().map(|line| format!("kernel: {line}\n"));
    told.collect::<String>() + "the end of its console:\n" + &tail.join("\n")
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

fn joined(before: &str, path: &Path) -> OsString {
    let mut text = OsString::from(before);
    text.push(path);
    text
}

/// Warnings on the console too, for a machine that does not come to its end. A panic ends the machine.
/// Emulation on a busy computer looks like a stall to watchdogs. The tests of the kernel's own ciphers
/// would test the emulator.
const KERNEL_ARGUMENTS: [&str; 9] = [
    "console=ttyS0",
    "loglevel=5",
    "log_buf_len=4M",
    "panic=-1",
    "mitigations=off",
    "random.trust_cpu=on",
    "nowatchdog",
    "rcupdate.rcu_cpu_stall_suppress=1",
    "cryptomgr.notests",
];

/// Always there, where this machine has them.
const PROGRAMS: [&str; 6] = ["ip", "tc", "ss", "nft", "bpftool", "bash"];

const CONSOLE_TAIL: usize = 30;
