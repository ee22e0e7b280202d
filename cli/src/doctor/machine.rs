//! What an agent needs of the machine, judged from what the kernel says of itself.
//!
//! Each judgement is a function of text, and [`findings`] reads the texts.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use agent_config::flags::Environment;
use kernel_tls::KernelVersion;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t};
use nix::unistd::geteuid;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::finding::Finding;
use super::programs;

/// One finding for each thing, in the order in which an agent would miss them.
pub(super) fn findings(version: Option<KernelVersion>) -> Vec<Finding> {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let hard_limit = |resource| getrlimit(resource).map(|(_, hard)| hard).ok();
    let mounts = text("/proc/self/mountinfo");
    let environment = Environment::of_process();
    let bpffs_path = environment.value("SEALWIRE_BPFFS").unwrap_or("/sys/fs/bpf");
    vec![
        kernel(version),
        btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        privileges(geteuid().is_root(), &text("/proc/self/status")),
        lockdown(&text("/sys/kernel/security/lockdown")),
        seccomp(&text("/proc/sys/kernel/seccomp/actions_avail")),
        bpffs(&mounts, bpffs_path),
        cgroup2(&mounts),
        open_files(hard_limit(Resource::RLIMIT_NOFILE)),
        memlock(hard_limit(Resource::RLIMIT_MEMLOCK)),
        local_ports(&text("/proc/sys/net/ipv4/ip_local_port_range")),
        programs::finding(),
        clock(SystemTime::now(), installed()),
    ]
}

fn kernel(version: Option<KernelVersion>) -> Finding {
    let name = "kernel";
    match version {
        Some(version) if version >= OLDEST => Finding::ok(name, version.to_string()),
        Some(version) => Finding::fail(
            name,
            version.to_string(),
            "update it: Linux 6.1 is the oldest that works",
        ),
        None => Finding::warn(
            name,
            "its version can't be told",
            "make sure that it is Linux 6.1 or newer",
        ),
    }
}

fn btf(is_there: bool) -> Finding {
    let name = "type information (BTF)";
    if is_there {
        Finding::ok(name, "/sys/kernel/btf/vmlinux")
    } else {
        Finding::fail(
            name,
            "no /sys/kernel/btf/vmlinux",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, as those of distributions are",
        )
    }
}

/// An agent runs as root; inside a container even root may lack what it needs.
fn privileges(is_root: bool, status: &str) -> Finding {
    let name = "privileges";
    let held = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let Some(held) = held else {
        return Finding::warn(
            name,
            "unknown: no CapEff in /proc/self/status",
            "mount /proc",
        );
    };
    let missing: Vec<&str> = NEEDED
        .iter()
        .filter(|(_, bit)| held & (1 << bit) == 0)
        .map(|(capability, _)| *capability)
        .collect();
    if !is_root {
        Finding::fail(
            name,
            "not root",
            "run this as root, as the agent runs: some findings are about who asks",
        )
    } else if missing.is_empty() {
        let capabilities = NEEDED.map(|(capability, _)| capability);
        Finding::ok(name, format!("root with {}", capabilities.join(", ")))
    } else {
        Finding::fail(
            name,
            format!("root without {}", missing.join(", ")),
            "run it outside of the container, or give the container these capabilities",
        )
    }
}

/// <https://man7.org/linux/man-pages/man7/kernel_lockdown.7.html>
fn lockdown(text: &str) -> Finding {
    let name = "lockdown";
    let mode = text
        .split_once('[')
        .and_then(|(_, rest)| Some(rest.split_once(']')?.0));
    match mode {
        None => Finding::ok(
            name,
            "none: this kernel has no such mode, or securityfs is not mounted",
        ),
        Some("confidentiality") => Finding::warn(
            name,
            "confidentiality: eBPF may not read the kernel's memory",
            "leave local_acceleration off, or boot with lockdown=integrity",
        ),
        Some(mode) => Finding::ok(name, mode),
    }
}

/// By such filters the agent denies itself what serving connections takes no use of, or does not start.
fn seccomp(actions: &str) -> Finding {
    let name = "seccomp";
    if actions.split_whitespace().any(|action| action == "errno") {
        Finding::ok(name, "filters system calls")
    } else {
        Finding::fail(
            name,
            "no filters: no `errno` in /proc/sys/kernel/seccomp/actions_avail",
            "use a kernel built with CONFIG_SECCOMP_FILTER=y, as those of distributions are",
        )
    }
}

