//! How commands reach an agent: by its admin interface on the loopback.
//!
//! Whoever holds the port may answer, so an answer is bounded in time and size, and its text is made
//! harmless before a terminal sees it ([`Shown`]).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;
use std::{fmt, io};

use agent_config::flags::Environment;
use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::failure::Failure;

/// Which agent of this machine.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct AgentArgs {
    /// The agent's admin port [default: that of `SEALWIRE_ADMIN_PORT`, else of `CONTRAST_ADMIN_PORT`]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<NonZeroU16>,
}

impl AgentArgs {
    /// The agent that is meant; nobody is asked yet.
    pub(crate) fn agent(self) -> Result<AdminPort, Failure> {
        let port = match self.admin_port {
            Some(port) => Some(AdminPort(port)),
            None => AdminPort::of(&Environment::of_process())?,
        };
        port.ok_or_else(|| Failure::usage(NO_PORT))
    }
}

/// The loopback port on which an agent answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AdminPort(pub(crate) NonZeroU16);

impl AdminPort {
    /// The port that an agent with these variables would take.
    pub(crate) fn of(environment: &Environment) -> Result<Option<Self>, Failure> {
        let given = VARIABLES
            .into_iter()
            .find_map(|name| Some((name, environment.value(name)?)));
        let Some((name, text)) = given else {
            return Ok(None);
        };
        match text.parse() {
            Ok(port) => Ok(Some(Self(port))),
            Err(_) => Err(Failure::usage(format!(
                "{name}: `{text}` is not a port; ports are 1 to 65535"
            ))),
        }
    }

    /// The answer to a GET.
    pub(crate) async fn get(self, path: &str) -> anyhow::Result<Answer> {
        match timeout(LONGEST, self.ask(path)).await {
            Ok(answer) => answer,
            Err(_) => bail!(
                "the agent on port {} of the loopback has not answered {path} for {} s",
                self.0,
                LONGEST.as_secs()
            ),
        }
    }

    async fn ask(self, path: &str) -> anyhow::Result<Answer> {
        let stream = self.dial().await.map_err(|error| self.absent(&error))?;
        let no_answer = || {
            format!(
                "what listens on port {} of the loopback does not answer as an agent",
                self.0
            )
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .with_context(no_answer)?;
        let request = Request::get(path)
            .header(hyper::header::HOST, "localhost")
            .body(Empty::<Bytes>::new())?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MOST_BYTES).collect().await;
            let body = body.map_err(|error| anyhow!(error))?.to_bytes();
            anyhow::Ok(Response::from_parts(head, body))
        };
        tokio::pin!(connection, exchange);
        let response = tokio::select! {
            response = &mut exchange => response,
            // Its end is told to the exchange, which knows what it means for the answer.
            _ = &mut connection => exchange.await,
        };
        let response = response.with_context(no_answer)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => bail!("{}", said(response.body())),
            status => bail!("{}: {path} got {status}", no_answer()),
        }
        let omitted = response.headers().get(OMITTED);
        let omitted = omitted.and_then(|it| it.to_str().ok()?.parse().ok());
        Ok(Answer {
            omitted: omitted.unwrap_or(0),
            body: response.into_body(),
        })
    }

    async fn dial(self) -> io::Result<TcpStream> {
        let at = |address: IpAddr| SocketAddr::new(address, self.0.get());
        match TcpStream::connect(at(Ipv4Addr::LOCALHOST.into())).await {
            Ok(stream) => Ok(stream),
            Err(error) => {
                let second = TcpStream::connect(at(Ipv6Addr::LOCALHOST.into())).await;
                // Of two failures the first one tells more: not every machine has IPv6.
                second.map_err(|_| error)
            }
        }
    }

    fn absent(self, error: &io::Error) -> anyhow::Error {
        let port = self.0;
        anyhow!(
            "no agent answers on port {port} of the loopback: {error}; is one running in this network \
             namespace, started with --admin-port {port} (or admin_port = {port} in its file)?"
        )
    }
}

/// What an agent has answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// How many connections it has not listed.
    pub(crate) omitted: u64,
    /// JSON or text.
    pub(crate) body: Bytes,
}

/// The sentence with which an agent answers what it can't.
fn said(body: &[u8]) -> Shown {
    let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST_SENTENCE)]);
    Shown::from(text.trim_end().to_owned())
}

/// Text from elsewhere that a terminal can be shown: what is not printable ASCII is `?`.
///
/// An agent's names, identities and codes are ASCII, so nothing true is lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub(crate) struct Shown(String);

impl Shown {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<String> for Shown {
    fn from(text: String) -> Self {
        let printable = |c: char| if matches!(c, ' '..='~') { c } else { '?' };
        Self(text.chars().map(printable).collect())
    }
}

/// The same names, in the same order, as the agent's.
const VARIABLES: [&str; 3] = [
    "SEALWIRE_ADMIN_PORT",
    "CONTRAST_ADMIN_PORT",
    "EDG_ADMIN_PORT",
];

const NO_PORT: &str = "\
which agent? Give its admin port with --admin-port PORT, or in SEALWIRE_ADMIN_PORT. An agent has none \
unless it was started with --admin-port PORT, with that variable or with admin_port in its file";

const LONGEST_SENTENCE: usize = 2000;

const OMITTED: &str = "sealwire-omitted";

/// Listing 20,000 connections takes an agent a fraction of this.
const LONGEST: Duration = Duration::from_secs(10);

/// The most connections that an agent lists make about 12 MB.
const MOST_BYTES: usize = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn port(variables: &[(&str, &str)]) -> Result<Option<u16>, Failure> {
        let variables = variables.iter();
        let environment = variables
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Ok(AdminPort::of(&environment)?.map(|port| port.0.get()))
    }

    #[test]
    fn the_port_is_that_of_an_agent_with_the_same_variables() {
        let ours = ("SEALWIRE_ADMIN_PORT", "2");
        let contrasts = ("CONTRAST_ADMIN_PORT", "3");
        let old = ("EDG_ADMIN_PORT", "4");
        assert_eq!(port(&[old, contrasts, ours]).unwrap(), Some(2));
        assert_eq!(port(&[old, contrasts]).unwrap(), Some(3));
        assert_eq!(port(&[old]).unwrap(), Some(4));
        assert_eq!(port(&[("SEALWIRE_ADMIN_PORT", "")]).unwrap(), None);
        for wrong in ["0", "-1", "65536", "web"] {
            let error = port(&[("SEALWIRE_ADMIN_PORT", wrong)]).unwrap_err();
            assert!(matches!(error, Failure::Usage(_)), "{wrong}: {error:?}");
        }
    }

    #[test]
    fn a_terminal_is_told_nothing_by_a_peer() {
        let text = "spiffe://a/\x1b[2J\x07\u{9b}31m\u{202e}é\n";
        let shown = Shown::from(text.to_owned());
        assert_eq!(shown.as_str(), "spiffe://a/?[2J??31m???");
    }
}
