//! Programs on a host: started in its namespace and cgroup, killed with their guard.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::cgroup;
use crate::sys;
use crate::testbed::Host;

/// A program to be started on a host.
#[derive(Debug)]
pub struct HostCommand {
    command: Command,
    netns: PathBuf,
    cgroup: Option<PathBuf>,
    passed: Vec<(String, OwnedFd)>,
    stderr: Option<OwnedFd>,
}

impl HostCommand {
    pub(crate) fn new(program: impl AsRef<OsStr>, netns: PathBuf, cgroup: Option<PathBuf>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Self {
            command,
            netns,
            cgroup,
            passed: Vec::new(),
            stderr: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn current_dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Keeps a pipe to the program's standard input, for [`Running::write_line`].
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Starts the program in the host's namespace, but leaves it in this process's cgroup.
    #[must_use]
    pub fn outside_the_cgroup(mut self) -> Self {
        self.cgroup = None;
        self
    }

    /// Starts the program in the host's namespace, but in this cgroup.
    #[must_use]
    pub fn in_cgroup(mut self, cgroup: &Path) -> Self {
        self.cgroup = Some(cgroup.to_owned());
        self
    }

    /// Starts the program in the namespace of another host.
    #[must_use]
    pub fn in_namespace_of(mut self, host: &Host) -> Self {
        self.netns = host.netns();
        self
    }

    /// Its standard error goes there, and is not collected.
    #[must_use]
    pub(crate) fn with_stderr(mut self, stderr: OwnedFd) -> Self {
        self.stderr = Some(stderr);
        self
    }

    /// Passes these descriptors to it, as a service manager does (`sd_listen_fds(3)`).
    #[must_use]
    pub(crate) fn passing(mut self, descriptors: Vec<(String, OwnedFd)>) -> Self {
        if descriptors.is_empty() {
            return self;
        }
        // Only the process itself knows its number before it is the program.
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"export LISTEN_PID=$$; exec "$0" "$@""#])
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .stdin(Stdio::null());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let names: Vec<_> = descriptors.iter().map(|(name, _)| name.as_str()).collect();
        command
            .env("LISTEN_FDS", descriptors.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"));
        self.command = command;
        self.passed = descriptors;
        self
    }

    /// Starts it.
    pub fn spawn(mut self) -> Result<Running> {
        let netns = File::open(&self.netns)
            .with_context(|| format!("could not open {}", self.netns.display()))?;
        let procs = self.cgroup.as_deref().map(cgroup::procs).transpose()?;
        sys::enter_before_exec(&mut self.command, netns.into(), procs);
        let (_, passed): (Vec<_>, Vec<_>) = self.passed.into_iter().unzip();
        sys::pass_before_exec(&mut self.command, &passed)?;
        Running::start(self.command, self.stderr)
    }

    /// Starts it and waits until it ends by itself.
    pub fn run(self, limit: Duration) -> Result<Finished> {
        self.spawn()?.wait(limit)
    }
}

/// A running program, whose output is collected. Dropping it kills the program.
pub struct Running {
    label: String,
    child: Child,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
}

impl Running {
    /// Starts a command where this process is, with this standard error or one that is collected.
    fn start(mut command: Command, stderr: Option<OwnedFd>) -> Result<Self> {
        let label = format!("{command:?}");
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(stderr.map_or_else(Stdio::piped, Stdio::from))
            .spawn()
            .with_context(|| format!("could not start {label}"))?;
        let stdout = Output::collect(child.stdout.take());
        let stderr = Output::collect(child.stderr.take());
        Ok(Self {
            label,
            child,
            stdout,
            stderr,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// What it has written to its standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line on its standard output that `matches` makes something of.
    pub fn wait_for<T>(
        &self,
        limit: Duration,
        matches: impl FnMut(&str) -> Option<T>,
    ) -> Result<T> {
        self.stdout
            .wait_for(limit, matches)
            .ok_or_else(|| self.complaint("did not say it in time"))
    }

    /// Writes a line to its standard input; needs [`HostCommand::with_stdin`].
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self
            .child
            .stdin
            .as_mut()
            .context("its standard input is not a pipe")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("could not signal {}", self.label))
    }

    /// Whether it has ended; its exit status can still be asked for.
    pub fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        waitid(Id::Pid(self.pid()), flags).is_ok_and(|status| status != WaitStatus::StillAlive)
    }

    /// Its exit status, once it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self, limit: Duration) -> Result<Finished> {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                return Err(self.complaint("did not end in time"));
            }
            thread::sleep(Duration::from_millis(2));
        };
        Ok(Finished {
            status,
            stdout: self.stdout.whole(OUTPUT_DEADLINE),
            stderr: self.stderr.whole(OUTPUT_DEADLINE),
            label: self.label.clone(),
        })
    }

