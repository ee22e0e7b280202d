//! The page of the admin interface, in a browser: true, harmless, and usable on a phone and by
//! keyboard.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::{env, thread};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use testbed::admin::Answer;
use testbed::pair::PORT;
use testbed::pki::spiffe_id;
use testbed::{Browser, Client, Pair, Screen, Server, require};

#[test]
fn the_page_shows_workloads_peers_and_refusals_with_their_explanation() -> Result<()> {
    require!("chromium");
    let mut pair = Pair::start()?;
    let address = pair.server().at(PORT);
    let endless = "--send 4000000000 --write-pause 100";
    let _serving = Server::start(pair.server(), &[address], endless)?;
    let client = Client::start(pair.client(), address, "")?;
    client.connected()?;
    let _in_clear = Client::start(pair.outsider(), address, "--send 100")?;
    let refused = pair.server_agent.refusal("peer-not-tls")?;

    let mut browser = open(pair.server_agent.admin_port(), Screen::PHONE)?;
    browser.wait_until("document.querySelectorAll('#refusals details').length === 1")?;
    let peer = spiffe_id("client");
    browser.wait_until(&format!("byId('peers').textContent.includes('{peer}')"))?;
    let text = browser.text()?;
    for expected in [
        "server",
        &spiffe_id("server"),
        &peer,
        "The workload is ready. 1 connection refused.",
        refused["id"].as_str().context("no id")?,
        "peer-not-tls",
        "the peer's first bytes are no TLS; the detail shows them",
        "Is it outside the mesh?",
        "docs/src/reference/refusals.md#peer-not-tls",
        "userspace",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    // A rate takes two answers.
    browser.wait_until("/[1-9][0-9.]* [kMG]?B\\/s sent/.test(byId('peers').textContent)")?;

    assert_keyboard(&mut browser)?;
    assert_fits(&mut browser, Screen::PHONE)?;
    let kept = env::var_os("SEALWIRE_SCREENSHOT").map(PathBuf::from);
    browser.screenshot(&kept.unwrap_or_else(|| pair.bed.directory().join("live-page.png")))?;
    assert_eq!(browser.complaints(), &[] as &[String]);

    pair.server_agent.kill()?;
    browser.wait_until("byId('status').textContent.startsWith('The agent does not answer')")?;
    pair.server_agent.restart()?;
    pair.server_agent.wait_until_ready()?;
    browser.wait_until(
        "byId('status').textContent === 'The workload is ready. Nothing was refused.'",
    )?;
    browser.wait_until("document.querySelectorAll('#refusals details').length === 0")
}

/// The button and the refusal are reached and used by keys alone, the focus can be seen, and what is
/// open stays open and focused while the page goes on.
fn assert_keyboard(browser: &mut Browser) -> Result<()> {
    browser.press("Tab")?;
    assert_eq!(browser.evaluate("document.activeElement.id")?, "pause");
    let outline = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.evaluate(outline)?, "solid");
    for pressed in ["true", "false"] {
        browser.press("Enter")?;
        assert_eq!(browser.evaluate("byId('pause').ariaPressed")?, pressed);
    }
    browser.press("Tab")?;
    assert_eq!(
        browser.evaluate("document.activeElement.localName")?,
        "summary"
    );
    browser.press("Enter")?;
    browser.evaluate("window.before = known.moment; 0")?;
    browser.wait_until("known.moment > before")?;
    assert_eq!(
        browser.evaluate("document.activeElement.parentElement.open")?,
        true
    );
    Ok(())
}

/// Nothing is wider than the screen, so that nobody has to scroll sideways.
fn assert_fits(browser: &mut Browser, screen: Screen) -> Result<()> {
    let shown = browser.evaluate("innerWidth")?;
    assert_eq!(shown, screen.width);
    let root = "document.documentElement";
    let fits = browser.evaluate(&format!("{root}.scrollWidth <= {root}.clientWidth"))?;
    assert_eq!(fits, true, "{screen:?}");
    Ok(())
}

#[test]
fn ten_thousand_connections_and_hostile_text_do_the_page_no_harm() -> Result<()> {
    require!("chromium");
    let pair = Pair::start()?;
    let hostile = "<img src=x onerror=window.harmed=1>";
    let connections: Vec<_> = (1..=10_000)
        .map(|id| {
            json!({
                "id": id, "workload": "server", "direction": "ingress", "mode": "mtls",
                "rule": "ingress default", "from": format!("10.0.0.1:{id}"), "to": "10.0.0.2:80",
                "peer": if id % 2 == 0 { hostile.to_owned() } else { format!("peer {id}") },
                "datapath": "userspace", "datapath_why": "offload-off", "sent": id, "received": 1,
                "age_ms": 1000, "state": "open",
            })
        })
        .collect();
    let port = serve_in_place_of(
        pair.server_agent.admin_port(),
        json!(connections).to_string(),
    )?;
    for screen in [Screen::PHONE, Screen::DESK] {
        let mut browser = open(port, screen)?;
        browser.wait_until("byId('connections').children.length === 100")?;
        let note = browser.evaluate("byId('connections-note').textContent")?;
        assert_eq!(note, "The 100 busiest of 10000.");
        let first = browser.evaluate("byId('peers').querySelector('h3').textContent")?;
        assert_eq!(first, hostile);
        assert_eq!(browser.evaluate("document.images.length")?, 0);
        assert_eq!(browser.evaluate("typeof window.harmed")?, "undefined");
        assert_fits(&mut browser, screen)?;
        assert_draws_fast(&mut browser)?;
    }
    Ok(())
}

/// Showing all connections once more takes so little that nobody notices.
fn assert_draws_fast(browser: &mut Browser) -> Result<()> {
    let fetched =
        "fetch('/connections').then(it => it.json()).then(it => { window.list = it; }); 0";
    browser.evaluate(fetched)?;
    browser.wait_until("window.list !== undefined")?;
    let drawing = "{ const began = performance.now(); \
                   showConnections({ body: window.list, headers: new Headers() }); \
                   performance.now() - began }";
    let milliseconds = browser.evaluate(drawing)?.as_f64().context("no time")?;
    ensure!(milliseconds < 1000.0, "drawing took {milliseconds} ms");
    Ok(())
}

fn open(port: u16, screen: Screen) -> Result<Browser> {
    Browser::open(&format!("http://127.0.0.1:{port}/"), screen)
}

/// A port that answers as the agent's does, but for its connections.
fn serve_in_place_of(agent: u16, connections: String) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // Who has asked may have gone.
            let _ = answer(stream, agent, &connections);
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream, agent: u16, connections: &str) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().context("no request")??;
    let path = request.split(' ').nth(1).context("no path")?.to_owned();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let body = match path.as_str() {
        "/connections" => connections.to_owned(),
        path => Answer::fetch(agent, path)?.body,
    };
    let kind = match path.as_str() {
        "/" => "text/html",
        "/live.css" => "text/css",
        "/live.js" => "text/javascript",
        _ => "application/json",
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}; charset=utf-8\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{body}"
    )?;
    Ok(())
}
