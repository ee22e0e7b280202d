//! Three Coordinators on one etcd: any one serves, and what becomes of the others harms nobody.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "store/etcd.rs"]
#[allow(dead_code, reason = "the stores' tests use the rest")]
mod etcd;
#[path = "store/skip.rs"]
#[allow(dead_code, reason = "the stores' tests use the rest")]
mod skip;
mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use api::v1;
use etcd::{Etcd, PROGRAM};
use support::agent::{Agent, Failure};
use support::bed::Bed;
use support::process::{Address, Process};
use support::until;
use support::user::User;
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn any_one_serves_and_each_is_replaced_without_a_share() {
    if !skip::has(PROGRAM) {
        return;
    }
    let mut trio = Trio::start().await;
    let manifest = trio.bed.manifest().workload("web").rotation("strict", 2);
    trio.user(0).set_first(&manifest).await.unwrap();
    trio.until_all_are_at(1, &[0, 1, 2]).await;
    let mut agent = Agent::new(&trio.bed.platform, "web");
    let mut chains = Vec::new();
    for address in &trio.addresses {
        let answer = agent.enrol_at(&address.mesh_api).await.unwrap();
        assert_eq!(answer.certificates[0].generation, 1);
        chains.push(answer.state.unwrap().mesh_cas);
    }
    assert!(chains.iter().all(|it| *it == chains[0]), "one mesh CA");

    trio.processes[0].kill();
    let next = manifest.workload("new");
    trio.user(1).update(&next).await.unwrap();
    trio.until_all_are_at(2, &[1, 2]).await;
    let mut newcomer = Agent::new(&trio.bed.platform, "new");
    let issued_by = |answer: &v1::EnrolResponse| answer.certificates[0].generation;
    let answer = newcomer.enrol_at(&trio.addresses[1].mesh_api).await;
    assert_eq!(issued_by(&answer.unwrap()), 2);
    // The third has not made this mesh CA, and issues from it all the same.
    let answer = until("the key of the new mesh CA", async || {
        newcomer.enrol_at(&trio.addresses[2].mesh_api).await.ok()
    })
    .await;
    assert_eq!(issued_by(&answer), 2);

    trio.restart(0).await;
    trio.until_all_are_at(2, &[0, 1, 2]).await;
    let answer = agent.enrol_at(&trio.addresses[0].mesh_api).await.unwrap();
    assert_eq!(issued_by(&answer), 2);
    let stopped = trio.processes[0].stop();
    assert!(stopped.success(), "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_agents_renew_while_one_is_cut_off_and_another_killed_and_a_manifest_is_set() {
    if !skip::has(PROGRAM) {
        return;
    }
    let mut trio = Trio::start().await;
    let manifest = trio.bed.manifest().workload("web").rotation("graceful", 4);
    trio.user(0).set_first(&manifest).await.unwrap();
    trio.until_all_are_at(1, &[0, 1, 2]).await;
    let agents = Agents::start(&trio, 50);
    agents.wait_for_more(50).await;

    trio.processes[2].freeze();
    agents.wait_for_more(20).await;
    trio.processes[0].kill();
    agents.wait_for_more(20).await;
    let next = manifest.workload("new");
    trio.user(1).update(&next).await.unwrap();
    until_done(&trio.user(1)).await;
    agents.wait_for_more(50).await;

    // Back, each the way it can.
    trio.processes[2].thaw();
    trio.restart(0).await;
    let head = trio.user(1).head().await;
    trio.until_all_are_at(head.seq, &[0, 1, 2]).await;
    agents.wait_for_more(50).await;

    let renewed = agents.stop().await;
    for (agent, last) in renewed.iter().enumerate() {
        assert_eq!(
            *last, 2,
            "agent {agent} has a certificate of that generation"
        );
    }
    let wrong = trio.refusals();
    let of_who_has_no_seed = ["in-recovery", "no-manifest"].map(str::to_owned).into();
    assert!(wrong.is_subset(&of_who_has_no_seed), "{wrong:?}");
    let mut histories = Vec::new();
    for number in 0..3 {
        let (chain, _) = trio.user(number).history().await;
        histories.push(chain.head());
    }
    assert!(
        histories.iter().all(|it| *it == histories[0]),
        "one history"
    );
    let (chain, _) = trio.user(0).history().await;
    let kinds: Vec<_> = chain.iter().map(|it| it.transition.kind.as_str()).collect();
    assert_eq!(kinds, ["manifest", "manifest", "issue", "withdraw"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_ca_that_was_lost_with_its_coordinator_is_replaced() {
    if !skip::has(PROGRAM) {
        return;
    }
    let mut trio = Trio::start().await;
    let manifest = trio.bed.manifest().workload("web").rotation("graceful", 1);
    trio.user(0).set_first(&manifest).await.unwrap();
    trio.until_all_are_at(1, &[0, 1, 2]).await;
    // The others can't ask for the key before its Coordinator is gone.
    for other in [1, 2] {
        trio.processes[other].freeze();
    }
    trio.user(0)
        .update(&manifest.workload("new"))
        .await
        .unwrap();
    trio.processes[0].kill();
    for other in [1, 2] {
        trio.processes[other].thaw();
    }
    let mut agent = Agent::new(&trio.bed.platform, "web");
    // What everybody trusts is issued meanwhile.
    let answer = until("a certificate", async || {
        agent.enrol_at(&trio.addresses[1].mesh_api).await.ok()
    })
    .await;
    assert_eq!(answer.certificates[0].generation, 1);
    let replaced = async {
        loop {
            let answer = agent.enrol_at(&trio.addresses[1].mesh_api).await;
            if answer.is_ok_and(|it| it.certificates[0].generation > 2) {
                return;
            }
            sleep(Duration::from_millis(500)).await;
        }
    };
    timeout(Duration::from_secs(90), replaced).await.unwrap();
    let (chain, _) = trio.user(1).history().await;
    let kinds: Vec<_> = chain.iter().map(|it| it.transition.kind.as_str()).collect();
    assert_eq!(kinds[..3], ["manifest", "manifest", "recovery"]);
}

/// Three Coordinators that know of each other.
struct Trio {
    bed: Bed,
    etcd: Etcd,
    addresses: [Address; 3],
    processes: Vec<Process>,
}

impl Trio {
    async fn start() -> Self {
        let mut trio = Self {
            bed: Bed::new(),
            etcd: Etcd::start(),
            addresses: [(); 3].map(|()| Address::free()),
            processes: Vec::new(),
        };
        for number in 0..3 {
            let process = trio.process(number).await;
            trio.processes.push(process);
        }
        trio
    }

    async fn process(&self, number: usize) -> Process {
        let endpoint = self.etcd.endpoint();
        let audit_log = self.audit_log(number);
        let mut arguments = vec!["--etcd", endpoint.as_str(), "--audit-log", &audit_log];
        for (other, address) in self.addresses.iter().enumerate() {
            if other != number {
                arguments.extend(["--peer", &address.mesh_api]);
            }
        }
        let (dir, platform) = (self.bed.dir.path(), &self.bed.platform);
        Process::start(dir, platform, &self.addresses[number], &arguments)
            .up(platform)
            .await
    }

    fn audit_log(&self, number: usize) -> String {
        let path = self.bed.dir.path().join(format!("audit-{number}.jsonl"));
        path.into_os_string().into_string().unwrap()
    }

    /// The codes of all refusals.
    fn refusals(&self) -> BTreeSet<String> {
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        (0..3)
            .map(|number| std::fs::read_to_string(self.audit_log(number)).unwrap())
            .flat_map(|log| log.lines().map(line).collect::<Vec<_>>())
            .filter(|it| it["event"] == "refused")
            .map(|it| it["code"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Starts one again that was killed.
    async fn restart(&mut self, number: usize) {
        let process = self.process(number).await;
        self.processes[number] = process;
    }

    fn user(&self, number: usize) -> User {
        User::new(&self.bed.platform, &self.addresses[number].user_api)
    }

    async fn until_all_are_at(&self, seq: u64, numbers: &[usize]) {
        for number in numbers {
            let user = self.user(*number);
            until("the same head", async || {
                let status = user.try_status().await.ok()?;
                let is_there = status.phase() == v1::Phase::Ready
                    && status.head.is_some_and(|head| head.seq >= seq);
                is_there.then_some(())
            })
            .await;
        }
    }
}

/// Agents that renew again and again, at whichever Coordinator answers.
struct Agents {
    tasks: Vec<tokio::task::JoinHandle<u64>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    renewed: AtomicUsize,
    is_over: AtomicBool,
}

impl Agents {
    fn start(trio: &Trio, count: usize) -> Self {
        let shared = Arc::<Shared>::default();
        let addresses = trio.addresses.each_ref().map(|it| it.mesh_api.clone());
        let tasks = (0..count).map(|number| {
            let mut addresses = addresses.clone();
            addresses.rotate_left(number % 3);
            let agent = Agent::new(&trio.bed.platform, "web");
            tokio::spawn(renew(agent, addresses, Arc::clone(&shared)))
        });
        Self {
            tasks: tasks.collect(),
            shared,
        }
    }

    async fn wait_for_more(&self, count: usize) {
        let wanted = self.shared.renewed.load(Ordering::Acquire) + count;
        let renewing = async {
            while self.shared.renewed.load(Ordering::Acquire) < wanted {
                assert!(
                    !self.tasks.iter().any(tokio::task::JoinHandle::is_finished),
                    "an agent has given up"
                );
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(3 * support::PATIENCE, renewing).await.unwrap();
    }

    /// The generation of the last certificate of each.
    async fn stop(self) -> Vec<u64> {
        self.shared.is_over.store(true, Ordering::Release);
        let mut last = Vec::new();
        for task in self.tasks {
            last.push(task.await.unwrap());
        }
        last
    }
}

async fn renew(mut agent: Agent, mut addresses: [String; 3], shared: Arc<Shared>) -> u64 {
    loop {
        let is_last = shared.is_over.load(Ordering::Acquire);
        match timeout(LONGEST, renew_once(&mut agent, &addresses[0])).await {
            Ok(Ok(generation)) => {
                shared.renewed.fetch_add(1, Ordering::AcqRel);
                if is_last {
                    return generation;
                }
                sleep(Duration::from_millis(200)).await;
            }
            // Not there, or without the seed: another one is asked.
            Ok(Err(failure)) if is_passing(&failure) => addresses.rotate_left(1),
            Err(_) => addresses.rotate_left(1),
            Ok(Err(failure)) => panic!("refused wrongly: {failure} ({})", failure.code()),
        }
    }
}

async fn renew_once(agent: &mut Agent, address: &str) -> Result<u64, Failure> {
    let mut session = agent.connect(address).await?;
    let request = v1::EnrolRequest {
        known: agent.known.clone(),
        ..session.request(&[""])
    };
    let answer = session.client.enrol(request).await;
    let answer = answer.map_err(Failure::Refused)?.into_inner();
    let generation = answer.certificates[0].generation;
    let state = answer.state.unwrap();
    agent.known.clone_from(&state.transition);
    let acknowledged = session.try_acknowledge(state.generation, generation).await;
    acknowledged.map_err(Failure::Refused)?;
    Ok(generation)
}

/// Whether a Coordinator can't, rather than doesn't want to.
fn is_passing(failure: &Failure) -> bool {
    match failure {
        Failure::Connection(_) => true,
        Failure::Refused(status) => match support::code(status) {
            "in-recovery" => true,
            "" => matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::Unknown | tonic::Code::Cancelled
            ),
            _ => false,
        },
    }
}

async fn until_done(user: &User) {
    until("the end of the rotation", async || {
        let status = user.try_status().await.ok()?;
        let rotation = status.rotation?;
        (rotation.stage() == v1::Stage::Done).then_some(())
    })
    .await;
}

/// A Coordinator that takes longer is as good as none.
const LONGEST: Duration = Duration::from_secs(5);
