//! Which instances of which workloads hold certificates, and what they have acknowledged.
//!
//! It lives in memory: after a restart instances are known again when they return, and until the
//! stage's deadline nobody takes silence for consent. Certificates end here by a clock that nobody
//! sets, so that a calendar that jumps neither frees a place nor keeps one.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use attestation::Digest;
use attestation::identity::SpiffeId;
use thiserror::Error;
use tokio::time::Instant;

use crate::deployment::Generation;

/// The name that an agent gives itself for as long as it lives; its evidence vouches for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub [u8; 16]);

/// Every instance whose certificates have not expired.
#[derive(Debug, Default)]
pub struct Roster {
    /// By the policy that an instance runs under, too: an agent speaks for none of another policy.
    instances: HashMap<(Digest, InstanceId), Instance>,
}

/// An agent that was given certificates.
#[derive(Clone, Debug)]
struct Instance {
    spiffe_id: SpiffeId,
    remote: Option<SocketAddr>,
    /// The policies that it was given certificates for, and until when it holds them.
    certified: HashMap<Digest, Instant>,
    /// When the last of its certificates expires.
    until: Instant,
    trusted: Generation,
    /// 0 where it says that it has no certificate.
    certificate: Generation,
}

/// What is known of an instance when it calls.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The policy that it runs under.
    pub policy: Digest,
    /// Its own identity.
    pub spiffe_id: SpiffeId,
    /// Where it called from.
    pub remote: Option<SocketAddr>,
    /// When its certificates expire.
    pub until: Instant,
    /// The generation that signed them.
    pub generation: Generation,
}

/// An instance that a rotation waits for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Laggard {
    /// Its identity and the name that it gives itself.
    pub name: String,
    /// Where it called from last: for the operator, and for nobody else.
    pub remote: Option<SocketAddr>,
}

impl fmt::Display for Laggard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, remote } = self;
        match remote {
            Some(remote) => write!(f, "{name} at {remote}"),
            None => write!(f, "{name} at unknown address"),
        }
    }
}

/// A policy that an instance is to have a certificate for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The policy.
    pub policy: Digest,
    /// How many instances may have certificates for it at a time.
    pub cap: Option<NonZeroU32>,
}

/// There is no place for one more instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoPlace {
    /// The policy's instances are all in use.
    #[error(
        "policy {policy} may have {cap} instances, and that many hold certificates; raise MaxInstances, or wait until one expires"
    )]
    Cap {
        /// The policy.
        policy: Digest,
        /// Its cap.
        cap: NonZeroU32,
    },
    /// No more instances fit into memory.
    #[error("{MAX_INSTANCES} instances hold certificates, which is as many as a Coordinator keeps")]
    Full,
}

impl Roster {
    /// Enters an instance that is to be given a certificate for each of `places`, or for none of
    /// them. What it acknowledged before stays.
    pub fn enrol(
        &mut self,
        id: InstanceId,
        enrolled: Enrolled,
        places: &BTreeSet<Place>,
        now: Instant,
    ) -> Result<(), NoPlace> {
        let Enrolled {
            policy,
            spiffe_id,
            remote,
            until,
            generation,
        } = enrolled;
        let key = (policy, id);
        for place in places {
            self.check_cap(&key, place, now)?;
        }
        self.check_room(&key, now)?;
        let instance = self.instances.entry(key).or_insert(Instance {
            spiffe_id,
            remote,
            certified: HashMap::new(),
            until,
            trusted: 0,
            certificate: 0,
        });
        instance.remote = remote;
        instance.until = instance.until.max(until);
        instance.certified.retain(|_, until| *until >= now);
        for place in places {
            instance.certified.insert(place.policy, until);
        }
        // Given along with the first certificate. Later ones may be some of many, and in use only
        // when the instance says so.
        for known in [&mut instance.trusted, &mut instance.certificate] {
            if *known == 0 {
                *known = generation;
            }
        }
        Ok(())
    }

    /// Enters what an instance says it acts on. An instance that is not known is entered until
    /// `unknown.until`: it holds certificates from before a restart, or from another Coordinator.
    pub fn acknowledged(
        &mut self,
        id: InstanceId,
        trusted: Generation,
        certificate: Generation,
        unknown: Enrolled,
        now: Instant,
    ) -> Result<(), NoPlace> {
        let Enrolled {
            policy,
            spiffe_id,
            remote,
            until,
            ..
        } = unknown;
        let key = (policy, id);
        self.check_room(&key, now)?;
        let instance = self.instances.entry(key).or_insert_with(|| Instance {
            spiffe_id,
            remote,
            certified: (certificate > 0)
                .then_some((policy, until))
                .into_iter()
                .collect(),
            until,
            trusted: 0,
            certificate: 0,
        });
        instance.remote = remote;
        instance.trusted = instance.trusted.max(trusted);
        instance.certificate = instance.certificate.max(certificate);
        Ok(())
    }

