//! Makes connections, good ones and bad ones, and knows what must become of each.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testbed::agent::{IngressRule, ListenerRule};
use testbed::dns::NameServer;
use testbed::peer::Ends;
use testbed::pki::spiffe_id;
use testbed::{Client, EgressRule, Pair, Server, Sniffer};

use super::account::{Account, By, Refused, Served};
use super::audit::assert_true;

/// Two agents, programs behind them and outside, and the truth of what they did.
pub(crate) struct Driver {
    pair: Pair,
    sniffer: Sniffer,
    /// Of the host `client` and of the host `server`.
    accounts: [Account; 2],
    _names: NameServer,
    _serving: Vec<Server>,
}

/// Connections that stay open.
pub(crate) struct Held {
    clients: Vec<Client>,
    /// What either agent shows of them.
    open: [Vec<Served>; 2],
}

/// The host that opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opener {
    Client,
    Server,
}

impl Driver {
    pub(crate) fn start() -> Result<Self> {
        let mut names = None;
        let pair = Pair::start_tuned(
            |bed, client, server| {
                names = Some(NameServer::start(
                    bed.host("outsider"),
                    &[bed.host("client")],
                ));
                client.egress = DENIED.map(|address| EgressRule::to(address, "deny")).into();
                client.listener.push(ListenerRule {
                    listen: LISTENER,
                    remote: "nowhere.test:80".to_owned(),
                });
                server.ingress.push(IngressRule {
                    port: UNLISTED,
                    mode: "mtls",
                    peers: vec!["somebody-else".to_owned()],
                });
            },
            |_, client, server| (client, server),
        )?;
        let serve = |host: &testbed::Host, port, options: &str| {
            Server::start(host, &[host.at(port), host.at_v6(port)], options)
        };
        let answers = format!("--quiet --send {DOWN} --seed 22 --expect-seed 11");
        let serving = vec![
            serve(pair.server(), GOOD, &answers)?,
            serve(pair.client(), GOOD, &answers)?,
            serve(pair.server(), UNLISTED, "--quiet --echo")?,
            serve(pair.server(), HELD, "--quiet --echo")?,
            serve(pair.client(), HELD, "--quiet --echo")?,
            serve(pair.outsider(), NO_TLS, "--quiet --send 10")?,
        ];
        Ok(Self {
            sniffer: pair.bed.sniff()?,
            accounts: Default::default(),
            _names: names.context("no name server")??,
            _serving: serving,
            pair,
        })
    }

    /// Good connections of either direction and family, several at once, some long.
    pub(crate) fn exchange(&mut self, round: u16) -> Result<()> {
        let small = 1 + u64::from(round) * 7919 % 50_000;
        let mut running = Vec::new();
        for (opener, up, options) in [
            (Opener::Client, small, ""),
            (Opener::Client, 700_001, ""),
            (Opener::Client, 20_000, "--chunk 500 --write-pause 20000"),
            (Opener::Server, small, ""),
        ] {
            for to in self.both(opener, GOOD) {
                let options = format!("--send {up} --seed 11 --expect-seed 22 {options}");
                let client = Client::start(self.opening(opener), to, &options)?;
                running.push((opener, to, up, client));
            }
        }
        for (opener, to, up, client) in running {
            let closed = client.closed()?;
            closed.assert_exact(up, DOWN);
            self.served(opener, closed.ends, to, (up, DOWN), "orderly")?;
        }
        Ok(())
    }

    /// What the client's agent refuses.
    pub(crate) fn err_at_the_client(&mut self, round: u16) -> Result<()> {
        // One that was refused a moment ago is refused by connect().
        let port = 5000 + round;
        let at = |address: &str| anyhow::Ok(SocketAddr::new(address.parse()?, port));
        let [denied, denied_v6] = DENIED;
        let [nowhere, nowhere_v6] = NOWHERE;
        let outsider = self.pair.outsider();
        let egress = "egress default";
        let mut running = Vec::new();
        for (to, reason, rule) in [
            (at(denied)?, "denied-by-rule", "egress[0] 10.77.0.77/32"),
            (at(denied_v6)?, "denied-by-rule", "egress[1] fd77::77/128"),
            (outsider.at(port), "dial-refused", egress),
            (outsider.at_v6(port), "dial-refused", egress),
            (outsider.at(NO_TLS), "peer-not-tls", egress),
            (outsider.at_v6(NO_TLS), "peer-not-tls", egress),
            (at(nowhere)?, "dial-unreachable", egress),
            (at(nowhere_v6)?, "dial-unreachable", egress),
            (LISTENER.into(), "name-lookup", "listener[0] 127.0.0.9:80"),
        ] {
            let client = Client::start(self.pair.client(), to, "--send 100")?;
            running.push((to, reason, rule, client));
        }
        for (to, reason, rule, client) in running {
            let from = refused(&client)?;
            self.account(Opener::Client).refused.push(Refused {
                direction: "egress",
                from: Some(from),
                to,
                reason,
                rule: Some(rule.to_owned()),
                by: By::Agent,
            });
        }
        Ok(())
    }