    fn complaint(&self, what: &str) -> anyhow::Error {
        if self.has_ended() {
            self.stderr.whole(OUTPUT_DEADLINE);
        }
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        anyhow!(
            "{} {what}\nstdout: {}\nstderr: {}",
            self.label,
            tail(&stdout),
            tail(&stderr)
        )
    }

    pub(crate) fn stderr_output(&self) -> Arc<Output> {
        Arc::clone(&self.stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.label, self.child.id())
    }
}

/// A program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// All that it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// All that it wrote to its standard error.
    pub stderr: Vec<u8>,
    label: String,
}

impl Finished {
    /// Itself if it ended with exit code 0; otherwise an error with what it said.
    pub fn success(self) -> Result<Self> {
        if !self.status.success() {
            let (stdout, stderr) = (self.text(), self.stderr_text());
            bail!(
                "{}: {}\n{}\n{}",
                self.label,
                self.status,
                tail(&stdout),
                tail(&stderr)
            );
        }
        Ok(self)
    }

    /// Its standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Its standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// What a program writes, as it comes.
#[derive(Debug, Default)]
pub(crate) struct Output {
    written: Mutex<Written>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Written {
    bytes: Vec<u8>,
    ended: bool,
}

impl Output {
    fn collect(pipe: Option<impl Read + Send + 'static>) -> Arc<Self> {
        let output = Arc::new(Self::default());
        if let Some(pipe) = pipe {
            let output = Arc::clone(&output);
            thread::spawn(move || output.read_from(pipe));
        }
        output
    }

    /// Waits for a whole line that `matches` makes something of.
    pub(crate) fn wait_for<T>(
        &self,
        limit: Duration,
        mut matches: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut seen = 0;
        let mut written = self.lock();
        loop {
            while let Some(length) = memchr::memchr(b'\n', &written.bytes[seen..]) {
                let line = String::from_utf8_lossy(&written.bytes[seen..seen + length]);
                seen += length + 1;
                if let Some(found) = matches(&line) {
                    return Some(found);
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if written.ended || left.is_zero() {
                return None;
            }
            written = self
                .changed
                .wait_timeout(written, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.lock().bytes).into_owned()
    }

    /// Everything, once the program and its children have closed the pipe.
    fn whole(&self, limit: Duration) -> Vec<u8> {
        let written = self.lock();
        let (written, _) = self
            .changed
            .wait_timeout_while(written, limit, |written| !written.ended)
            .unwrap_or_else(PoisonError::into_inner);
        written.bytes.clone()
    }

    fn read_from(&self, mut pipe: impl Read) {
        let mut buffer = [0; 16 << 10];
        loop {
            let read = pipe.read(&mut buffer).unwrap_or(0);
            let mut written = self.lock();
            written.bytes.extend_from_slice(&buffer[..read]);
            written.ended = read == 0;
            self.changed.notify_all();
            if read == 0 {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a text, short enough for a failure's message.
pub(crate) fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(MESSAGE_LIMIT);
    let start = (start..=text.len()).find(|at| text.is_char_boundary(*at));
    &text[start.unwrap_or(0)..]
}

const OUTPUT_DEADLINE: Duration = Duration::from_secs(2);
const MESSAGE_LIMIT: usize = 8 << 10;
