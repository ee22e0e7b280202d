//! A new manifest takes over without anybody being left behind: trusted, then issuing, then alone.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::time::Duration;

use api::v1;
use serde_json::json;
use support::agent::{Agent, Watching};
use support::bed::Bed;
use support::manifest::{ManifestBuilder, spiffe_id};
use support::running::{Place, Running};
use support::store::Outage;
use support::{code, until};
use tokio::time::sleep;

/// Longer than any test: nothing happens for it.
const NEVER: u64 = 3600;

#[tokio::test]
async fn each_stage_waits_for_every_agent() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", NEVER);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    let mut b = Follower::start(&bed, &running, "b").await;
    let before = a.state.clone();
    assert_eq!((before.generation, before.required_generation), (1, 1));

    running.update(&manifest.workload("new")).await.unwrap();
    for agent in [&mut a, &mut b] {
        let state = agent.follow(|it| it.generation == 2).await;
        assert_eq!(state.mesh_cas.len(), 2, "old and new are trusted");
        assert_eq!(state.mesh_cas[1], before.mesh_cas[0]);
        assert_eq!(state.required_generation, 1);
    }
    // Whoever renews meanwhile is given what everybody trusts.
    assert_eq!(a.enrol(&running).await, 1);
    a.acknowledge(2, 1).await;
    assert_eq!(waiting_for(&running).await, [b.name()]);
    assert_eq!(stage(&running).await, v1::Stage::Trust);

    b.acknowledge(2, 1).await;
    for agent in [&mut a, &mut b] {
        let state = agent.follow(|it| it.required_generation == 2).await;
        assert_eq!(state.mesh_cas.len(), 2, "both are still trusted");
        assert!(state.deadline > 0);
    }
    assert_eq!(stage(&running).await, v1::Stage::Issue);
    assert_eq!(a.enrol(&running).await, 2);
    assert_eq!(b.enrol(&running).await, 2);
    // A certificate that was issued is not yet one that is used.
    b.acknowledge(2, 2).await;
    assert_eq!(waiting_for(&running).await, [a.name()]);

    a.acknowledge(2, 2).await;
    for agent in [&mut a, &mut b] {
        let state = agent.follow(|it| it.mesh_cas.len() == 1).await;
        assert_ne!(state.mesh_cas[0], before.mesh_cas[0]);
        assert_eq!(state.root_ca, before.root_ca);
    }
    assert_eq!(stage(&running).await, v1::Stage::Done);
    let (chain, _) = running.user().history().await;
    let kinds: Vec<_> = chain.iter().map(|it| it.transition.kind.as_str()).collect();
    assert_eq!(kinds, ["manifest", "manifest", "issue", "withdraw"]);
}

#[tokio::test]
async fn without_agents_nobody_is_waited_for() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", NEVER);
    let running = bed.ready(&manifest).await;
    running.update(&manifest.workload("new")).await.unwrap();
    until_done(&running).await;
}

#[tokio::test]
async fn a_laggard_is_waited_for_until_the_deadline_and_then_named() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", 1);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    let b = Follower::start(&bed, &running, "b").await;
    running.update(&manifest.workload("new")).await.unwrap();
    a.follow(|it| it.generation == 2).await;
    a.acknowledge(2, 1).await;
    assert_eq!(waiting_for(&running).await, [b.name()]);
    let deadline = running.status().await.rotation.unwrap().deadline;
    assert!(deadline > 0);
    a.follow(|it| it.required_generation == 2).await;
    a.acknowledge(2, 2).await;
    until_done(&running).await;
    let laggards = running.metric("laggards_total").await;
    assert!((laggards - 2.0).abs() < f64::EPSILON, "one in each stage");
}

#[tokio::test]
async fn a_strict_update_withdraws_at_once() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", NEVER);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    let old = a.state.mesh_cas.clone();
    let strict = manifest.rotation("strict", NEVER);
    running.update(&strict).await.unwrap();
    let state = a.follow(|it| it.generation == 2).await;
    assert_eq!(state.mesh_cas.len(), 1);
    assert_ne!(state.mesh_cas, old);
    assert_eq!(state.required_generation, 2);
    assert_eq!(stage(&running).await, v1::Stage::Done);
    assert_eq!(a.enrol(&running).await, 2);
}