fn bpffs(mounts: &str, wanted: &str) -> Finding {
    let name = "BPF file system";
    let places = mounted(mounts, "bpf");
    if places.contains(&wanted) {
        return Finding::ok(name, format!("at {wanted}"));
    }
    match places.first() {
        None => Finding::warn(
            name,
            format!("not mounted at {wanted}"),
            format!(
                "an agent mounts it; to have it for longer than the agent's namespace: mount -t bpf bpf {wanted}"
            ),
        ),
        Some(elsewhere) => Finding::warn(
            name,
            format!("at {elsewhere}, not at {wanted}"),
            format!("start agents with --bpffs {elsewhere}, or they mount another one"),
        ),
    }
}

fn cgroup2(mounts: &str) -> Finding {
    let name = "cgroup2";
    match mounted(mounts, "cgroup2").first() {
        Some(place) if mounted(mounts, "cgroup").is_empty() => {
            Finding::ok(name, format!("at {place}"))
        }
        Some(place) => Finding::ok(
            name,
            format!(
                "at {place}, beside cgroups of version 1: workloads are directories of {place}"
            ),
        ),
        None => Finding::fail(
            name,
            "not mounted",
            "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
    }
}

/// An intercepted connection is two sockets of the agent.
fn open_files(hard_limit: Option<rlim_t>) -> Finding {
    let name = "open files";
    let advice = "raise the hard limit of the agent's service: LimitNOFILE=1048576";
    match hard_limit {
        None => Finding::warn(name, "the hard limit can't be told", advice),
        Some(RLIM_INFINITY) => Finding::ok(name, "no hard limit"),
        Some(limit) => {
            let detail = format!("hard limit {limit}: about {} connections", limit / 2);
            if limit < 1024 {
                Finding::fail(name, detail, advice)
            } else if limit < 65_536 {
                Finding::warn(name, detail, advice)
            } else {
                Finding::ok(name, detail)
            }
        }
    }
}

/// Minimum kernel version for this not to matter: 5.11, which counts eBPF's memory by cgroup.
fn memlock(hard_limit: Option<rlim_t>) -> Finding {
    let limit = match hard_limit {
        None => "unknown".to_owned(),
        Some(RLIM_INFINITY) => "no limit".to_owned(),
        Some(limit) => format!("{} KiB", limit / 1024),
    };
    Finding::ok(
        "locked memory",
        format!("{limit}; kernels since 5.11 count the memory of eBPF by cgroup instead"),
    )
}

/// The agent's own listeners take such ports, and so do connections of programs that name none.
fn local_ports(range: &str) -> Finding {
    let name = "local ports";
    let advice =
        "sysctl -w net.ipv4.ip_local_port_range='32768 60999', in each workload's namespace, too";
    let ends: Vec<u16> = range
        .split_whitespace()
        .filter_map(|end| end.parse().ok())
        .collect();
    let [first, last] = ends[..] else {
        return Finding::warn(name, "net.ipv4.ip_local_port_range can't be told", advice);
    };
    let count = u32::from(last).saturating_sub(u32::from(first)) + 1;
    let detail = format!("{first} to {last}: {count}");
    if count < 10_000 {
        Finding::warn(name, detail, advice)
    } else {
        Finding::ok(name, detail)
    }
}

/// Certificates are judged by this clock. It can't be earlier than the day on which this program was
/// put here.
fn clock(now: SystemTime, installed: Option<SystemTime>) -> Finding {
    let name = "clock";
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let utc = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(seconds.as_secs());
    let detail = utc.format(&Rfc3339).unwrap_or_default();
    if installed.is_some_and(|installed| now < installed) {
        Finding::fail(
            name,
            format!("{detail}: earlier than this program's file"),
            "set the clock, and keep it so with NTP: certificates are refused by a wrong one",
        )
    } else {
        Finding::ok(name, detail)
    }
}

fn installed() -> Option<SystemTime> {
    fs::metadata("/proc/self/exe").ok()?.modified().ok()
}

/// Where file systems of this type are mounted, from /proc/self/mountinfo.
fn mounted<'a>(mounts: &'a str, kind: &str) -> Vec<&'a str> {
    let place = |line: &'a str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_kind = file_system.split(' ').next() == Some(kind);
        mount.split(' ').nth(4).filter(|_| is_kind)
    };
    mounts.lines().filter_map(place).collect()
}

