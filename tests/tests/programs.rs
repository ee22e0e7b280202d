//! Programs that people run, unmodified: each talks through Sealwire as it does without.
//!
//! Each scene is played twice: between bare hosts, where the sniffer must find plaintext, and
//! between workloads of a mesh, where it must not.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use testbed::pki::spiffe_id;
use testbed::stream::Stream;
use testbed::{Host, MARKER, Pair, Running, Testbed, require};

#[test]
fn curl_gets_pages_and_files_from_nginx_over_http_1_1() -> Result<()> {
    require!("nginx", "curl");
    play(|client, server, dir| http(client, server, dir, &["--http1.1"]))
}

#[test]
fn curl_gets_pages_and_files_from_nginx_over_http_2_in_clear() -> Result<()> {
    require!("nginx", "curl");
    play(|client, server, dir| http(client, server, dir, &["--http2-prior-knowledge"]))
}

#[test]
fn psql_selects_a_million_rows_from_postgresql() -> Result<()> {
    require!("psql", "setpriv");
    if postgresql_programs().is_none() {
        testbed::skip::report("the server of PostgreSQL is not installed");
        return Ok(());
    }
    play(postgresql)
}

#[test]
fn redis_benchmark_runs_against_redis() -> Result<()> {
    require!("redis-server", "redis-benchmark", "redis-cli");
    play(redis)
}

#[test]
fn iperf3_sends_up_down_and_both_ways() -> Result<()> {
    require!("iperf3");
    let bed = Testbed::new(&["client", "server"])?;
    iperf3(bed.host("client"), bed.host("server"))?;

    // iperf3 sends no marker of ours, but the parameters of its test in clear. With --bidir it tells
    // its streams apart by the order in which they are accepted.
    let pair = Pair::start_in_order()?;
    let sniffer = pair
        .bed
        .sniff_for(&[b"iperf", b"cpu_util_total", b"congestion_used"])?;
    iperf3(pair.client(), pair.server())?;
    sniffer.finish()?.assert_only_ciphertext(3 * IPERF_BYTES);
    Ok(())
}

#[test]
fn a_websocket_of_node_echoes() -> Result<()> {
    require!("node");
    play(websocket)
}

#[test]
fn openssl_and_curl_are_clients_of_a_workload_with_certificates_of_the_mesh() -> Result<()> {
    require!("nginx", "curl", "openssl");
    let pair = Pair::start()?;
    let _nginx = nginx(pair.server(), pair.bed.directory(), "listen 8080;", 8080)?;
    let identity = pair.mesh.issue("outsider")?;
    let (outsider, address) = (pair.outsider(), pair.server().at(8080));
    let file = |name: &str| identity.join(name);
    let page = fs::read(pair.bed.directory().join("www/page"))?;
    let sniffer = pair.bed.sniff()?;

    // curl offers ALPN of its own by default.
    for alpn in ["--alpn", "--no-alpn"] {
        let curl = outsider
            .command("curl")
            .args(["-sS", "--fail", alpn, "--resolve"])
            .arg(format!("server:8080:{}", address.ip()))
            .args([
                "--cert".into(),
                file("certChain.pem"),
                "--key".into(),
                file("key.pem"),
            ])
            .args(["--cacert".into(), pair.mesh.ca_file()])
            .arg("https://server:8080/page");
        assert_eq!(curl.run(LIMIT)?.success()?.stdout, page, "with {alpn}");
    }

    let mut s_client = outsider
        .command("openssl")
        .args([
            "s_client",
            "-quiet",
            "-verify_return_error",
            "-servername",
            "server",
        ])
        .args(["-connect", &address.to_string()])
        .args([
            "-cert".into(),
            file("certChain.pem"),
            "-key".into(),
            file("key.pem"),
        ])
        .args(["-CAfile".into(), pair.mesh.ca_file()])
        .with_stdin()
        .spawn()?;
    s_client.write_line("GET /page HTTP/1.0\r\n\r")?;
    let answer = s_client.wait(LIMIT)?;
    assert!(answer.stdout.ends_with(&page), "{}", answer.stderr_text());

    sniffer
        .finish()?
        .assert_only_ciphertext(3 * page.len() as u64);
    let line = pair
        .server_agent
        .access(|line| line["peer"] == spiffe_id("outsider"))?;
    assert_eq!(line["mode"], "mtls", "{line}");
    Ok(())
}

