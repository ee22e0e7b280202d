//! Other tools' eBPF programs in the way of connections, as far as `bpftool` shows them.

use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::finding::Finding;
use crate::admin::Shown;

/// Whether others redirect what programs connect to.
pub(super) fn finding() -> Finding {
    match bpftool().and_then(|tree| others(&tree)) {
        Ok(others) => judge(&others),
        Err(error) => Finding::warn(
            NAME,
            format!("unknown: {error:#}"),
            "install bpftool, and run this as root",
        ),
    }
}

fn judge(others: &BTreeSet<String>) -> Finding {
    if others.is_empty() {
        return Finding::ok(NAME, "none redirects connections of a cgroup");
    }
    let names: Vec<&str> = others.iter().map(String::as_str).collect();
    Finding::warn(
        NAME,
        format!("others redirect connections, too: {}", names.join(", ")),
        "if a workload is below one of these cgroups, rules see the destination that the other tool \
         leaves: take the workload out of its reach (Cilium: socketLB.hostNamespaceOnly=true)",
    )
}

/// The programs at `connect()` that are not an agent's, each with its cgroup.
fn others(tree: &str) -> anyhow::Result<BTreeSet<String>> {
    let cgroups: Vec<Cgroup> = serde_json::from_str(tree).context("bpftool's answer")?;
    let mut others = BTreeSet::new();
    for Cgroup { cgroup, programs } in &cgroups {
        for Program { attach_type, name } in programs {
            let is_connect = CONNECT.contains(&attach_type.as_str());
            if is_connect && !OURS.contains(&name.as_str()) {
                others.insert(format!("{} at {}", name.as_str(), cgroup.as_str()));
            }
        }
    }
    Ok(others)
}

/// What `bpftool -j cgroup tree` prints.
fn bpftool() -> anyhow::Result<String> {
    // A file takes any amount, where a pipe that nobody empties would stop bpftool.
    let mut output = tempfile::tempfile()?;
    let mut child = Command::new("bpftool")
        .args(["-j", "cgroup", "tree"])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null())
        .spawn()
        .context("bpftool can't be run")?;
    let deadline = Instant::now() + LONGEST;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("bpftool took longer than {} s", LONGEST.as_secs());
        }
        sleep(Duration::from_millis(10));
    };
    if !status.success() {
        bail!("bpftool ended with {status}");
    }
    let mut text = String::new();
    output.rewind()?;
    output.read_to_string(&mut text)?;
    Ok(text)
}

#[derive(Deserialize)]
struct Cgroup {
    cgroup: Shown,
    programs: Vec<Program>,
}

#[derive(Deserialize)]
struct Program {
    attach_type: Shown,
    name: Shown,
}

const NAME: &str = "other eBPF programs";

/// Where programs meet `connect()`, as newer and older bpftools call it.
const CONNECT: [&str; 4] = [
    "cgroup_inet4_connect",
    "cgroup_inet6_connect",
    "connect4",
    "connect6",
];

/// The agent's own, in ebpf/src/connect.rs.
const OURS: [&str; 2] = ["connect4", "connect6"];

/// A node with thousands of cgroups takes a second.
const LONGEST: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    #[test]
    fn programs_of_others_are_named_with_their_cgroups() {
        let tree = r#"[
            {"cgroup": "/sys/fs/cgroup", "programs": [
                {"id": 1, "attach_type": "cgroup_inet4_connect", "attach_flags": "multi", "name": "cil_sock4_connect"},
                {"id": 2, "attach_type": "cgroup_device", "attach_flags": "multi", "name": ""}]},
            {"cgroup": "/sys/fs/cgroup/web", "programs": [
                {"id": 3, "attach_type": "cgroup_inet4_connect", "attach_flags": "multi", "name": "connect4"}]}]"#;
        let found = others(tree).unwrap();
        assert_eq!(
            found,
            ["cil_sock4_connect at /sys/fs/cgroup".to_owned()].into()
        );
        assert_eq!(judge(&found).state, State::Warn);
        assert_eq!(judge(&others("[]").unwrap()).state, State::Ok);
        assert!(others("{}").is_err());
    }
}
