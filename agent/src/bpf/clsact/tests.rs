//! The filter on devices of namespaces that the tests make: for root, on kernels with clsact, newer
//! ones too.

mod bed;

use aya::programs::{Program, SchedClassifier};

use self::bed::{Bed, DEVICE, Guard, bed};
use super::*;
use crate::bpf::DeviceHook;

const EGRESS: [&str; 2] = ["dev", DEVICE];

#[test]
fn without_a_guard_segments_and_datagrams_arrive() {
    let Some(bed) = bed() else { return };
    bed.send(SENT);
    assert!(bed.segments_received() > 0);
    assert!(bed.datagrams_received() > 0);
}

#[test]
fn a_filter_drops_unsealed_segments_and_outlives_its_agent() {
    let Some(bed) = bed() else { return };
    bed.agent().guard().unwrap();
    bed.send(SENT);
    assert_eq!(bed.segments_received(), 0);
    assert!(bed.datagrams_received() > 0);
}

#[test]
fn no_segment_passes_while_agents_replace_one_another() {
    let Some(bed) = bed() else { return };
    bed.agent().guard().unwrap();
    let sent = bed.send_during(|| {
        let mut programs = HashSet::new();
        for _ in 0..REPLACEMENTS {
            let mut agent = bed.agent();
            agent.guard().unwrap();
            let [filter] = bed.filters().try_into().unwrap();
            assert_eq!(filter.program, Some(agent.program_id()));
            programs.insert(filter.program);
        }
        assert_eq!(programs.len(), REPLACEMENTS);
    });
    assert!(sent > REPLACEMENTS, "only {sent} were sent");
    assert_eq!(bed.segments_received(), 0);
}

#[test]
fn guarding_again_changes_nothing() {
    let Some(bed) = bed() else { return };
    let mut agent = bed.agent();
    agent.guard().unwrap();
    let before = bed.filters();
    agent.guard().unwrap();
    assert_eq!(bed.filters(), before);
}

#[test]
fn a_filter_that_somebody_removed_is_put_back() {
    let Some(bed) = bed() else { return };
    let mut agent = bed.agent();
    for what in [["filter", "del"], ["qdisc", "del"]] {
        agent.guard().unwrap();
        let place = if what[0] == "filter" {
            "egress"
        } else {
            "clsact"
        };
        bed.tc(&[&what[..], &EGRESS, &[place]].concat()).unwrap();
        assert_eq!(bed.filters(), []);
        agent.guard().unwrap();
        bed.send(SENT);
        assert_eq!(bed.segments_received(), 0, "after {what:?}");
    }
}

#[test]
fn an_agent_that_died_while_replacing_leaves_one_filter_to_the_next() {
    let Some(bed) = bed() else { return };
    bed.agent().guard().unwrap();
    // As if the last step had not been done: the filter's program is pinned as the next one only.
    let pins = FilterPins::new(&bed.links(), bed.device().index);
    fs::rename(&pins.current, &pins.next).unwrap();
    let mut agent = bed.agent();
    agent.guard().unwrap();
    let [filter] = bed.filters().try_into().unwrap();
    assert_eq!(filter.program, Some(agent.program_id()));
}

#[test]
fn detaching_removes_the_filter_and_the_qdisc_that_was_made_for_it() {
    let Some(bed) = bed() else { return };
    bed.agent().guard().unwrap();
    bed.detach();
    assert_eq!(bed.filters(), []);
    assert_eq!(hook_of(&bed), None);
    bed.send(SENT);
    assert!(bed.segments_received() > 0);
}

#[test]
fn detaching_removes_the_filters_of_all_that_served_the_namespace() {
    let Some(bed) = bed() else { return };
    bed.agent().guard().unwrap();
    bed.agent_of("other").guard().unwrap();
    assert_eq!(bed.filters().len(), 2);
    bed.detach();
    assert_eq!(hook_of(&bed), None);
}

#[test]
fn filters_and_qdiscs_of_others_stay() {
    let Some(bed) = bed() else { return };
    bed.tc(&[&["qdisc", "add"], &EGRESS[..], &["clsact"]].concat())
        .unwrap();
    bed.agent().guard().unwrap();
    bed.detach();
    assert_eq!(hook_of(&bed).as_deref(), Some("clsact"));

    let Some(bed) = bed::bed() else { return };
    bed.agent().guard().unwrap();
    bed.foreign_filter("egress", "50", "all");
    bed.detach();
    assert_eq!(bed.filters().len(), 1);

    let Some(bed) = bed::bed() else { return };
    bed.agent().guard().unwrap();
    bed.foreign_filter("ingress", "50", "all");
    bed.detach();
    assert_eq!(hook_of(&bed).as_deref(), Some("clsact"));
}

