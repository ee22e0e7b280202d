//! A program that is not ours at the other end of the wire, with a certificate of the same mesh.
//!
//! Whatever a test waits for here it waits for with [`PATIENCE`], and then says what did not come.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net as unix;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use tokio::net::{UnixDatagram, UnixStream};

use super::kernel::skip;
use super::*;
use crate::testing::Issued;

/// A program with its standard streams.
pub(super) struct Program {
    pub(super) child: Child,
    /// Each message is what one read of the program brings: it finds its commands at the beginning
    /// of one.
    pub(super) input: UnixDatagram,
    pub(super) output: UnixStream,
    /// All that it has printed so far.
    printed: Vec<u8>,
    /// Where it runs, with its certificate and what it logs.
    directory: Files,
}

impl Program {
    pub(super) fn start(mut command: Command, directory: Files) -> Self {
        let (input, stdin) = unix::UnixDatagram::pair().unwrap();
        let (output, stdout) = unix::UnixStream::pair().unwrap();
        input.set_nonblocking(true).unwrap();
        output.set_nonblocking(true).unwrap();
        let stderr = File::create(directory.path().join(STDERR)).unwrap();
        let child = command
            .current_dir(directory.path())
            .stdin(Stdio::from(OwnedFd::from(stdin)))
            .stdout(Stdio::from(OwnedFd::from(stdout)))
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self {
            child,
            input: UnixDatagram::from_std(input).unwrap(),
            output: UnixStream::from_std(output).unwrap(),
            printed: Vec::new(),
            directory,
        }
    }

    /// Types what one read of the program brings; nothing is the end of its input. Whether it was
    /// there to read it shows in what it does.
    pub(super) async fn types(&self, text: &[u8]) {
        let _ = within("the program's reading", self.input.send(text)).await;
    }

    /// The next `len` bytes that it prints.
    pub(super) async fn prints(&mut self, len: usize) -> Vec<u8> {
        let from = self.printed.len();
        self.printed.resize(from + len, 0);
        let read = self.output.read_exact(&mut self.printed[from..]);
        within("what the program was sent, in its output", read)
            .await
            .unwrap();
        self.printed[from..].to_vec()
    }

    /// Waits until its output has `text` in it.
    pub(super) async fn prints_somewhere(&mut self, text: &str) {
        let what = format!("{text:?} in the program's output");
        within(&what, async {
            while !self.printed().contains(text) {
                let len = self.output.read_buf(&mut self.printed).await.unwrap();
                assert!(len > 0, "{what}: there is only\n{}", self.printed());
            }
        })
        .await;
    }

    /// What it prints until its end, with what it has printed before, and how it ends.
    pub(super) async fn ends(&mut self) -> (String, ExitStatus) {
        let Self {
            output, printed, ..
        } = self;
        let end = within(
            "the end of the program's output",
            output.read_to_end(printed),
        );
        end.await.unwrap();
        let status = until("the program's end", || self.child.try_wait().unwrap()).await;
        (self.printed(), status)
    }

    pub(super) fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed).into_owned()
    }

    /// Ends it without a word, its sockets with it.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A file that it writes.
    pub(super) fn file(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.directory.path().join(name)).unwrap()).into_owned()
    }

    /// Waits until the file has so many lines with `text` in them.
    pub(super) async fn logs(&self, name: &str, text: &str, times: usize) {
        let what = format!("{text:?} {times} times in the program's {name}");
        until(&what, || {
            (lines_with(&self.file(name), text) >= times).then_some(())
        })
        .await;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let mut said = String::new();
            let _ = writeln!(said, "the program printed:\n{}", tail(&self.printed()));
            let _ = writeln!(said, "and complained:\n{}", tail(&self.file(STDERR)));
            eprintln!("{said}");
        }
    }
}

/// Without [`speech`].
fn tail(text: &str) -> String {
    let ascii: String = text.chars().filter(char::is_ascii).collect();
    ascii[ascii.len().saturating_sub(4000)..].to_owned()
}

pub(super) fn lines_with(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

/// Fails the test with what it has waited for in vain.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, future).await;
    done.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

pub(super) async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            match look() {
                Some(seen) => return seen,
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    })
    .await
}

/// Whether the test can be run here; says aloud where it can't.
pub(super) fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    if !found {
        skip(&format_args!("there is no {program} here"));
    }
    found
}

/// Noise without ASCII: no program takes a part of it for a command, a line's end or a string's.
pub(super) fn speech(len: usize) -> Vec<u8> {
    noise(len).into_iter().map(|byte| byte | 0x80).collect()
}

/// The PEM files of one program.
pub(super) struct Files(tempfile::TempDir);

impl Files {
    pub(super) fn new(ca: &Ca, issued: &Issued) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca"), ca.pem()).unwrap();
        fs::write(directory.path().join("chain"), &issued.chain).unwrap();
        fs::write(directory.path().join("key"), &issued.key).unwrap();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What a program complains of, as a file of its own.
pub(super) const STDERR: &str = "stderr";

/// More than a line has.
pub(super) const LINE: usize = 4096;

/// Many times what anything here takes under emulation.
pub(super) const PATIENCE: Duration = Duration::from_secs(90);

pub(super) const PAUSE: Duration = Duration::from_millis(10);