#[tokio::test]
async fn members_and_allowed_peers_are_told_at_once() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", NEVER);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    let members = |names: &[&str]| names.iter().map(|it| spiffe_id(it)).collect::<Vec<_>>();
    assert_eq!(a.state.members, members(&["a", "b"]));
    assert!(a.state.access[0].any_member);
    let manifest = manifest
        .workload("c")
        .policy("a", json!({ "AllowedPeers": ["b"] }));
    running.update(&manifest).await.unwrap();
    let state = a.follow(|it| it.generation == 2).await;
    assert_eq!(state.members, members(&["a", "b", "c"]));
    assert!(!state.access[0].any_member);
    assert_eq!(state.access[0].allowed_peers, members(&["b"]));
}

#[tokio::test]
async fn who_is_removed_is_told_so_and_waited_for_no_longer() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", NEVER);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    let mut b = Follower::start(&bed, &running, "b").await;
    running.update(&manifest.without_policy("b")).await.unwrap();
    let refused = b.watching.next().await.err().unwrap();
    assert_eq!(code(&refused), "not-allowed");
    a.follow(|it| it.generation == 2).await;
    assert_eq!(a.state.members, [spiffe_id("a")]);
    a.acknowledge(2, 1).await;
    a.follow(|it| it.required_generation == 2).await;
}

#[tokio::test]
async fn an_update_during_an_update_ends_in_the_newest_alone() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", NEVER);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    let second = manifest.workload("second");
    running.update(&second).await.unwrap();
    a.follow(|it| it.generation == 2).await;
    let third = second.workload("third");
    running.update(&third).await.unwrap();
    let state = a.follow(|it| it.generation == 3).await;
    assert_eq!(state.mesh_cas.len(), 3, "nobody is left behind");
    // What was acknowledged of the second says nothing of the third.
    a.acknowledge(2, 1).await;
    assert_eq!(stage(&running).await, v1::Stage::Trust);
    a.acknowledge(3, 1).await;
    a.follow(|it| it.required_generation == 3).await;
    assert_eq!(a.enrol(&running).await, 3);
    a.acknowledge(3, 3).await;
    let state = a.follow(|it| it.mesh_cas.len() == 1).await;
    assert_eq!(state.generation, 3);
}

#[tokio::test]
async fn an_acknowledgement_of_the_future_counts_for_nothing() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", NEVER);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    a.acknowledge(99, 99).await;
    running.update(&manifest.workload("new")).await.unwrap();
    a.follow(|it| it.generation == 2).await;
    assert_eq!(waiting_for(&running).await, [a.name()]);
}

#[tokio::test]
async fn an_agent_acknowledges_for_itself_alone() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", NEVER);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    let mut b = Follower::start(&bed, &running, "b").await;
    running.update(&manifest.workload("new")).await.unwrap();
    a.follow(|it| it.generation == 2).await;
    b.follow(|it| it.generation == 2).await;
    b.acknowledge(2, 1).await;
    // The instance of a, in a request of b.
    let request = v1::AcknowledgeRequest {
        instance: a.agent.instance.to_vec(),
        trusted_generation: 2,
        certificate_generation: 2,
    };
    let client = &mut b.watching.session.client;
    client.acknowledge(request).await.unwrap();
    assert!(waiting_for(&running).await.contains(&a.name()));
}

