//! Which instances of which workloads hold certificates, and what they have acknowledged.
//!
//! It lives in memory: after a restart instances are known again when they return, and until the
//! stage's deadline nobody takes silence for consent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use attestation::Digest;
use attestation::identity::SpiffeId;
use thiserror::Error;
use time::OffsetDateTime;

use crate::deployment::Generation;

/// The name that an agent gives itself for as long as it lives; its evidence vouches for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub [u8; 16]);

/// Every instance whose certificates have not expired.
#[derive(Debug, Default)]
pub struct Roster {
    instances: HashMap<InstanceId, Instance>,
}

/// An agent that was given certificates.
#[derive(Clone, Debug)]
struct Instance {
    policy: Digest,
    spiffe_id: SpiffeId,
    remote: Option<SocketAddr>,
    not_after: OffsetDateTime,
    trusted: Generation,
    certificate: Generation,
}

/// What is known of an instance when it enrols.
#[derive(Clone, Debug)]
pub struct Enrolled {
    /// The policy that it runs under.
    pub policy: Digest,
    /// Its own identity.
    pub spiffe_id: SpiffeId,
    /// Where it called from.
    pub remote: Option<SocketAddr>,
    /// When its certificates expire.
    pub not_after: OffsetDateTime,
    /// The generation that signed them.
    pub generation: Generation,
}

/// The policy's instances are all in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "policy {policy} may have {cap} instances, and that many hold certificates; raise MaxInstances, or wait until one expires"
)]
pub struct CapReached {
    /// The policy.
    pub policy: Digest,
    /// Its cap.
    pub cap: NonZeroU32,
}

impl Roster {
    /// Refuses a new instance of a policy that has as many as it may.
    pub fn check_cap(
        &self,
        id: InstanceId,
        policy: Digest,
        cap: Option<NonZeroU32>,
        now: OffsetDateTime,
    ) -> Result<(), CapReached> {
        let Some(cap) = cap else {
            return Ok(());
        };
        let others = self
            .instances
            .iter()
            .filter(|(other, it)| **other != id && it.policy == policy && it.not_after >= now)
            .count();
        if others >= cap.get() as usize {
            return Err(CapReached { policy, cap });
        }
        Ok(())
    }

    /// Enters an instance that was given certificates; what it acknowledged before stays.
    pub fn enrolled(&mut self, id: InstanceId, enrolled: Enrolled, now: OffsetDateTime) {
        self.instances.retain(|_, it| it.not_after >= now);
        let Enrolled {
            policy,
            spiffe_id,
            remote,
            not_after,
            generation,
        } = enrolled;
        let trusted = self.instances.get(&id).map_or(0, |it| it.trusted);
        let certificate = self.instances.get(&id).map_or(0, |it| it.certificate);
        self.instances.insert(
            id,
            Instance {
                policy,
                spiffe_id,
                remote,
                not_after,
                // It was given the state of that moment along with the certificates.
                trusted: trusted.max(generation),
                certificate: certificate.max(generation),
            },
        );
    }

    /// Enters what an instance says it acts on. An instance that is not known is entered until
    /// `not_after`: it holds certificates from before a restart, or from another Coordinator.
    pub fn acknowledged(
        &mut self,
        id: InstanceId,
        trusted: Generation,
        certificate: Generation,
        unknown: Enrolled,
    ) {
        let Enrolled {
            policy,
            spiffe_id,
            remote,
            not_after,
            ..
        } = unknown;
        let instance = self.instances.entry(id).or_insert(Instance {
            policy,
            spiffe_id,
            remote,
            not_after,
            trusted: 0,
            certificate: 0,
        });
        instance.remote = remote;
        instance.trusted = instance.trusted.max(trusted);
        instance.certificate = instance.certificate.max(certificate);
    }

    /// Forgets the instances of policies that are not in force any more: nobody waits for them.
    pub fn retain_policies(&mut self, is_in_force: impl Fn(&Digest) -> bool) {
        self.instances.retain(|_, it| is_in_force(&it.policy));
    }

    /// Who does not trust `generation` yet, by name.
    pub fn not_trusting(&self, generation: Generation, now: OffsetDateTime) -> Vec<String> {
        self.names(now, |it| it.trusted < generation)
    }

