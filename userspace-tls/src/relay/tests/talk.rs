//! A conversation over our relay with a program that is not ours.

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::process::Command;

use tokio::io::AsyncRead;

use super::kernel::{Seen, start};
use super::program::{Files, LINE, PATIENCE, PAUSE, Program, speech, within};
use super::*;

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
        let typing = async {
            for message in text.chunks(message) {
                program.input.send(message).await.unwrap();
                typed.set(typed.get() + message.len());
            }
        };
        let saying = async {
            for message in text.chunks(1 << 16) {
                sink.write_all(message).await.unwrap();
                said.set(said.get() + message.len());
            }
        };
        let all = async {
            tokio::join!(
                typing,
                saying,
                compare("here", &mut source, &text, &heard),
                compare("there", &mut program.output, &text, &printed)
            )
        };
        let done = timeout(PATIENCE, all).await.is_ok();
        let counts = [&typed, &heard, &said, &printed].map(Cell::get);
        assert!(done, "of {len} typed, heard, said, printed: {counts:?}");
    }

    /// Both sides end their direction, the foreign program first: all that it has printed.
    pub(super) async fn leaves_second(mut self) -> Program {
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
