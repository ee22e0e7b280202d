use std::num::NonZeroUsize;
use std::time::Duration;

use ::kernel_tls::Capabilities;
use agent_config::{OffloadChoice, SpliceChoice};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::*;
use crate::policy::{Direction, Mode};
use crate::refusals::occurrence;
use crate::registry::Registration;
use crate::registry::testing::{Stage, open};

/// A served admin interface, and what a test changes behind it.
struct Served {
    address: SocketAddr,
    registry: Arc<Registry>,
    refusals: Arc<History>,
    metrics: Arc<Metrics>,
    readiness: watch::Sender<Readiness>,
}

impl Served {
    async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (readiness, receiver) = watch::channel(Readiness::default());
        let registry = Arc::new(Registry::new(NonZeroUsize::MIN));
        let refusals = Arc::new(History::new());
        let metrics = Arc::new(Metrics::new("0.1.0"));
        let state = AdminState {
            registry: Arc::clone(&registry),
            refusals: Arc::clone(&refusals),
            workloads: watch::channel(Vec::new()).1,
            kernel_tls: Arc::new(KernelTls::new(
                OffloadChoice::Off,
                SpliceChoice::Off,
                Capabilities::probe(),
            )),
            metrics: Arc::clone(&metrics),
            readiness: receiver,
            config_json: watch::channel(r#"{"workers":1}"#.into()).1,
        };
        tokio::spawn(
            Admin {
                listeners: vec![listener],
            }
            .serve(state),
        );
        Self {
            address,
            registry,
            refusals,
            metrics,
            readiness,
        }
    }

    fn open(&self) -> Registration {
        let (direction, mode) = (Direction::Ingress, Mode::Mtls);
        open(
            &self.registry,
            &self.metrics,
            "web",
            direction,
            mode,
            Stage::Handshaking,
        )
    }

    /// Status line, headers and body of the answer to `request`, which ends its connection.
    async fn ask(&self, request: &str) -> (String, String, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap();
        (status.to_owned(), headers.to_owned(), body.to_owned())
    }

    async fn get(&self, path: &str) -> (String, String, String) {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        ))
        .await
    }
}

#[tokio::test]
async fn ready_is_503_until_every_workload_is_ready() {
    let served = Served::start().await;
    let (status, _, body) = served.get("/ready").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(
        body,
        "{\"ready\":false,\"configuration\":{\"generation\":0},\"workloads\":[]}\n"
    );

    let mut web = WorkloadReadiness {
        name: "web".parse().unwrap(),
        identity: None,
        not_ready: Some("no certificate yet".to_owned()),
        certificate_not_after: None,
    };
    served.readiness.send_replace(Readiness {
        workloads: vec![web.clone()],
        ..Readiness::default()
    });
    let (status, _, body) = served.get("/ready").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains(r#""why":"no certificate yet""#), "{body}");

    web.identity = Some("spiffe://mesh.local/ns/default/sa/web".parse().unwrap());
    web.not_ready = None;
    web.certificate_not_after = Some(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000));
    served.readiness.send_replace(Readiness {
        workloads: vec![web.clone()],
        ..Readiness::default()
    });
    let (status, _, body) = served.get("/ready").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body,
        serde_json::json!({ "ready": true, "configuration": { "generation": 0 }, "workloads": [{
            "name": "web", "identity": "spiffe://mesh.local/ns/default/sa/web", "ready": true,
            "why": null, "certificate_not_after": "2027-01-15T08:00:00Z",
        }]})
    );
}