#[tokio::test]
async fn a_restart_between_trusting_and_issuing_goes_on_from_there() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", 2);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    running.update(&manifest.workload("new")).await.unwrap();
    a.follow(|it| it.generation == 2).await;
    let old = a.state.mesh_cas.clone();
    running.stop().await;

    let running = recovered(&bed).await;
    let status = running.status().await;
    assert_eq!(status.rotation.unwrap().stage(), v1::Stage::Trust);
    let mut a = a.again(&running).await;
    assert_eq!(a.state.generation, 3);
    assert_eq!(a.state.mesh_cas[1..], old, "old certificates stay good");
    assert_eq!(a.state.required_generation, 1);
    assert_eq!(a.enrol(&running).await, 3, "the old key is lost");
    a.acknowledge(3, 3).await;
    // Others may hold certificates from before: silence is not consent before the deadline.
    assert_eq!(stage(&running).await, v1::Stage::Trust);
    let state = a.follow(|it| it.mesh_cas.len() == 1).await;
    assert_eq!((state.generation, state.required_generation), (3, 3));
}

#[tokio::test]
async fn a_restart_between_issuing_and_withdrawing_goes_on_from_there() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", 1);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    running.update(&manifest.workload("new")).await.unwrap();
    a.follow(|it| it.generation == 2).await;
    a.acknowledge(2, 1).await;
    a.follow(|it| it.required_generation == 2).await;
    assert_eq!(a.enrol(&running).await, 2);
    running.stop().await;

    let running = recovered(&bed).await;
    let mut a = a.again(&running).await;
    assert_eq!(a.state.generation, 4);
    assert_eq!(a.state.mesh_cas.len(), 3, "what was issued before is good");
    assert_eq!(a.state.required_generation, 2);
    a.acknowledge(4, 2).await;
    a.follow(|it| it.required_generation == 4).await;
    assert_eq!(a.enrol(&running).await, 4);
    a.acknowledge(4, 4).await;
    a.follow(|it| it.mesh_cas.len() == 1).await;
    let (chain, _) = running.user().history().await;
    let kinds: Vec<_> = chain.iter().map(|it| it.transition.kind.as_str()).collect();
    let wanted = [
        "manifest", "manifest", "issue", "recovery", "issue", "withdraw",
    ];
    assert_eq!(kinds, wanted);
}

#[tokio::test]
async fn a_restart_after_a_rotation_finds_it_done() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", 1);
    let running = bed.ready(&manifest).await;
    running.update(&manifest.workload("new")).await.unwrap();
    until_done(&running).await;
    running.stop().await;
    let running = recovered(&bed).await;
    let status = running.status().await;
    assert_eq!(status.mesh_cas.len(), 2, "the one before and a fresh one");
    until_done(&running).await;
    assert_eq!(running.status().await.mesh_cas.len(), 1);
}

#[tokio::test]
async fn a_rotation_waits_for_the_store_and_names_nobody_twice() {
    let bed = Bed::new();
    let manifest = two(&bed).rotation("graceful", 1);
    let running = bed.ready(&manifest).await;
    let mut a = Follower::start(&bed, &running, "a").await;
    running.update(&manifest.workload("new")).await.unwrap();
    a.follow(|it| it.generation == 2).await;
    bed.store.fail(Outage::All);
    // Past the deadline, and past some more attempts.
    sleep(Duration::from_millis(3500)).await;
    assert_eq!(stage(&running).await, v1::Stage::Trust);
    bed.store.fail(Outage::None);
    a.follow(|it| it.required_generation == 2).await;
    let laggards = running.metric("laggards_total").await;
    assert!((laggards - 1.0).abs() < f64::EPSILON, "{laggards}");
}

#[tokio::test]
async fn of_two_coordinators_neither_goes_on_before_the_agents_of_both() {
    let bed = Bed::new();
    // Longer than the test takes after that.
    let lifetime = Duration::from_secs(14);
    let manifest = two(&bed)
        .rotation("graceful", NEVER)
        .with("CertificateLifetime", json!("14s"));
    let (first, second) = pair(&bed, &manifest, lifetime).await;
    let mut a = Follower::start(&bed, &first, "a").await;
    let mut b = Follower::start(&bed, &second, "b").await;
    first.update(&manifest.workload("new")).await.unwrap();
    for agent in [&mut a, &mut b] {
        agent.follow(|it| it.generation == 2).await;
    }
    a.acknowledge(2, 1).await;
    assert_eq!(waiting_for(&second).await, [b.name()]);
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(stage(&first).await, v1::Stage::Trust);
    b.acknowledge(2, 1).await;
    for agent in [&mut a, &mut b] {
        agent.follow(|it| it.required_generation == 2).await;
    }
    assert_eq!(a.enrol(&first).await, 2);
    // An agent that moves is not waited for where it was.
    let mut b = b.again(&first).await;
    assert_eq!(b.enrol(&first).await, 2);
    a.acknowledge(2, 2).await;
    b.acknowledge(2, 2).await;
    a.follow(|it| it.mesh_cas.len() == 1).await;
    until_done(&second).await;
}