#[test]
fn a_filter_of_somebody_else_after_the_guard_is_no_matter() {
    let Some(bed) = bed() else { return };
    bed.tc(&[&["qdisc", "add"], &EGRESS[..], &["clsact"]].concat())
        .unwrap();
    // The youngest of one priority runs first, so this one comes after the guard as well.
    bed.foreign_filter("egress", "1", "all");
    bed.foreign_filter("egress", "2", "all");
    bed.agent().guard().unwrap();
    bed.send(SENT);
    assert_eq!(bed.segments_received(), 0);
}

#[test]
fn a_filter_of_somebody_else_before_the_guard_is_found() {
    let Some(bed) = bed() else { return };
    let mut agent = bed.agent();
    agent.guard().unwrap();
    bed.foreign_filter("egress", "1", "all");
    let found = agent.guard().unwrap_err();
    assert!(matches!(found, ClsactError::Preceded { .. }), "{found}");
    // What it is for: this one lets everything pass.
    bed.send(SENT);
    assert!(bed.segments_received() > 0);
    // Nor does a new agent come before it unseen.
    let found = bed.agent().guard().unwrap_err();
    assert!(matches!(found, ClsactError::Preceded { .. }), "{found}");
}

#[test]
fn the_guards_of_other_workloads_and_instances_may_come_first() {
    let Some(bed) = bed() else { return };
    let mut first = bed.agent();
    first.guard().unwrap();
    bed.agent_of("other").guard().unwrap();
    bed.agent_of_instance("another").guard().unwrap();
    assert_eq!(bed.filters().len(), 3);
    first.guard().unwrap();
}

#[test]
fn a_place_that_another_sort_of_filter_has_is_refused() {
    let Some(bed) = bed() else { return };
    bed.tc(&[&["qdisc", "add"], &EGRESS[..], &["clsact"]].concat())
        .unwrap();
    bed.foreign_filter("egress", "1", "ip");
    let found = bed.agent().guard().unwrap_err();
    let expected = libc::ETH_P_IP as u16;
    assert!(
        matches!(found, ClsactError::PriorityTaken { protocol, .. } if protocol == expected),
        "{found}"
    );
}

#[test]
fn an_ingress_qdisc_is_refused_as_it_has_no_egress_side() {
    let Some(bed) = bed() else { return };
    bed.tc(&[&["qdisc", "add"], &EGRESS[..], &["ingress"]].concat())
        .unwrap();
    let found = bed.agent().guard().unwrap_err();
    assert!(matches!(found, ClsactError::OtherQdisc(_)), "{found}");
    assert_eq!(bed.filters(), []);
}

#[test]
fn tcx_is_used_where_the_kernel_has_it() {
    let Some(_bed) = bed() else { return };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().unwrap().parse::<u32>().unwrap();
    let expected = if (number(), number()) >= (6, 6) {
        DeviceHook::Tcx
    } else {
        DeviceHook::Clsact
    };
    assert_eq!(DeviceHook::of_kernel().unwrap(), expected);
}

/// How many segments and datagrams are sent where some should arrive, or none.
const SENT: usize = 20;
const REPLACEMENTS: usize = 25;

fn hook_of(bed: &Bed) -> Option<String> {
    let index = bed.device().index;
    bed.inside(|| hook_qdisc(index)).unwrap()
}

impl Guard {
    fn guard(&mut self) -> Result<(), ClsactError> {
        let (links, device) = (self.links.clone(), self.device.clone());
        let netns = self.netns.clone();
        let program = self.program();
        netns.run(|| Ok(guard(program, &links, &device))).unwrap()
    }

    fn program_id(&mut self) -> u32 {
        self.program().info().unwrap().id()
    }

    fn program(&mut self) -> &mut SchedClassifier {
        match self.object.program_mut("guard_device") {
            Some(Program::SchedClassifier(program)) => program,
            other => panic!("{other:?}"),
        }
    }
}