#[tokio::test(start_paused = true)]
async fn ready_says_for_how_long_the_coordinator_is_away_and_stays_ready() {
    let served = Served::start().await;
    let web = WorkloadReadiness {
        name: "web".parse().unwrap(),
        identity: Some("spiffe://mesh.local/ns/default/sa/web".parse().unwrap()),
        not_ready: None,
        certificate_not_after: Some(SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)),
    };
    served.readiness.send_replace(Readiness {
        workloads: vec![web],
        coordinator: Some(Trouble::unreachable_since(tokio::time::Instant::now())),
        ..Readiness::default()
    });
    tokio::time::advance(Duration::from_secs(12)).await;
    let (status, _, body) = served.get("/ready").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        body["workloads"][0]["warning"],
        "coordinator unreachable for 12 s, certificate expires at 2027-01-15T08:00:00Z"
    );
    assert_eq!(body["coordinator"]["reachable"], false);
    assert_eq!(body["coordinator"]["trouble_seconds"], 12);
}

#[tokio::test]
async fn metrics_hold_the_bytes_of_open_connections() {
    let served = Served::start().await;
    let connection = served.open();
    connection
        .traffic()
        .sent
        .store(7, std::sync::atomic::Ordering::Relaxed);
    let (status, headers, body) = served.get("/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(
        headers.contains("content-type: application/openmetrics-text"),
        "{headers}"
    );
    let line = r#"sealwire_bytes_total{workload="web",direction="ingress",flow="sent"} 7"#;
    assert!(body.contains(line) && body.ends_with("# EOF\n"), "{body}");
}

#[tokio::test]
async fn connections_are_a_json_array() {
    let served = Served::start().await;
    assert_eq!(served.get("/connections").await.2, "[]\n");
    let _connection = served.open();
    let (_, headers, body) = served.get("/connections").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body[0]["from"], "10.0.0.1:40000");
    assert_eq!(body[0]["state"], "handshaking");
    assert!(headers.contains("sealwire-omitted: 0"), "{headers}");
    assert!(
        headers.contains("content-type: application/json"),
        "{headers}"
    );
}

#[tokio::test]
async fn refusals_come_newest_first_and_say_what_they_mean() {
    let served = Served::start().await;
    for detail in ["first", "second"] {
        served.refusals.add(occurrence(detail));
    }
    let (_, headers, body) = served.get("/refusals").await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body.as_array().unwrap().len(), 2);
    assert_eq!(
        (&body[0]["id"], &body[0]["detail"]),
        (&"r2".into(), &"second".into())
    );
    assert!(
        body[0]["to_do"]
            .as_str()
            .unwrap()
            .contains("add it to `peers`"),
        "{body}"
    );
    assert!(headers.contains("sealwire-omitted: 0"), "{headers}");
    assert!(headers.contains("sealwire-since: 20"), "{headers}");
    let newer = served.get("/refusals?after=r1").await.2;
    let newer: serde_json::Value = serde_json::from_str(&newer).unwrap();
    assert_eq!(newer.as_array().unwrap().len(), 1);
    assert_eq!(served.get("/refusals?after=r2").await.2, "[]\n");
    let (status, _, hint) = served.get("/refusals?after=2").await;
    assert_eq!(status, "HTTP/1.1 400 Bad Request");
    assert_eq!(
        hint,
        "after \"2\" is no refusal's number; write it as the log does, such as r17\n"
    );
}

#[tokio::test]
async fn an_explanation_is_json_and_its_absence_a_sentence() {
    let served = Served::start().await;
    let (status, _, hint) = served.get("/explain?refusal=r1").await;
    assert_eq!(status, "HTTP/1.1 404 Not Found");
    assert!(hint.contains("has refused 0 so far"), "{hint}");
    served.refusals.add(occurrence("none"));
    let (status, _, body) = served.get("/explain?refusal=r1").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["refusal"]["code"], "peer-not-allowed");
    for path in [
        "/explain",
        "/explain?what=1",
        "/explain?to=10.0.0.2%3A80&direction=up",
    ] {
        let (status, _, _) = served.get(path).await;
        assert_eq!(status, "HTTP/1.1 400 Bad Request", "{path}");
    }
}