#[test]
fn curl_in_a_workload_talks_to_an_nginx_that_does_mtls_itself() -> Result<()> {
    require!("nginx", "curl");
    let pair = Pair::start()?;
    let identity = pair.mesh.issue("outsider")?;
    let server = format!(
        "listen 8080 ssl; ssl_protocols TLSv1.3;\n\
         ssl_certificate {0}/certChain.pem; ssl_certificate_key {0}/key.pem;\n\
         ssl_client_certificate {1}; ssl_verify_client on; ssl_verify_depth 2;\n\
         add_header X-Client-Verified $ssl_client_verify always;",
        identity.display(),
        pair.mesh.ca_file().display()
    );
    let _nginx = nginx(pair.outsider(), pair.bed.directory(), &server, 8080)?;
    let sniffer = pair.bed.sniff()?;
    let url = format!("http://{}/page", pair.outsider().at(8080));
    let answer = pair
        .client()
        .command("curl")
        .args(["-sSi", &url])
        .run(LIMIT)?
        .success()?
        .text();
    sniffer.finish()?.assert_only_ciphertext(1000);
    assert!(
        answer.contains("200 OK") && answer.contains("X-Client-Verified: SUCCESS"),
        "{answer}"
    );
    let line = pair
        .client_agent
        .access(|line| line["peer"] == spiffe_id("outsider"))?;
    assert_eq!(line["direction"], "egress", "{line}");
    Ok(())
}

/// Plays a scene between bare hosts, and then between workloads of a mesh.
fn play(scene: impl Fn(&Host, &Host, &Path) -> Result<()>) -> Result<()> {
    let bed = Testbed::new(&["client", "server"])?;
    let sniffer = bed.sniff()?;
    scene(bed.host("client"), bed.host("server"), bed.directory())?;
    sniffer.finish()?.assert_saw_plaintext();
    drop(bed);

    let pair = Pair::start()?;
    let sniffer = pair.bed.sniff()?;
    scene(pair.client(), pair.server(), pair.bed.directory())?;
    sniffer.finish()?.assert_only_ciphertext(10_000);
    for (agent, direction) in [
        (&pair.client_agent, "egress"),
        (&pair.server_agent, "ingress"),
    ] {
        agent.access(|line| line["direction"] == direction)?;
        let labels = [("direction", direction)];
        assert!(agent.metrics()?.sum("sealwire_connections_total", &labels) > 0);
    }
    Ok(())
}

fn http(client: &Host, server: &Host, dir: &Path, options: &[&str]) -> Result<()> {
    let listen = match options {
        ["--http2-prior-knowledge"] => "listen 8080 http2; listen [::]:8080 http2;",
        _ => "listen 8080; listen [::]:8080;",
    };
    let _nginx = nginx(server, dir, listen, 8080)?;
    for url in [server.at(8080), server.at_v6(8080)].map(|address| format!("http://{address}")) {
        for name in ["page", "file"] {
            let curl = client.command("curl").args(["-sS", "--fail"]).args(options);
            let got = curl
                .arg(format!("{url}/{name}"))
                .run(LIMIT)?
                .success()?
                .stdout;
            ensure!(
                got == fs::read(dir.join("www").join(name))?,
                "{name} of {url} is another"
            );
        }
        // Many requests on one connection. (curl 7.88 fails at that with HTTP/2 in clear.)
        if options == ["--http1.1"] {
            let urls = vec![format!("{url}/page"); 20];
            let pages = client
                .command("curl")
                .args(["-sS", "--fail"])
                .args(options)
                .args(urls);
            let got = pages.run(LIMIT)?.success()?.stdout;
            ensure!(
                got == fs::read(dir.join("www/page"))?.repeat(20),
                "20 pages are others"
            );
        }
        let name = if url.contains('[') { "six" } else { "four" };
        let upload = client
            .command("curl")
            .args(["-sS", "--fail"])
            .args(options)
            .arg("-T");
        let upload = upload
            .arg(dir.join("www/file"))
            .arg(format!("{url}/up/{name}"));
        upload.run(LIMIT)?.success()?;
        ensure!(
            fs::read(dir.join("www/up").join(name))? == fs::read(dir.join("www/file"))?,
            "the file that was put at {url} is another"
        );
    }
    Ok(())
}

