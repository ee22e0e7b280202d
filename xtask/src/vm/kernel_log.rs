//! What in a kernel's log makes a run a failed one.

/// The lines by which the kernel says that it has found a fault of its own.
pub(super) fn complaints(log: &str) -> Vec<String> {
    let mut of_memory = false;
    let mut complaints = Vec::new();
    for line in log.lines() {
        // Memory that runs out is the machine's size, not a fault; the trace below it is its own.
        if SHORT_OF_MEMORY.iter().any(|start| line.contains(start)) {
            of_memory = true;
        } else if line.contains(TRACE) && of_memory {
            of_memory = false;
        } else if line.contains(TRACE) || FAULTS.iter().any(|fault| has_word(line, fault)) {
            complaints.push(line.to_owned());
        }
    }
    complaints
}

/// Whether `line` holds `word` other than as the end of a longer one, as `BUG: ` in `DEBUG: `.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        !line[..at]
            .chars()
            .next_back()
            .is_some_and(char::is_alphanumeric)
    })
}

const FAULTS: [&str; 12] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    "general protection fault",
    "Kernel panic",
    "blocked for more than",
    "KASAN: ",
    "KCSAN: ",
    "UBSAN: ",
    "refcount_t: ",
    "unregister_netdevice: waiting for",
];

const TRACE: &str = "Call Trace:";

const SHORT_OF_MEMORY: [&str; 2] = ["invoked oom-killer", "page allocation failure: order"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_own_faults_are_complaints() {
        for line in [
            "[   12.301183] WARNING: CPU: 0 PID: 301 at net/tls/tls_sw.c:1520 tls_sw_recvmsg+0x1a3/0x9d0 [tls]",
            "[   12.301183] BUG: kernel NULL pointer dereference, address: 0000000000000010",
            "[   12.301183] kernel BUG at net/core/skbuff.c:2190!",
            "[   12.301183] Oops: 0000 [#1] PREEMPT SMP NOPTI",
            "[   12.301183] general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1]",
            "[   12.301183] Call Trace:",
            "[  242.687512] INFO: task peer:412 blocked for more than 120 seconds.",
            "[   33.000001] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [sealwire-agent:310]",
            "[    9.100200] BUG: KASAN: slab-use-after-free in tls_decrypt_done+0x1f/0x40",
            "[    9.100200] refcount_t: underflow; use-after-free.",
            "[    9.100200] unregister_netdevice: waiting for lo to become free. Usage count = 2",
            "[    9.100200] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100",
            // By way of /dev/kmsg, as the control run writes it.
            "[    9.100200] BUG: fake",
            "BUG: fake",
        ] {
            assert_eq!(complaints(line), [line]);
        }
    }

    #[test]
    fn ordinary_lines_are_none() {
        let log = "\
[    0.000000] Linux version 6.1.0-47-cloud-amd64
[    0.500121] x86/cpu: SGX disabled by BIOS.
[    0.731000] pci 0000:00:01.0: DEBUG: not a fault
[    1.201183] tls: module verification failed: signature and/or required key missing - tainting kernel
[    2.012000] TCP: request_sock_TCP: Possible SYN flooding on port 8080. Sending cookies.
[    2.100000] warning: `agent' uses a deprecated thing
";
        assert_eq!(complaints(log), [""; 0]);
    }

    #[test]
    fn running_out_of_memory_is_none_but_what_comes_after_it_may_be() {
        let log = "\
[   20.000001] peer invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=0
[   20.000002] CPU: 1 PID: 300 Comm: peer Not tainted 6.1.0-47-cloud-amd64 #1  Debian 6.1.170-3
[   20.000003] Call Trace:
[   20.000004]  <TASK>
[   20.000005]  dump_stack_lvl+0x44/0x5c
[   20.000006] Out of memory: Killed process 300 (peer) total-vm:1048576kB
";
        assert_eq!(complaints(log), [""; 0]);
        let trace = "[   21.000000] Call Trace:";
        assert_eq!(complaints(&format!("{log}{trace}")), [trace]);
    }
}
