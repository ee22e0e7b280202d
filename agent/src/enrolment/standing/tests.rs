use std::time::SystemTime;

use super::*;
use crate::enrolment::testing::{Deployment, spiffe_id};

const DAY: Duration = Duration::from_hours(24);

/// An agent, its Coordinator, and a clock.
struct Bed {
    deployment: Deployment,
    standing: Standing,
    now: Now,
}

impl Bed {
    fn new(wanted: &[Option<&str>]) -> Self {
        let wanted = wanted.iter().map(|name| name.map(spiffe_id)).collect();
        let memory = Memory::open(None).unwrap();
        Self {
            deployment: Deployment::new(),
            standing: Standing::new(memory, SimulatedCertificates::Refused, wanted),
            now: Now {
                instant: Instant::now(),
                // The certificates begin in the second in which they are made, which is to come.
                calendar: SystemTime::now() + Duration::from_mins(1),
            },
        }
    }

    fn learn(&mut self, state: v1::MeshState) {
        self.standing.learn(Some(state), self.now, 0.5).unwrap();
    }

    /// Certificates for everybody who may ask, named so, under the mesh CA of this generation.
    fn obtain(&mut self, names: &[&str], generation: u64) -> Result<(), AnswerError> {
        self.obtain_for(names, generation, 2)
    }

    /// The same, of a Coordinator whose clock makes them valid for this many days.
    fn obtain_for(
        &mut self,
        names: &[&str],
        generation: u64,
        days: i32,
    ) -> Result<(), AnswerError> {
        let asked = self.standing.ask().unwrap();
        let certificates = asked.iter().zip(names).map(|(asked, name)| {
            let key = asked.request().public_key;
            self.deployment.issue_for(name, &key, generation, days)
        });
        let certificates = certificates.collect();
        self.standing.obtain(asked, certificates, self.now, 0.5)
    }

    fn pass(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.calendar += time;
    }

    fn decide(&self) -> Decision {
        self.standing.decide(self.now)
    }

    /// With the mesh CAs 1 and 2.
    fn rotating(&self, seq: u64, required: u64, deadline: Option<Duration>) -> v1::MeshState {
        let deadline = deadline.map_or(0, |left| {
            let at = self.now.calendar + left;
            let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap();
            since.as_secs()
        });
        v1::MeshState {
            mesh_cas: vec![self.deployment.mesh_ca(2), self.deployment.mesh_ca(1)],
            generation: 2,
            required_generation: required,
            deadline,
            ..self.deployment.state(seq)
        }
    }

    fn without(&self, seq: u64, name: &str) -> v1::MeshState {
        let mut state = self.deployment.state(seq);
        let id = spiffe_id(name).to_string();
        state.access.retain(|it| it.spiffe_id != id);
        state
    }
}

fn wait(decision: Decision) -> Duration {
    match decision {
        Decision::Wait(wait) => wait,
        Decision::Enrol(reason) => panic!("{reason:?}"),
    }
}

#[test]
fn without_a_certificate_one_is_asked_for_and_with_one_at_two_thirds_of_its_life() {
    let mut bed = Bed::new(&[None]);
    assert_eq!(bed.decide(), Decision::Enrol(Reason::NoCertificate));
    assert_eq!(bed.standing.acknowledgement(), None);
    bed.learn(bed.deployment.state(1));
    bed.obtain(&["web"], 1).unwrap();
    assert_eq!(bed.standing.acknowledgement(), Some((1, 1)));
    assert!(wait(bed.decide()) <= LONGEST_WAIT);
    bed.pass(DAY);
    assert!(matches!(bed.decide(), Decision::Wait(_)));
    bed.pass(DAY / 2);
    assert_eq!(bed.decide(), Decision::Enrol(Reason::Age));
}

#[test]
fn a_new_ca_is_trusted_at_once_and_asked_of_when_it_is_required() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.deployment.state(1));
    bed.obtain(&["web"], 1).unwrap();
    let Some(Use::Certificate(before)) = bed.standing.use_of(0) else {
        panic!("nothing to use")
    };
    bed.deployment.add_mesh_ca(2);
    bed.learn(bed.rotating(2, 1, None));
    let Some(Use::Certificate(after)) = bed.standing.use_of(0) else {
        panic!("nothing to use")
    };
    assert!(!Arc::ptr_eq(&before.tls, &after.tls));
    assert_eq!(bed.standing.acknowledgement(), Some((2, 1)));
    assert!(matches!(bed.decide(), Decision::Wait(_)));

    bed.learn(bed.rotating(3, 2, Some(Duration::from_mins(5))));
    let spread = wait(bed.decide());
    assert_eq!(spread, Duration::from_secs(5));
    bed.pass(spread);
    assert_eq!(bed.decide(), Decision::Enrol(Reason::OldGeneration));
    bed.obtain(&["web"], 2).unwrap();
    assert_eq!(bed.standing.acknowledgement(), Some((2, 2)));
    assert!(matches!(bed.decide(), Decision::Wait(_)));
}