    /// Forgets the instances of policies that are not in force any more: nobody waits for them.
    pub fn retain_policies(&mut self, is_in_force: impl Fn(&Digest) -> bool) {
        self.instances.retain(|(policy, _), _| is_in_force(policy));
    }

    /// Who does not trust `generation` yet, by name.
    pub fn not_trusting(&self, generation: Generation, now: Instant) -> Vec<Laggard> {
        self.laggards(now, |it| it.does_not_trust(generation))
    }

    /// Who holds an older certificate, by name.
    pub fn not_certified(&self, generation: Generation, now: Instant) -> Vec<Laggard> {
        self.laggards(now, |it| it.has_older_than(generation))
    }

    /// Whether [`Self::not_trusting`] names anybody: a matter of moments while it would name many.
    pub fn is_any_not_trusting(&self, generation: Generation, now: Instant) -> bool {
        let mut late = self.late(now, |it| it.does_not_trust(generation));
        late.next().is_some()
    }

    /// Whether [`Self::not_certified`] names anybody: a matter of moments while it would name many.
    pub fn is_any_not_certified(&self, generation: Generation, now: Instant) -> bool {
        let mut late = self.late(now, |it| it.has_older_than(generation));
        late.next().is_some()
    }

    /// Of those that another Coordinator waits for, the ones that have not told this one that they
    /// trust `generation`: an agent may have moved from there to here.
    pub fn still_not_trusting(&self, late: Vec<String>, generation: Generation) -> Vec<String> {
        self.without(late, |it| !it.does_not_trust(generation))
    }

    /// The same for certificates.
    pub fn still_not_certified(&self, late: Vec<String>, generation: Generation) -> Vec<String> {
        self.without(late, |it| !it.has_older_than(generation))
    }

    /// How many hold certificates.
    pub fn len(&self, now: Instant) -> usize {
        self.instances.values().filter(|it| it.until >= now).count()
    }

    /// Refuses one more instance of a policy that has as many as it may.
    fn check_cap(
        &self,
        id: &(Digest, InstanceId),
        place: &Place,
        now: Instant,
    ) -> Result<(), NoPlace> {
        let Place { policy, cap } = *place;
        let Some(cap) = cap else {
            return Ok(());
        };
        let holds = |it: &Instance| it.certified.get(&policy).is_some_and(|until| *until >= now);
        let others = self
            .instances
            .iter()
            .filter(|(other, it)| *other != id && holds(it))
            .count();
        if others >= cap.get() as usize {
            return Err(NoPlace::Cap { policy, cap });
        }
        Ok(())
    }

    /// Refuses a new instance when there are as many as fit, after those that have expired.
    fn check_room(&mut self, id: &(Digest, InstanceId), now: Instant) -> Result<(), NoPlace> {
        if self.instances.contains_key(id) || self.instances.len() < MAX_INSTANCES {
            return Ok(());
        }
        // Looked through only now: to do so for each that comes would take the longer the more
        // there are.
        self.instances.retain(|_, it| it.until >= now);
        if self.instances.len() >= MAX_INSTANCES {
            return Err(NoPlace::Full);
        }
        Ok(())
    }

    fn late(
        &self,
        now: Instant,
        is_late: impl Fn(&Instance) -> bool,
    ) -> impl Iterator<Item = (&(Digest, InstanceId), &Instance)> {
        self.instances
            .iter()
            .filter(move |(_, it)| it.until >= now && is_late(it))
    }

    fn laggards(&self, now: Instant, is_late: impl Fn(&Instance) -> bool) -> Vec<Laggard> {
        let mut laggards: Vec<_> = self
            .late(now, is_late)
            .map(|((_, id), it)| Laggard {
                name: it.label(*id),
                remote: it.remote,
            })
            .collect();
        laggards.sort_unstable();
        laggards
    }