const OLDEST: KernelVersion = KernelVersion::new(6, 1, 0);

/// What an agent must be allowed to do, with the bits of linux/capability.h: enter namespaces and
/// mount; attach to sockets and devices; load programs.
const NEEDED: [(&str, u32); 3] = [
    ("CAP_SYS_ADMIN", 21),
    ("CAP_NET_ADMIN", 12),
    ("CAP_BPF", 39),
];

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    const MOUNTS: &str = "\
24 30 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
25 24 0:23 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
26 24 0:24 / /sys/fs/cgroup/cpu rw,nosuid shared:11 - cgroup cgroup rw,cpu
27 30 0:25 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700
";

    #[test]
    fn kernels_older_than_6_1_do_not_do() {
        let state = |version| kernel(version).state;
        assert_eq!(state(Some(KernelVersion::new(6, 1, 0))), State::Ok);
        assert_eq!(state(Some(KernelVersion::new(5, 15, 200))), State::Fail);
        assert_eq!(state(None), State::Warn);
        assert_eq!(btf(true).state, State::Ok);
        assert_eq!(btf(false).state, State::Fail);
    }

    #[test]
    fn root_in_a_container_is_told_what_it_lacks() {
        let all = "CapInh:\t0\nCapEff:\t000001ffffffffff\n";
        let docker = "CapEff:\t00000000a80425fb\n";
        assert_eq!(privileges(true, all).state, State::Ok);
        assert_eq!(privileges(false, all).state, State::Fail);
        let found = privileges(true, docker);
        assert_eq!(found.state, State::Fail);
        assert_eq!(
            found.detail,
            "root without CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_BPF"
        );
        assert_eq!(privileges(true, "").state, State::Warn);
    }

    #[test]
    fn lockdown_matters_where_it_keeps_memory_secret() {
        assert_eq!(lockdown("").state, State::Ok);
        let integrity = lockdown("none [integrity] confidentiality\n");
        assert_eq!(
            (integrity.state, integrity.detail.as_str()),
            (State::Ok, "integrity")
        );
        assert_eq!(
            lockdown("none integrity [confidentiality]\n").state,
            State::Warn
        );
    }

    #[test]
    fn without_filters_of_system_calls_no_agent_runs() {
        let actions = "kill_process kill_thread trap errno user_notif trace log allow\n";
        assert_eq!(seccomp(actions).state, State::Ok);
        assert_eq!(seccomp("").state, State::Fail);
    }

    #[test]
    fn file_systems_are_found_where_they_are_mounted() {
        assert_eq!(bpffs(MOUNTS, "/sys/fs/bpf").state, State::Ok);
        assert_eq!(bpffs("", "/sys/fs/bpf").state, State::Warn);
        let elsewhere = bpffs(MOUNTS, "/run/bpf");
        assert!(elsewhere.advice.unwrap().contains("--bpffs /sys/fs/bpf"));
        let both = cgroup2(MOUNTS);
        assert_eq!(both.state, State::Ok);
        assert!(
            both.detail.contains("/sys/fs/cgroup/unified, beside"),
            "{}",
            both.detail
        );
        assert_eq!(cgroup2("").state, State::Fail);
    }

    #[test]
    fn limits_are_judged_by_the_connections_they_leave() {
        assert_eq!(open_files(Some(1023)).state, State::Fail);
        assert_eq!(open_files(Some(1024)).state, State::Warn);
        assert_eq!(open_files(Some(65_536)).state, State::Ok);
        assert_eq!(open_files(Some(RLIM_INFINITY)).state, State::Ok);
        assert_eq!(memlock(Some(64 << 10)).state, State::Ok);
        assert_eq!(local_ports("32768\t60999\n").state, State::Ok);
        assert_eq!(local_ports("32768\t33000\n").state, State::Warn);
        assert_eq!(local_ports("60000\t0\n").state, State::Warn);
        assert_eq!(local_ports("").state, State::Warn);
    }

    #[test]
    fn a_clock_earlier_than_the_program_is_wrong() {
        let now = SystemTime::now();
        let day = Duration::from_hours(24);
        assert_eq!(clock(now, Some(now - day)).state, State::Ok);
        assert_eq!(clock(now, None).state, State::Ok);
        assert_eq!(clock(now, Some(now + day)).state, State::Fail);
        assert_eq!(clock(SystemTime::UNIX_EPOCH, Some(now)).state, State::Fail);
    }
}