#[test]
fn the_same_state_again_changes_nothing_that_is_in_use() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.deployment.state(1));
    bed.obtain(&["web"], 1).unwrap();
    let before = bed.standing.use_of(0).unwrap();
    bed.learn(bed.deployment.state(1));
    assert!(before.is_same(&bed.standing.use_of(0).unwrap()));
    bed.learn(bed.without(2, "web"));
    assert!(!before.is_same(&bed.standing.use_of(0).unwrap()));
}

#[test]
fn replacement_is_spread_over_a_small_part_of_what_is_left_and_at_most_ten_seconds() {
    for (left, most) in [
        (None, 200),
        (Some(0), 200),
        (Some(5), 250),
        (Some(20), 1_000),
        (Some(300), 10_000),
        (Some(86_400), 10_000),
    ] {
        let spread = spread(left.map(Duration::from_secs));
        assert_eq!(spread.as_millis(), most, "{left:?}");
    }
}

#[test]
fn a_certificate_of_a_withdrawn_ca_is_not_used_and_replaced_at_once() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.deployment.state(1));
    bed.obtain(&["web"], 1).unwrap();
    bed.deployment.add_mesh_ca(2);
    let strict = v1::MeshState {
        mesh_cas: vec![bed.deployment.mesh_ca(2)],
        ..bed.rotating(2, 2, None)
    };
    bed.learn(strict.clone());
    assert!(matches!(bed.standing.use_of(0), Some(Use::Nothing(_))));
    assert!(wait(bed.decide()) <= AT_ONCE);
    bed.pass(AT_ONCE);
    assert_eq!(bed.decide(), Decision::Enrol(Reason::OldGeneration));
    bed.obtain(&["web"], 1).unwrap_err();
    bed.obtain(&["web"], 2).unwrap();
    assert!(matches!(bed.standing.use_of(0), Some(Use::Certificate(_))));
    bed.learn(strict);
    assert!(matches!(bed.standing.use_of(0), Some(Use::Certificate(_))));
}

#[test]
fn a_workload_that_the_agent_may_not_act_for_any_more_is_shut_out_and_not_asked_for() {
    let mut bed = Bed::new(&[Some("web"), Some("db")]);
    bed.learn(bed.deployment.state(1));
    bed.obtain(&["web", "db"], 1).unwrap();
    bed.learn(bed.without(2, "db"));
    let Some(Use::Certificate(db)) = bed.standing.use_of(1) else {
        panic!("nothing to use")
    };
    assert!(!db.membership.lists(&spiffe_id("db")));
    let Some(Use::Certificate(web)) = bed.standing.use_of(0) else {
        panic!("nothing to use")
    };
    assert!(web.membership.lists(&spiffe_id("web")));
    let asked = bed.standing.ask().unwrap();
    assert_eq!(asked.iter().map(|it| it.workload).collect::<Vec<_>>(), [0]);
    bed.learn(bed.deployment.state(3));
    let Some(Use::Certificate(db)) = bed.standing.use_of(1) else {
        panic!("nothing to use")
    };
    assert!(db.membership.lists(&spiffe_id("db")));
}

#[test]
fn a_workload_that_the_agent_never_might_act_for_is_told_so() {
    let mut bed = Bed::new(&[Some("web"), Some("other")]);
    assert!(bed.standing.use_of(1).is_none());
    bed.learn(bed.deployment.state(1));
    assert_eq!(bed.standing.ask().unwrap().len(), 1);
    assert!(bed.standing.lacks_certificate(0) && !bed.standing.lacks_certificate(1));
    let Some(Use::Nothing(why)) = bed.standing.use_of(1) else {
        panic!("something to use")
    };
    assert!(why.to_string().contains("list it under Hosts"), "{why}");
    bed.obtain(&["web"], 1).unwrap();
    assert!(matches!(bed.decide(), Decision::Wait(_)));
}

#[test]
fn where_the_policy_leaves_the_manifest_everybody_is_shut_out_until_it_returns() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.deployment.state(1));
    bed.obtain(&["web"], 1).unwrap();
    bed.standing.withdraw();
    let lists = |bed: &Bed| match bed.standing.use_of(0) {
        Some(Use::Certificate(issued)) => issued.membership.lists(issued.identity()),
        _ => panic!("nothing to use"),
    };
    assert!(!lists(&bed));
    bed.learn(bed.deployment.state(2));
    assert!(lists(&bed));
}

#[test]
fn an_agent_that_the_manifest_names_anew_asks_for_its_new_name() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.without(1, "db"));
    bed.obtain(&["web"], 1).unwrap();
    bed.learn(bed.without(2, "web"));
    assert_eq!(bed.decide(), Decision::Enrol(Reason::OtherIdentity));
    bed.obtain(&["db"], 1).unwrap();
    assert!(matches!(bed.decide(), Decision::Wait(_)));
}

