//! What a resolver's answer says of a name's addresses.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use hickory_resolver::proto::{
    op::{Message, MessageType},
    rr::{DNSClass, Name, RData},
    serialize::binary::DecodeError,
};

use crate::policy::DnsName;

/// The addresses that a message says a name has. Public for its fuzz target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverheardAnswer {
    /// Who was asked for.
    pub name: DnsName,
    /// Whom that is another name of, and so on.
    pub aliases: Vec<DnsName>,
    /// Their addresses.
    pub addresses: Vec<IpAddr>,
    /// For how long all that is good.
    pub life: Duration,
}

impl OverheardAnswer {
    /// Reads a message, which may be anybody's work; `None` where it names no address.
    ///
    /// Addresses count that the name has or an alias that the message leads to from there; whatever else
    /// it says of others is left out.
    ///
    /// # Errors
    /// Where it is no message.
    pub fn read(message: &[u8]) -> Result<Option<Self>, DecodeError> {
        let message = Message::from_vec(message)?;
        let [question] = &*message.queries else {
            return Ok(None);
        };
        if message.metadata.message_type != MessageType::Response
            || question.query_class() != DNSClass::IN
        {
            return Ok(None);
        }
        let of_internet = message.answers.iter();
        let of_internet = of_internet.filter(|record| record.dns_class == DNSClass::IN);
        let mut targets = HashMap::new();
        // A name compares without regard to case.
        let mut addresses: HashMap<&Name, Vec<(IpAddr, u32)>> = HashMap::new();
        for record in of_internet {
            if let RData::CNAME(target) = &record.data {
                targets.insert(&record.name, (&target.0, record.ttl));
            } else if let Some(address) = record.data.ip_addr() {
                let known = addresses.entry(&record.name).or_default();
                known.push((address, record.ttl));
            }
        }
        let mut chain = vec![question.name()];
        let mut life = LONGEST_LIFE_SECONDS;
        let mut found = Vec::new();
        loop {
            let last = chain[chain.len() - 1];
            for (address, ttl) in addresses.remove(last).unwrap_or_default() {
                found.push(address.to_canonical());
                life = life.min(ttl);
            }
            // Each alias is followed once, so no loop is endless.
            match targets.remove(last) {
                Some((target, ttl)) if chain.len() <= MOST_ALIASES => {
                    life = life.min(ttl);
                    chain.push(target);
                }
                Some(_) | None => break,
            }
        }
        if found.is_empty() {
            return Ok(None);
        }
        let mut names = chain.into_iter().map(DnsName::of_labels);
        Ok(names.next().map(|name| Self {
            name,
            aliases: names.collect(),
            addresses: found,
            life: Duration::from_secs(life.into()),
        }))
    }
}

/// As many as resolvers follow.
const MOST_ALIASES: usize = 16;

/// Whatever an answer says: a day.
const LONGEST_LIFE_SECONDS: u32 = 86_400;

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::{
        op::{OpCode, Query},
        rr::{
            Record, RecordType,
            rdata::{A, AAAA, CNAME},
        },
    };

    use super::*;

    #[test]
    fn the_addresses_of_the_name_and_of_its_aliases_count_and_no_others() {
        let message = message(
            "App.example.",
            &[
                ("app.example.", 300, "web.cdn.test."),
                ("WEB.cdn.test.", 60, "10.0.0.1"),
                ("web.cdn.test.", 90, "fd00::1"),
                ("else.test.", 5, "10.0.0.2"),
                ("other.test.", 5, "app.example."),
            ],
        );
        let answer = OverheardAnswer::read(&message).unwrap().unwrap();
        let expected = OverheardAnswer {
            name: "app.example".parse().unwrap(),
            aliases: vec!["web.cdn.test".parse().unwrap()],
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            life: Duration::from_mins(1),
        };
        assert_eq!(answer, expected);
    }

    #[test]
    fn aliases_in_a_circle_or_without_end_lead_nowhere() {
        let circle = [
            ("a.test.", 60, "b.test."),
            ("b.test.", 60, "a.test."),
            ("c.test.", 60, "10.0.0.1"),
        ];
        let message_of = |records: &[(&str, u32, &str)]| message("a.test.", records);
        assert_eq!(OverheardAnswer::read(&message_of(&circle)).unwrap(), None);

        let names: Vec<_> = (0..40).map(|nth| format!("a{nth}.test.")).collect();
        let mut chain: Vec<_> = names
            .windows(2)
            .map(|pair| (&*pair[0], 60, &*pair[1]))
            .collect();
        chain.push(("a39.test.", 60, "10.0.0.1"));
        let message = message("a0.test.", &chain);
        assert_eq!(OverheardAnswer::read(&message).unwrap(), None);
    }

    #[test]
    fn garbage_and_messages_cut_short_are_no_panic() {
        let whole = message("a.test.", &[("a.test.", 60, "10.0.0.1")]);
        for length in 0..whole.len() {
            let _ = OverheardAnswer::read(&whole[..length]);
        }
        // A compression pointer to itself where the question's name should be.
        let mut circle = whole.clone();
        circle[12..14].copy_from_slice(&[0xc0, 12]);
        assert!(OverheardAnswer::read(&circle).is_err());
        for byte in [0x00, 0xc0, 0xff] {
            let _ = OverheardAnswer::read(&vec![byte; 65_536]);
        }
        // A question, and two at once.
        let mut question = whole.clone();
        question[2] &= 0x7f;
        assert_eq!(OverheardAnswer::read(&question).unwrap(), None);
    }

    fn message(asked: &str, records: &[(&str, u32, &str)]) -> Vec<u8> {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name(asked), RecordType::A));
        for (owner, ttl, data) in records {
            let data = match data.parse() {
                Ok(IpAddr::V4(v4)) => RData::A(A(v4)),
                Ok(IpAddr::V6(v6)) => RData::AAAA(AAAA(v6)),
                Err(_) => RData::CNAME(CNAME(name(data))),
            };
            message.add_answer(Record::from_rdata(name(owner), *ttl, data));
        }
        message.to_vec().unwrap()
    }
}