    /// Who holds an older certificate, by name.
    pub fn not_certified(&self, generation: Generation, now: OffsetDateTime) -> Vec<String> {
        self.names(now, |it| it.certificate < generation)
    }

    /// How many hold certificates.
    pub fn len(&self, now: OffsetDateTime) -> usize {
        self.instances
            .values()
            .filter(|it| it.not_after >= now)
            .count()
    }

    fn names(&self, now: OffsetDateTime, is_late: impl Fn(&Instance) -> bool) -> Vec<String> {
        let mut names: Vec<_> = self
            .instances
            .iter()
            .filter(|(_, it)| it.not_after >= now && is_late(it))
            .map(|(id, it)| {
                let remote = it
                    .remote
                    .map_or_else(|| "unknown address".to_owned(), |it| it.to_string());
                format!(
                    "{} instance {} at {remote}",
                    it.spiffe_id,
                    hex::encode(id.0)
                )
            })
            .collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;
    const LATER: OffsetDateTime = NOW.saturating_add(time::Duration::HOUR);

    fn enrolled(generation: Generation) -> Enrolled {
        Enrolled {
            policy: Digest([1; 32]),
            spiffe_id: SpiffeId::parse("spiffe://mesh.local/ns/default/sa/web").unwrap(),
            remote: Some(([127, 0, 0, 1], 5).into()),
            not_after: LATER,
            generation,
        }
    }

    #[test]
    fn a_policy_has_no_more_instances_than_it_may() {
        let mut roster = Roster::default();
        let cap = NonZeroU32::new(1);
        let (a, b) = (InstanceId([1; 16]), InstanceId([2; 16]));
        let policy = Digest([1; 32]);
        roster.check_cap(a, policy, cap, NOW).unwrap();
        roster.enrolled(a, enrolled(1), NOW);
        roster.check_cap(a, policy, cap, NOW).unwrap();
        roster.check_cap(b, policy, cap, NOW).unwrap_err();
        roster.check_cap(b, policy, None, NOW).unwrap();
        roster.check_cap(b, Digest([9; 32]), cap, NOW).unwrap();
        roster
            .check_cap(b, policy, cap, LATER + time::Duration::SECOND)
            .unwrap();
    }

    #[test]
    fn a_laggard_is_named() {
        let mut roster = Roster::default();
        let (a, b) = (InstanceId([1; 16]), InstanceId([2; 16]));
        roster.enrolled(a, enrolled(1), NOW);
        roster.enrolled(b, enrolled(1), NOW);
        assert_eq!(roster.not_trusting(2, NOW).len(), 2);
        roster.acknowledged(a, 2, 1, enrolled(0));
        let late = roster.not_trusting(2, NOW);
        let name = "spiffe://mesh.local/ns/default/sa/web instance \
                    02020202020202020202020202020202 at 127.0.0.1:5";
        assert_eq!(late, [name]);
        roster.acknowledged(b, 2, 2, enrolled(0));
        assert!(roster.not_trusting(2, NOW).is_empty());
        assert_eq!(roster.not_certified(2, NOW).len(), 1);
    }

    #[test]
    fn what_has_expired_is_waited_for_no_longer() {
        let mut roster = Roster::default();
        roster.enrolled(InstanceId([1; 16]), enrolled(1), NOW);
        let after = LATER + time::Duration::SECOND;
        assert!(roster.not_trusting(2, after).is_empty());
        assert_eq!(roster.len(after), 0);
    }

    #[test]
    fn nobody_waits_for_a_policy_that_is_gone() {
        let mut roster = Roster::default();
        roster.enrolled(InstanceId([1; 16]), enrolled(1), NOW);
        roster.retain_policies(|policy| *policy == Digest([1; 32]));
        assert_eq!(roster.not_trusting(2, NOW).len(), 1);
        roster.retain_policies(|_| false);
        assert!(roster.not_trusting(2, NOW).is_empty());
    }

    #[test]
    fn an_instance_from_before_a_restart_is_known_by_its_acknowledgement() {
        let mut roster = Roster::default();
        roster.acknowledged(InstanceId([3; 16]), 4, 3, enrolled(0));
        assert_eq!(roster.not_certified(4, NOW).len(), 1);
        assert!(roster.not_trusting(4, NOW).is_empty());
    }
}