#[tokio::test]
async fn the_page_lets_nothing_in_from_elsewhere() {
    let served = Served::start().await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/live.css", "text/css"),
        ("/live.js", "text/javascript"),
    ] {
        let (status, headers, body) = served.get(path).await;
        assert_eq!(status, "HTTP/1.1 200 OK", "{path}");
        assert!(
            headers.contains(&format!("content-type: {kind}")),
            "{headers}"
        );
        assert!(
            headers.contains("content-security-policy: default-src 'none'; script-src 'self'"),
            "{headers}"
        );
        for foreign in ["http:", "https:", "style=", "onclick", "innerHTML"] {
            assert!(!body.contains(foreign), "{path} has {foreign}");
        }
    }
}

#[tokio::test]
async fn the_configuration_is_shown_as_it_is() {
    let served = Served::start().await;
    assert_eq!(served.get("/config").await.2, r#"{"workers":1}"#);
}

#[tokio::test]
async fn only_a_host_on_loopback_is_answered() {
    let served = Served::start().await;
    for (line, status) in [
        ("host: localhost\r\n", "200 OK"),
        ("host: LocalHost:9464\r\n", "200 OK"),
        ("host: 127.0.0.1:9464\r\n", "200 OK"),
        ("host: 127.1.2.3\r\n", "200 OK"),
        ("host: [::1]:9464\r\n", "200 OK"),
        ("host: evil.example\r\n", "421 Misdirected Request"),
        (
            "host: localhost.evil.example\r\n",
            "421 Misdirected Request",
        ),
        (
            "host: evil.example@localhost\r\n",
            "421 Misdirected Request",
        ),
        ("host: 10.0.0.1\r\n", "421 Misdirected Request"),
        ("host: [::ffff:10.0.0.1]\r\n", "421 Misdirected Request"),
        (
            "host: localhost\r\nhost: evil.example\r\n",
            "421 Misdirected Request",
        ),
        ("host:\r\n", "421 Misdirected Request"),
        ("", "421 Misdirected Request"),
    ] {
        let request = format!("GET /config HTTP/1.1\r\n{line}connection: close\r\n\r\n");
        let (found, _, body) = served.ask(&request).await;
        assert_eq!(found, format!("HTTP/1.1 {status}"), "{line:?}");
        assert_eq!(body.contains("workers"), status == "200 OK", "{line:?}");
    }
    let absolute = "GET http://evil.example/config HTTP/1.1\r\nhost: localhost\r\n\
                    connection: close\r\n\r\n";
    assert_eq!(
        served.ask(absolute).await.0,
        "HTTP/1.1 421 Misdirected Request"
    );
}

#[tokio::test]
async fn only_get_is_answered_and_only_on_known_paths() {
    let served = Served::start().await;
    for method in ["POST", "HEAD", "OPTIONS", "DELETE"] {
        let request =
            format!("{method} /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        assert_eq!(
            served.ask(&request).await.0,
            "HTTP/1.1 405 Method Not Allowed",
            "{method}"
        );
    }
    assert_eq!(served.get("/live").await.0, "HTTP/1.1 404 Not Found");
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_says_what_to_do() {
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = Admin::bind(NonZeroU16::new(port).unwrap())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "binding the admin interface to 127.0.0.1:{port}: Address already in use \
             (os error 98); choose another port with --admin-port, or leave it out"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_off_and_its_slot_is_free_again() {
    let served = Served::start().await;
    let mut silent = Vec::new();
    for _ in 0..listener::MOST_CONNECTIONS {
        silent.push(TcpStream::connect(served.address).await.unwrap());
    }
    let began = tokio::time::Instant::now();
    let (status, _, _) = served.get("/config").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(began.elapsed() >= listener::LONGEST_CONNECTION);
    for mut stream in silent {
        let mut nothing = Vec::new();
        stream.read_to_end(&mut nothing).await.unwrap();
        assert_eq!(nothing, b"");
    }
}