#[test]
fn an_answer_that_is_wrong_is_refused_as_a_whole() {
    let mut bed = Bed::new(&[Some("web"), Some("db")]);
    let mut unlisted = bed.deployment.state(1);
    unlisted.members.retain(|it| !it.ends_with("/db"));
    bed.learn(bed.deployment.state(1));
    let answer = bed.obtain(&["web", "web"], 1).unwrap_err();
    assert!(
        matches!(answer, AnswerError::OtherIdentity { .. }),
        "{answer}"
    );
    let answer = bed.obtain(&["web"], 1).unwrap_err();
    assert!(
        matches!(answer, AnswerError::Count { got: 1, want: 2 }),
        "{answer}"
    );
    bed.learn(unlisted);
    let answer = bed.obtain(&["web", "db"], 1).unwrap_err();
    assert!(matches!(answer, AnswerError::NoMember { .. }), "{answer}");
    assert!(bed.standing.lacks_certificate(0) && bed.standing.lacks_certificate(1));
}

#[test]
fn a_certificate_that_is_not_for_our_key_or_not_what_is_said_of_it_is_refused() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.deployment.state(1));
    let refused = |bed: &mut Bed, change: &dyn Fn(&Deployment, &mut v1::Certificate)| {
        let asked = bed.standing.ask().unwrap();
        let key = asked[0].request().public_key;
        let mut certificate = bed.deployment.issue("web", &key, 1);
        change(&bed.deployment, &mut certificate);
        let answer = bed.standing.obtain(asked, vec![certificate], bed.now, 0.5);
        answer.unwrap_err()
    };
    let other = WorkloadKey::generate().unwrap();
    let error = refused(&mut bed, &|deployment, certificate| {
        *certificate = deployment.issue("web", other.spki(), 1);
    });
    assert!(
        matches!(
            error,
            AnswerError::Credentials(CredentialsError::KeyMismatch { .. })
        ),
        "{error}"
    );
    let error = refused(&mut bed, &|_, certificate| {
        certificate.spiffe_id = spiffe_id("db").to_string();
    });
    assert!(
        matches!(error, AnswerError::CertificateOfOther { .. }),
        "{error}"
    );
    let error = refused(&mut bed, &|_, certificate| certificate.generation = 2);
    assert!(matches!(error, AnswerError::Generation { .. }), "{error}");
    let error = refused(&mut bed, &|_, certificate| certificate.spiffe_id.clear());
    assert!(matches!(error, AnswerError::SpiffeId { .. }), "{error}");
    let other_mesh = Deployment::new();
    let error = refused(&mut bed, &|_, certificate| {
        certificate.chain = other_mesh.issue("web", other.spki(), 1).chain;
    });
    assert!(matches!(error, AnswerError::Credentials(_)), "{error}");
    assert!(bed.standing.lacks_certificate(0));
}

#[test]
fn a_state_that_is_not_believed_changes_nothing() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.deployment.state(2));
    bed.obtain(&["web"], 1).unwrap();
    for state in [
        None,
        Some(bed.deployment.state(1)),
        Some(bed.deployment.fork(2)),
        Some(Deployment::new().state(9)),
    ] {
        bed.standing.learn(state, bed.now, 0.5).unwrap_err();
    }
    assert_eq!(bed.standing.state().unwrap().head().seq, 2);
    assert!(matches!(bed.standing.use_of(0), Some(Use::Certificate(_))));
}

#[test]
fn a_certificate_that_is_not_valid_by_this_clock_is_refused_but_used_once_the_clock_is_right() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.deployment.state(1));
    bed.now.calendar -= DAY;
    let error = bed.obtain(&["web"], 1).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, AnswerError::Clocks { .. }), "{said}");
    for time in ["valid from 20", "until 20", "clock says 20"] {
        assert!(said.contains(time), "{said}");
    }
    assert!(!bed.standing.is_valid(bed.now));
    assert_eq!(bed.decide(), Decision::Enrol(Reason::Age));

    bed.now.calendar += DAY;
    assert!(bed.standing.is_valid(bed.now));
    assert!(matches!(bed.standing.use_of(0), Some(Use::Certificate(_))));
    bed.obtain(&["web"], 1).unwrap();
    assert!(matches!(bed.decide(), Decision::Wait(_)));
}

#[test]
fn a_certificate_that_is_not_valid_by_this_clock_replaces_none_that_is() {
    let mut bed = Bed::new(&[None]);
    bed.learn(bed.deployment.state(1));
    bed.obtain(&["web"], 1).unwrap();
    let expires = bed.standing.expires();
    bed.obtain_for(&["web"], 1, -1).unwrap_err();
    assert_eq!(bed.standing.expires(), expires);

    // One that peers refuse is no better than one that they can't take yet.
    bed.deployment.add_mesh_ca(2);
    bed.learn(v1::MeshState {
        mesh_cas: vec![bed.deployment.mesh_ca(2)],
        ..bed.rotating(2, 2, None)
    });
    bed.obtain_for(&["web"], 2, -1).unwrap_err();
    assert_ne!(bed.standing.expires(), expires);
}