/// Two that know of each other, and of every instance there is: none.
async fn pair(bed: &Bed, manifest: &ManifestBuilder, lifetime: Duration) -> (Running, Running) {
    let (one, other) = (Place::new().await, Place::new().await);
    let (to_one, to_other) = (one.mesh_api(), other.mesh_api());
    let start = |place, peer| {
        let how = bed.how_to_start(bed.store.clone(), vec![peer]);
        Running::start_at(place, how)
    };
    let first = start(one, to_other).await.unwrap();
    first.set_first(manifest).await.unwrap();
    let second = start(other, to_one).await.unwrap();
    until("recovery from the peer", async || {
        (second.status().await.phase() == v1::Phase::Ready).then_some(())
    })
    .await;
    // Whoever had a certificate when the second came has another one by then, or none.
    sleep(lifetime).await;
    (first, second)
}

/// An agent with a certificate, which is told of every change.
struct Follower {
    agent: Agent,
    watching: Watching,
    state: v1::MeshState,
    policy: String,
}

impl Follower {
    async fn start(bed: &Bed, running: &Running, policy: &str) -> Self {
        let mut agent = Agent::new(&bed.platform, policy);
        agent.enrol(running).await.unwrap();
        Self::watch(agent, running, policy).await
    }

    async fn watch(agent: Agent, running: &Running, policy: &str) -> Self {
        let mut watching = agent.watch(running).await;
        let state = watching.state(|_| true).await;
        let mut follower = Self {
            agent,
            watching,
            policy: policy.to_owned(),
            state,
        };
        follower.agent.known.clone_from(&follower.state.transition);
        follower
    }

    /// The same agent, at another Coordinator or after a restart.
    async fn again(self, running: &Running) -> Self {
        Self::watch(self.agent, running, &self.policy).await
    }

    async fn follow(&mut self, is: impl FnMut(&v1::MeshState) -> bool) -> v1::MeshState {
        self.state = self.watching.state(is).await;
        self.agent.known.clone_from(&self.state.transition);
        self.state.clone()
    }

    async fn acknowledge(&mut self, trusted: u64, certificate: u64) {
        self.watching
            .session
            .acknowledge(trusted, certificate)
            .await;
    }

    /// The generation of a new certificate.
    async fn enrol(&mut self, running: &Running) -> u64 {
        let answer = self.agent.enrol(running).await.unwrap();
        answer.certificates[0].generation
    }

    /// How a Coordinator calls it, but for its address.
    fn name(&self) -> String {
        let instance = hex::encode(self.agent.instance);
        format!("{} instance {instance}", spiffe_id(&self.policy))
    }
}

fn two(bed: &Bed) -> ManifestBuilder {
    bed.manifest().workload("a").workload("b")
}

async fn recovered(bed: &Bed) -> Running {
    let running = bed.start().await;
    running.recover().await;
    running
}

async fn stage(running: &Running) -> v1::Stage {
    running.status().await.rotation.unwrap().stage()
}

async fn until_done(running: &Running) {
    until("the end of the rotation", async || {
        (stage(running).await == v1::Stage::Done).then_some(())
    })
    .await;
}

/// Whom the rotation waits for, without their addresses.
async fn waiting_for(running: &Running) -> Vec<String> {
    let names = running.status().await.rotation.unwrap().waiting_for;
    // Anybody may ask for the status: names are in the manifest, addresses are nobody's business.
    assert!(
        names.iter().all(|name| !name.contains("127.0.0.1")),
        "{names:?}"
    );
    names
}