    /// What the server's agent refuses.
    pub(crate) fn err_at_the_server(&mut self) -> Result<()> {
        // The client's agent has shaken hands by then: for it, they were open.
        for (port, reason, rule, close) in [
            (
                UNLISTED,
                "peer-not-allowed",
                "ingress[0] 4001",
                "peer-alert",
            ),
            (CLOSED, "dial-refused", "ingress default", "wire-reset"),
        ] {
            for to in self.both(Opener::Client, port) {
                let client = Client::start(self.pair.client(), to, "--no-half-close")?;
                let from = refused(&client)?;
                self.refused_ingress(Some(from), to, reason, rule);
                let (client, _) = two_views(Opener::Client, from, to, (0, 0), close);
                self.account(Opener::Client).served.push(client);
            }
        }
        for to in self.both(Opener::Client, GOOD) {
            let in_clear = Client::start(self.pair.outsider(), to, "--send 10")?;
            let closed = in_clear.closed()?;
            ensure!(closed.received < MOST_OF_AN_ALERT, "{closed:?}");
            self.refused_ingress(closed.ends.local, to, "peer-not-tls", "ingress default");

            let nameless = self.pair.outsider().command("openssl").args([
                "s_client",
                "-quiet",
                "-connect",
                &to.to_string(),
            ]);
            let answer = nameless.run(Duration::from_secs(20))?;
            ensure!(answer.text().is_empty(), "it was served: {answer:?}");
            self.refused_ingress(None, to, "peer-no-certificate", "ingress default");
        }
        Ok(())
    }

    /// The server's agent is away for a moment, and forgets what it told.
    pub(crate) fn err_without_an_agent(&mut self) -> Result<()> {
        self.pair.server_agent.kill()?;
        let [_, of_server] = &mut self.accounts;
        *of_server = Account::default();
        // Until then it counts as alive.
        thread::sleep(A_MOMENT);
        for to in self.both(Opener::Client, GOOD) {
            let client = Client::start(self.pair.client(), to, "--send 100")?;
            let from = refused(&client)?;
            let [of_client, of_server] = &mut self.accounts;
            of_client.refused.push(Refused {
                direction: "egress",
                from: Some(from),
                to,
                reason: "dial-refused",
                rule: Some("egress default".to_owned()),
                by: By::Agent,
            });
            of_server.refused.push(Refused {
                direction: "ingress",
                from: None,
                to,
                reason: "agent-stale",
                rule: None,
                by: By::Kernel,
            });
        }
        self.pair.server_agent.restart()?;
        self.pair.server_agent.wait_until_ready()?;
        // Until then the destination is known to refuse.
        thread::sleep(A_MOMENT);
        Ok(())
    }

    /// Connections of either direction and family that stay open.
    pub(crate) fn hold(&mut self) -> Result<Held> {
        let mut held = Held {
            clients: Vec::new(),
            open: Default::default(),
        };
        for opener in [Opener::Client, Opener::Server] {
            for to in self.both(opener, HELD) {
                let options = "--send 5000 --stop-after 5000 --no-half-close --linger 600000";
                let client = Client::start(self.opening(opener), to, options)?;
                let from = client.connected()?.local.context("no address")?;
                let (near, far) = two_views(opener, from, to, (5000, 5000), "");
                for (of, mut view) in [(opener, near), (opener.other(), far)] {
                    view.close = None;
                    held.open[of as usize].push(view);
                }
                held.clients.push(client);
            }
        }
        for (account, open) in self.accounts.iter_mut().zip(&held.open) {
            account.served.extend(open.iter().cloned());
        }
        Ok(held)
    }

