//! A program that is not ours at the other end of the wire, with a certificate of the same mesh.
//!
//! Whatever a test waits for here it waits for with [`PATIENCE`], and then says what did not come.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net as unix;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use tokio::io::AsyncRead;
use tokio::net::{UnixDatagram, UnixStream};

use super::kernel::{Seen, skip, start};
use super::*;
use crate::testing::Issued;

/// A program with its standard streams.
pub(super) struct Program {
    child: Child,
    /// Each message is what one read of the program brings: it finds its commands at the beginning
    /// of one.
    input: UnixDatagram,
    output: UnixStream,
    /// All that it has printed so far.
    printed: Vec<u8>,
    /// Where it runs, with its certificate and what it logs.
    directory: Files,
}

impl Program {
    fn start(mut command: Command, directory: Files) -> Self {
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

/// Our relay with its program `app`, and the foreign program at the other end of its wire.
pub(super) struct Talk {
    pub(super) app: TcpStream,
    pub(super) relay: JoinHandle<RelayEnd>,
    pub(super) seen: Arc<Seen>,
    pub(super) program: Program,
}

impl Talk {
    /// The foreign program connects to the port that `command` gets.
    pub(super) async fn with_client(command: impl FnOnce(u16) -> Command) -> Self {
        let ca = Ca::new("mesh");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let files = Files::new(&ca, &ca.issue(&Leaf::workload("a")));
        let program = Program::start(command(port), files);
        let (stream, _) = within("the program's connection", listener.accept())
            .await
            .unwrap();
        let mut stream = prepared(stream);
        let tls = ca.mesh_tls(&Leaf::workload("b"));
        let accepted = accept(&tls, ClientAuth::Required, &mut stream);
        let accepted = within("the handshake", accepted).await.unwrap();
        assert_eq!(accepted.application_protocol, None);
        Self::new(stream, accepted.session, program).await
    }

    /// The foreign program listens at the port that `command` gets.
    pub(super) async fn with_server(command: impl Fn(u16) -> Command) -> Self {
        let ca = Ca::new("mesh");
        let issued = ca.issue(&Leaf::workload("b"));
        let mut listening = None;
        while listening.is_none() {
            let port = free_port();
            let program = Program::start(command(port), Files::new(&ca, &issued));
            listening = reach(program, port).await;
        }
        let (stream, program) = listening.unwrap();
        let mut stream = prepared(stream);
        let tls = ca.mesh_tls(&Leaf::workload("a"));
        let connected = connect(&tls, Offer::Sealwire1, &mut stream);
        let connected = within("the handshake", connected).await.unwrap();
        Self::new(stream, connected.session, program).await
    }

    async fn new(stream: WireSocket, session: Session, program: Program) -> Self {
        let (app, inner) = tcp_pair(None).await;
        let seen = Arc::new(Seen::default());
        let relay = start(inner, Secured { stream, session }, &seen);
        Self {
            app,
            relay,
            seen,
            program,
        }
    }

    /// The foreign program types `text`, as much at once as `message` says: it comes out here.
    pub(super) async fn hears(&mut self, text: &[u8], message: usize) {
        let Self { app, program, .. } = self;
        let types = async {
            for message in text.chunks(message) {
                program.types(message).await;
            }
        };
        let (heard, ()) = tokio::join!(receive(app, text.len()), types);
        assert!(heard == text, "other bytes than the program was given");
    }

    /// What is said here the foreign program prints, between other things.
    pub(super) async fn says(&mut self, line: &str) {
        send(&mut self.app, line.as_bytes()).await;
        self.program.prints_somewhere(line).await;
    }

    /// A line in each direction.
    pub(super) async fn exchanges_lines(&mut self, number: u32) {
        self.hears(format!("from there {number}\n").as_bytes(), LINE)
            .await;
        self.says(&format!("from here {number}\n")).await;
    }

    /// Both directions at once, of a program that prints nothing else.
    pub(super) async fn exchanges(&mut self, len: usize, message: usize) {
        let text = speech(len);
        let [typed, heard, said, printed] = [const { Cell::new(0) }; 4];
        let Self { app, program, .. } = self;
        let (mut source, mut sink) = app.split();
        let types = async {
            for message in text.chunks(message) {
                program.input.send(message).await.unwrap();
                typed.set(typed.get() + message.len());
            }
        };
        let says = async {
            for message in text.chunks(1 << 16) {
                sink.write_all(message).await.unwrap();
                said.set(said.get() + message.len());
            }
        };
        let all = async {
            tokio::join!(
                types,
                says,
                compare("here", &mut source, &text, &heard),
                compare("there", &mut program.output, &text, &printed)
            )
        };
        let done = timeout(PATIENCE, all).await.is_ok();
        let counts = [&typed, &heard, &said, &printed].map(Cell::get);
        assert!(done, "of {len} typed, heard, said, printed: {counts:?}");
    }

    /// Both sides end their direction, the foreign program first: all that it has printed.
    pub(super) async fn is_left(mut self) -> Program {
        self.reads_the_end().await;
        within("our end", self.app.shutdown()).await.unwrap();
        let end = within("the relay's end", self.relay).await.unwrap();
        assert_eq!(end, RelayEnd::Orderly);
        self.program
    }

    /// The same, we first.
    pub(super) async fn leaves(mut self) -> Program {
        within("our end", self.app.shutdown()).await.unwrap();
        self.reads_the_end().await;
        let end = within("the relay's end", self.relay).await.unwrap();
        assert_eq!(end, RelayEnd::Orderly);
        self.program
    }

    async fn reads_the_end(&mut self) {
        let mut rest = Vec::new();
        let end = within("the end of the stream", self.app.read_to_end(&mut rest)).await;
        end.unwrap();
        assert_eq!(rest, b"");
    }

    /// How the relay ends when there can be no order any more: our program gets a reset behind what
    /// it may still get.
    pub(super) async fn breaks(mut self) -> (Vec<u8>, RelayEnd, Program) {
        let mut rest = Vec::new();
        let end = within("the reset", self.app.read_to_end(&mut rest)).await;
        assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let end = within("the relay's end", self.relay).await.unwrap();
        (rest, end, self.program)
    }
}

async fn compare(
    place: &str,
    source: &mut (impl AsyncRead + Unpin),
    text: &[u8],
    seen: &Cell<usize>,
) {
    let mut buffer = vec![0; 1 << 16];
    while seen.get() < text.len() {
        let rest = &text[seen.get()..];
        let len = source.read(&mut buffer).await.unwrap();
        assert!(len > 0, "an early end {place}");
        if let Some(at) = (0..len).find(|&at| rest.get(at) != Some(&buffer[at])) {
            let same = text
                .windows(16)
                .position(|it| buffer[at..len].starts_with(it));
            let at = seen.get() + at;
            panic!("other bytes {place}: at {at} come those of {same:?}");
        }
        seen.set(seen.get() + len);
    }
}

/// As the agent prepares its sockets.
fn prepared(stream: TcpStream) -> WireSocket {
    stream.set_nodelay(true).unwrap();
    let wire = by_environment(stream);
    wire.set_linger(Some(Duration::ZERO)).unwrap();
    wire
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A connection to the port once the program listens there; none where it ended instead, for example
/// since another has taken the port.
async fn reach(mut program: Program, port: u16) -> Option<(TcpStream, Program)> {
    within("a connection to the program", async {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            // From another address than it listens at: a socket can connect to itself.
            socket
                .bind((Ipv4Addr::new(127, 0, 0, 2), 0).into())
                .unwrap();
            let server = (Ipv4Addr::LOCALHOST, port).into();
            match socket.connect(server).await {
                Ok(stream) => return Some((stream, program)),
                Err(_) if program.child.try_wait().unwrap().is_some() => return None,
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    })
    .await
}

pub(super) async fn send(app: &mut TcpStream, bytes: &[u8]) {
    within("writing to the relay", app.write_all(bytes))
        .await
        .unwrap();
}

pub(super) async fn receive(app: &mut TcpStream, len: usize) -> Vec<u8> {
    within("bytes from the relay", read(app, len)).await
}

/// Fails the test with what it has waited for in vain.
pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
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
struct Files(tempfile::TempDir);

impl Files {
    fn new(ca: &Ca, issued: &Issued) -> Self {
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
const PATIENCE: Duration = Duration::from_secs(90);

const PAUSE: Duration = Duration::from_millis(10);