    fn without(
        &self,
        mut names: Vec<String>,
        has_followed: impl Fn(&Instance) -> bool,
    ) -> Vec<String> {
        if names.is_empty() {
            return names;
        }
        let followed: HashSet<_> = self
            .instances
            .iter()
            .filter(|(_, it)| has_followed(it))
            .map(|((_, id), it)| it.label(*id))
            .collect();
        names.retain(|name| !followed.contains(name));
        names
    }
}

impl Instance {
    fn does_not_trust(&self, generation: Generation) -> bool {
        self.trusted < generation
    }

    fn has_older_than(&self, generation: Generation) -> bool {
        self.certificate != 0 && self.certificate < generation
    }

    fn label(&self, id: InstanceId) -> String {
        format!("{} instance {}", self.spiffe_id, hex::encode(id.0))
    }
}

/// Some hundred bytes each.
const MAX_INSTANCES: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const POLICY: Digest = Digest([1; 32]);
    const HOSTED: Digest = Digest([2; 32]);

    struct Bench {
        roster: Roster,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                roster: Roster::default(),
                now: Instant::now(),
            }
        }

        fn instance(&self, generation: Generation) -> Enrolled {
            Enrolled {
                policy: POLICY,
                spiffe_id: SpiffeId::parse("spiffe://mesh.local/ns/default/sa/web").unwrap(),
                remote: Some(([127, 0, 0, 1], 5).into()),
                until: self.now + HOUR,
                generation,
            }
        }

        fn enrol(&mut self, id: u8, generation: Generation) -> Result<(), NoPlace> {
            self.enrol_for(id, generation, &[(POLICY, None)])
        }

        fn enrol_for(
            &mut self,
            id: u8,
            generation: Generation,
            places: &[(Digest, Option<u32>)],
        ) -> Result<(), NoPlace> {
            let places = places
                .iter()
                .map(|(policy, cap)| Place {
                    policy: *policy,
                    cap: cap.and_then(NonZeroU32::new),
                })
                .collect();
            let instance = self.instance(generation);
            self.roster
                .enrol(InstanceId([id; 16]), instance, &places, self.now)
        }

        fn acknowledge(&mut self, id: u8, trusted: Generation, certificate: Generation) {
            let instance = self.instance(0);
            self.roster
                .acknowledged(
                    InstanceId([id; 16]),
                    trusted,
                    certificate,
                    instance,
                    self.now,
                )
                .unwrap();
        }

        fn not_trusting(&self, generation: Generation) -> usize {
            let names = self.roster.not_trusting(generation, self.now);
            let is_any = self.roster.is_any_not_trusting(generation, self.now);
            assert_eq!(is_any, !names.is_empty());
            names.len()
        }

        fn not_certified(&self, generation: Generation) -> usize {
            let names = self.roster.not_certified(generation, self.now);
            let is_any = self.roster.is_any_not_certified(generation, self.now);
            assert_eq!(is_any, !names.is_empty());
            names.len()
        }
    }

    #[test]
    fn a_policy_has_no_more_instances_than_it_may_until_one_expires() {
        let mut bench = Bench::new();
        let one = [(POLICY, Some(1))];
        bench.enrol_for(1, 1, &one).unwrap();
        bench.enrol_for(1, 1, &one).unwrap();
        bench.enrol_for(2, 1, &one).unwrap_err();
        bench.enrol_for(2, 1, &[(POLICY, None)]).unwrap();
        bench.enrol_for(3, 1, &[(HOSTED, Some(1))]).unwrap();
        bench.now += HOUR + Duration::from_secs(1);
        bench.enrol_for(4, 1, &one).unwrap();
    }

    #[test]
    fn what_nodes_host_has_a_cap_too_and_a_refusal_takes_no_place() {
        let mut bench = Bench::new();
        bench
            .enrol_for(1, 1, &[(POLICY, None), (HOSTED, Some(1))])
            .unwrap();
        let error = bench.enrol_for(2, 1, &[(POLICY, Some(2)), (HOSTED, Some(1))]);
        assert!(matches!(error, Err(NoPlace::Cap { policy: HOSTED, .. })));
        assert_eq!(bench.roster.len(bench.now), 1);
    }

    #[test]
    fn an_instance_that_has_no_certificate_takes_no_place() {
        let mut bench = Bench::new();
        bench.acknowledge(1, 1, 0);
        bench.enrol_for(2, 1, &[(POLICY, Some(1))]).unwrap();
        bench.acknowledge(3, 1, 1);
        bench.enrol_for(2, 1, &[(POLICY, Some(1))]).unwrap_err();
    }

    #[test]
    fn a_laggard_is_named() {
        let mut bench = Bench::new();
        bench.enrol(1, 1).unwrap();
        bench.enrol(2, 1).unwrap();
        assert_eq!(bench.not_trusting(2), 2);
        bench.acknowledge(1, 2, 1);
        let name = "spiffe://mesh.local/ns/default/sa/web instance \
                    02020202020202020202020202020202";
        let laggards = bench.roster.not_trusting(2, bench.now);
        assert_eq!(laggards.len(), 1);
        assert_eq!(laggards[0].name, name);
        assert_eq!(laggards[0].to_string(), format!("{name} at 127.0.0.1:5"));
        bench.acknowledge(2, 2, 2);
        assert_eq!(bench.not_trusting(2), 0);
        assert_eq!(bench.not_certified(2), 1);
    }

    #[test]
    fn one_renewed_certificate_of_several_is_not_all_of_them() {
        let mut bench = Bench::new();
        bench.enrol(1, 1).unwrap();
        bench.enrol(1, 2).unwrap();
        assert_eq!(bench.not_certified(2), 1);
        bench.acknowledge(1, 2, 2);
        assert_eq!(bench.not_certified(2), 0);
    }

    #[test]
    fn who_has_no_certificate_has_none_to_replace() {
        let mut bench = Bench::new();
        bench.acknowledge(1, 2, 0);
        assert_eq!(bench.not_certified(2), 0);
        bench.enrol(1, 2).unwrap();
        assert_eq!(bench.not_certified(2), 0);
    }

    #[test]
    fn an_instance_speaks_for_none_of_another_policy() {
        let mut bench = Bench::new();
        bench.enrol(1, 1).unwrap();
        let other = Enrolled {
            policy: HOSTED,
            ..bench.instance(0)
        };
        bench
            .roster
            .acknowledged(InstanceId([1; 16]), 2, 2, other, bench.now)
            .unwrap();
        assert_eq!(bench.not_trusting(2), 1);
    }

    #[test]
    fn who_moved_here_is_not_late_elsewhere() {
        let (mut here, mut elsewhere) = (Bench::new(), Bench::new());
        for id in [1, 2] {
            elsewhere.enrol(id, 1).unwrap();
        }
        here.acknowledge(1, 2, 1);
        let names = |late: Vec<Laggard>| late.into_iter().map(|it| it.name).collect();
        let late = names(elsewhere.roster.not_trusting(2, elsewhere.now));
        let late = here.roster.still_not_trusting(late, 2);
        assert_eq!(late.len(), 1);
        assert!(late[0].contains(&"02".repeat(16)), "{late:?}");
        let late = names(elsewhere.roster.not_certified(2, elsewhere.now));
        assert_eq!(here.roster.still_not_certified(late, 2).len(), 2);
    }

    #[test]
    fn what_has_expired_is_waited_for_no_longer() {
        let mut bench = Bench::new();
        bench.enrol(1, 1).unwrap();
        bench.now += HOUR + Duration::from_secs(1);
        assert_eq!(bench.not_trusting(2), 0);
        assert_eq!(bench.roster.len(bench.now), 0);
    }

    #[test]
    fn nobody_waits_for_a_policy_that_is_gone() {
        let mut bench = Bench::new();
        bench.enrol(1, 1).unwrap();
        bench.roster.retain_policies(|policy| *policy == POLICY);
        assert_eq!(bench.not_trusting(2), 1);
        bench.roster.retain_policies(|_| false);
        assert_eq!(bench.not_trusting(2), 0);
    }

    #[test]
    fn an_instance_from_before_a_restart_is_known_by_its_acknowledgement() {
        let mut bench = Bench::new();
        bench.acknowledge(3, 4, 3);
        assert_eq!(bench.not_certified(4), 1);
        assert_eq!(bench.not_trusting(4), 0);
    }

    #[test]
    fn there_are_never_more_instances_than_fit() {
        let mut bench = Bench::new();
        let instance = bench.instance(0);
        for number in 0..MAX_INSTANCES as u128 {
            let id = InstanceId(number.to_be_bytes());
            bench
                .roster
                .acknowledged(id, 1, 1, instance.clone(), bench.now)
                .unwrap();
        }
        assert_eq!(bench.enrol(0xff, 1), Err(NoPlace::Full));
        bench.now += HOUR + Duration::from_secs(1);
        bench.enrol(0xff, 1).unwrap();
    }
}