    /// Ends them.
    pub(crate) fn release(&mut self, held: Held) -> Result<()> {
        drop(held.clients);
        for account in &mut self.accounts {
            for served in &mut account.served {
                served.close.get_or_insert("orderly");
            }
        }
        self.pair.client_agent.wait_until_idle()?;
        self.pair.server_agent.wait_until_idle()
    }

    /// Both agents tell just what is in the accounts, while these are open.
    pub(crate) fn audit(&self, held: Option<&Held>) -> Result<()> {
        let agents = [&self.pair.client_agent, &self.pair.server_agent];
        for (nth, (agent, account)) in agents.into_iter().zip(&self.accounts).enumerate() {
            let open = held.map_or(&[][..], |held| &held.open[nth]);
            assert_true(agent, account, open)
                .with_context(|| format!("the agent of the {}", ["client", "server"][nth]))?;
        }
        Ok(())
    }

    /// All that programs said was on the wire, and nothing of it in clear.
    pub(crate) fn assert_sealed(self) -> Result<()> {
        let [of_client, _] = &self.accounts;
        let said = ["ingress", "egress"].map(|direction| of_client.bytes(direction));
        let said = said.map(|(sent, received)| sent + received).iter().sum();
        self.sniffer.finish()?.assert_only_ciphertext(said);
        Ok(())
    }

    fn opening(&self, opener: Opener) -> &testbed::Host {
        match opener {
            Opener::Client => self.pair.client(),
            Opener::Server => self.pair.server(),
        }
    }

    /// A port of the other host, by IPv4 and IPv6.
    fn both(&self, opener: Opener, port: u16) -> [SocketAddr; 2] {
        let host = self.opening(opener.other());
        [host.at(port), host.at_v6(port)]
    }

    fn account(&mut self, of: Opener) -> &mut Account {
        &mut self.accounts[of as usize]
    }

    fn served(
        &mut self,
        opener: Opener,
        ends: Ends,
        to: SocketAddr,
        bytes: (u64, u64),
        close: &'static str,
    ) -> Result<()> {
        let from = ends.local.context("no address")?;
        let (near, far) = two_views(opener, from, to, bytes, close);
        self.account(opener).served.push(near);
        self.account(opener.other()).served.push(far);
        Ok(())
    }

    fn refused_ingress(
        &mut self,
        from: Option<SocketAddr>,
        to: SocketAddr,
        reason: &'static str,
        rule: &str,
    ) {
        self.account(Opener::Server).refused.push(Refused {
            direction: "ingress",
            from,
            to,
            reason,
            rule: Some(rule.to_owned()),
            by: By::Agent,
        });
    }
}

impl Opener {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// A connection as the agent of who opened it sees it, and as the other does.
fn two_views(
    opener: Opener,
    from: SocketAddr,
    to: SocketAddr,
    (up, down): (u64, u64),
    close: &'static str,
) -> (Served, Served) {
    let near = Served {
        direction: "egress",
        from,
        to,
        peer: spiffe_id(opener.other().name()),
        rule: "egress default".to_owned(),
        sent: up,
        received: down,
        close: Some(close),
    };
    let far = Served {
        direction: "ingress",
        peer: spiffe_id(opener.name()),
        rule: "ingress default".to_owned(),
        sent: down,
        received: up,
        ..near.clone()
    };
    (near, far)
}

/// The program is connected, and then reset without a byte; from where it came.
fn refused(client: &Client) -> Result<SocketAddr> {
    let closed = client.closed()?;
    ensure!(closed.was_reset() && closed.received == 0, "{closed:?}");
    let from = closed.ends.local.context("no address")?;
    ensure!(from.ip() != IpAddr::from([0, 0, 0, 0]), "{closed:?}");
    Ok(from)
}

/// What programs send that are connected to.
const DOWN: u64 = 70_001;

/// Nobody has them.
const DENIED: [&str; 2] = ["10.77.0.77", "fd77::77"];
const NOWHERE: [&str; 2] = ["10.77.0.99", "fd77::99"];

const GOOD: u16 = 4000;
const UNLISTED: u16 = 4001;
const CLOSED: u16 = 4003;
const HELD: u16 = 4010;
const NO_TLS: u16 = 4102;
const LISTENER: std::net::SocketAddrV4 =
    std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(127, 0, 0, 9), 80);

/// What a peer may see of a refusal.
const MOST_OF_AN_ALERT: u64 = 64;

/// Longer than a heartbeat is good for, and than a destination that refused is remembered.
const A_MOMENT: Duration = Duration::from_millis(1200);
