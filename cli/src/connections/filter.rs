//! Which connections are asked about.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;

use super::connection::{Connection, Direction};

/// Which connections to show; all of them without an option, and those that meet every one with
/// several.
#[derive(Args, Debug, Default)]
pub(super) struct Filter {
    /// Those of this workload
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,

    /// Those whose peer has this SPIFFE ID, or one that contains this text
    #[arg(long, value_name = "ID|TEXT")]
    peer: Option<Peer>,

    /// Those that go this way, seen from the workload
    #[arg(long, value_name = "WHICH", value_enum)]
    direction: Option<Direction>,

    /// Those to this address; with IPv6 and a port, the address in brackets
    #[arg(long, value_name = "ADDR[:PORT]")]
    to: Option<Destination>,
}

impl Filter {
    pub(super) fn passes(&self, connection: &Connection) -> bool {
        let Self {
            workload,
            peer,
            direction,
            to,
        } = self;
        workload
            .as_ref()
            .is_none_or(|name| connection.workload.as_str() == name)
            && peer.as_ref().is_none_or(|peer| {
                let actual = connection.peer.as_ref();
                actual.is_some_and(|actual| peer.is_met_by(actual.as_str()))
            })
            && direction.is_none_or(|direction| connection.direction == direction)
            && to.is_none_or(|to| to.is_met_by(connection.to))
    }
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Peer {
    Id(String),
    Part(String),
}

impl Peer {
    fn is_met_by(&self, actual: &str) -> bool {
        match self {
            Self::Id(id) => actual == id,
            Self::Part(part) => actual.contains(part),
        }
    }
}

impl FromStr for Peer {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "" => bail!("expected a SPIFFE ID or a part of one"),
            text if text.starts_with("spiffe://") => Self::Id(text.to_owned()),
            text => Self::Part(text.to_owned()),
        })
    }
}

/// Where a connection leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Destination {
    Address(IpAddr),
    Port(SocketAddr),
}

impl Destination {
    /// The v4-mapped form of an address is the same address.
    fn is_met_by(self, actual: SocketAddr) -> bool {
        let ip = actual.ip().to_canonical();
        match self {
            Self::Address(address) => ip == address.to_canonical(),
            Self::Port(address) => {
                (ip, actual.port()) == (address.ip().to_canonical(), address.port())
            }
        }
    }
}

impl FromStr for Destination {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.parse().map(Self::Address);
        address.or_else(|_| text.parse().map(Self::Port)).context(
            "expected ADDR or ADDR:PORT, such as 10.0.0.7, 10.0.0.7:5432 or [fd00::1]:5432",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::Listed;
    use super::super::connection::tests::TWO;
    use super::*;

    /// The numbers of the connections that pass.
    fn passing(filter: &Filter) -> Vec<u64> {
        let listed = Listed::parse(TWO.as_bytes(), 0, filter).unwrap();
        listed.connections.iter().map(|it| it.id).collect()
    }

    #[test]
    fn each_option_chooses_and_all_must_agree() {
        let workload = |name: &str| Filter {
            workload: Some(name.to_owned()),
            ..Filter::default()
        };
        assert_eq!(passing(&Filter::default()), [1, 2]);
        assert_eq!(passing(&workload("web")), [1]);
        assert_eq!(passing(&workload("we")), [0; 0]);
        let egress = Filter {
            direction: Some(Direction::Egress),
            ..workload("web-2")
        };
        assert_eq!(passing(&egress), [0; 0]);
    }

    #[test]
    fn a_peer_is_a_whole_identity_or_a_part_of_one() {
        let peer = |text: &str| {
            passing(&Filter {
                peer: Some(text.parse().unwrap()),
                ..Filter::default()
            })
        };
        assert_eq!(peer("spiffe://mesh.local/ns/default/sa/db"), [1]);
        assert_eq!(peer("spiffe://mesh.local/ns/default/sa/d"), [0; 0]);
        assert_eq!(peer("sa/d"), [1]);
        assert_eq!(peer("web"), [0; 0]);
        assert!("".parse::<Peer>().is_err());
    }

    #[test]
    fn a_destination_is_an_address_with_or_without_a_port() {
        let to = |text: &str| {
            passing(&Filter {
                to: Some(text.parse().unwrap()),
                ..Filter::default()
            })
        };
        assert_eq!(to("fd00::1"), [1]);
        assert_eq!(to("[fd00::1]:80"), [1]);
        assert_eq!(to("[fd00::1]:81"), [0; 0]);
        assert_eq!(to("::ffff:10.0.0.1"), [2]);
        assert_eq!(to("10.0.0.1:443"), [2]);
        for wrong in ["", "web", "10.0.0.1:", ":80", "[fd00::1]", "10.0.0.1:65536"] {
            assert!(wrong.parse::<Destination>().is_err(), "{wrong}");
        }
    }
}