fn nginx(host: &Host, dir: &Path, server: &str, port: u16) -> Result<Running> {
    let www = dir.join("www");
    fs::create_dir_all(www.join("up"))?;
    for (name, length) in [("page", 3_000), ("file", 5_000_000)] {
        let mut bytes = vec![0; length];
        Stream::new(length as u64).fill(&mut bytes);
        fs::write(www.join(name), bytes)?;
    }
    let config = dir.join("nginx.conf");
    let dir = dir.display();
    fs::write(
        &config,
        format!(
            "user root; daemon off; pid {dir}/nginx.pid; error_log stderr;\n\
             events {{}}\n\
             http {{ access_log off; client_max_body_size 0; client_body_temp_path {dir}/body;\n\
             proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/fastcgi;\n\
             uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;\n\
             server {{ {server}\n root {dir}/www; location /up/ {{ dav_methods PUT; }} }} }}\n"
        ),
    )?;
    let nginx = host
        .command("nginx")
        .arg("-e")
        .arg("stderr")
        .arg("-c")
        .arg(config)
        .spawn()?;
    wait_for_port(host, port)?;
    Ok(nginx)
}

fn postgresql(client: &Host, server: &Host, dir: &Path) -> Result<()> {
    let programs = postgresql_programs().context("PostgreSQL is not installed")?;
    let user = nix::unistd::User::from_name("postgres")?.context("no user postgres")?;
    let data = dir.join("data");
    fs::create_dir(&data)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    chown(&data, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
    let as_postgres = |program: &str| {
        server
            .command("setpriv")
            .args(["--reuid=postgres", "--regid=postgres", "--init-groups"])
            .arg(programs.join(program))
            .arg("-D")
            .arg(&data)
            .current_dir(&data)
    };
    as_postgres("initdb")
        .args(["-A", "trust", "-N"])
        .run(LIMIT)?
        .success()?;
    let anyone = "host all all all trust\n";
    fs::write(
        data.join("pg_hba.conf"),
        format!("local all all trust\n{anyone}"),
    )?;
    let _postgres = as_postgres("postgres")
        .args([
            "-c",
            "listen_addresses=*",
            "-c",
            "fsync=off",
            "-c",
            "unix_socket_directories=",
        ])
        .spawn()?;
    wait_for_port(server, 5432)?;

    let psql = |query: &str| {
        client
            .command("psql")
            .args([
                "-h",
                &server.v4().to_string(),
                "-U",
                "postgres",
                "-XAtq",
                "-c",
                query,
            ])
            .run(LIMIT)?
            .success()
    };
    let marker = String::from_utf8_lossy(MARKER);
    let rows = psql(&format!(
        "SELECT n, '{marker}' FROM generate_series(1, 1000000) n"
    ))?
    .stdout;
    let text = String::from_utf8(rows)?;
    let mut lines = text.lines();
    for n in 1..=1_000_000 {
        let row = lines.next().context("too few rows")?;
        ensure!(row == format!("{n}|{marker}"), "row {n} is {row:?}");
    }
    ensure!(lines.next().is_none(), "too many rows");
    Ok(())
}

fn redis(client: &Host, server: &Host, dir: &Path) -> Result<()> {
    let _redis = server
        .command("redis-server")
        .args([
            "--save",
            "",
            "--protected-mode",
            "no",
            "--bind",
            "*",
            "--dir",
        ])
        .arg(dir)
        .spawn()?;
    wait_for_port(server, 6379)?;
    let address = ["-h".to_owned(), server.v4().to_string()];
    let marker = String::from_utf8_lossy(MARKER).repeat(100);
    let cli = |arguments: &[&str]| {
        client
            .command("redis-cli")
            .args(&address)
            .args(arguments)
            .run(LIMIT)?
            .success()
    };
    ensure!(cli(&["set", "key", &marker])?.text() == "OK\n");
    ensure!(cli(&["get", "key"])?.text().trim_end() == marker);
    let benchmark = client
        .command("redis-benchmark")
        .args(&address)
        .args(["-n", "5000", "-c", "50", "-P", "4", "-d", "1000", "--csv"])
        .args(["-t", "ping,set,get,lpush,lrange_100"])
        .run(LIMIT)?
        .success()?;
    let results = benchmark.text();
    ensure!(
        results.contains("\"LRANGE_100"),
        "{results}\n{}",
        benchmark.stderr_text()
    );
    Ok(())
}

fn iperf3(client: &Host, server: &Host) -> Result<()> {
    let bytes = IPERF_BYTES.to_string();
    for options in [
        &["-n", &bytes][..],
        &["-R", "-n", &bytes],
        &["--bidir", "-t", "2"],
    ] {
        let serving = server
            .command("iperf3")
            .args(["-s", "-1", "--forceflush"])
            .spawn()?;
        serving.wait_for(LIMIT, |line| line.contains("listening").then_some(()))?;
        let to = server.v4().to_string();
        let ran = client
            .command("iperf3")
            .args(["-J", "-c", &to])
            .args(options)
            .run(LIMIT)?;
        let report: Value = serde_json::from_str(&ran.success()?.text())?;
        let received = |sum: &str| report["end"][sum]["bytes"].as_u64().unwrap_or(0);
        ensure!(
            received("sum_received") >= IPERF_BYTES / 2,
            "{options:?}: {}",
            report["end"]
        );
        if options[0] == "--bidir" {
            let reverse = received("sum_received_bidir_reverse");
            ensure!(reverse >= IPERF_BYTES / 2, "{options:?}: {}", report["end"]);
        }
    }
    Ok(())
}

fn websocket(client: &Host, server: &Host, dir: &Path) -> Result<()> {
    let script = dir.join("websocket.js");
    fs::write(&script, include_str!("programs/websocket.js"))?;
    let echo = server
        .command("node")
        .arg(&script)
        .args(["serve", "9000"])
        .spawn()?;
    echo.wait_for(LIMIT, |line| (line == "listening").then_some(()))?;
    let talk = client.command("node").arg(&script);
    let said = talk
        .args(["talk", &server.v4().to_string(), "9000", "500"])
        .run(LIMIT)?
        .success()?;
    ensure!(said.text() == "500 echoed\n", "{}", said.text());
    Ok(())
}

/// Waits until a program of the host listens on a port. The connection stays within the host.
fn wait_for_port(host: &Host, port: u16) -> Result<()> {
    let connected = host.run_in_thread(|| {
        (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(5));
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
    })?;
    ensure!(connected, "nothing listens on port {port}");
    Ok(())
}

/// Where Debian keeps `initdb`, or else where the path says.
fn postgresql_programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut candidates: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    candidates.extend(std::env::split_paths(&std::env::var_os("PATH")?));
    candidates
        .into_iter()
        .find(|directory| directory.join("initdb").exists())
}

const LIMIT: Duration = Duration::from_mins(1);
const IPERF_BYTES: u64 = 32 << 20;
