//! What in a kernel's log makes a run a failed one.

/// The lines by which the kernel says that it has found a fault of its own.
pub(super) fn complaints(log: &str) -> Vec<String> {
    log.lines()
        .filter(|line| FAULTS.iter().any(|fault| line.contains(fault)))
        .map(str::to_owned)
        .collect()
}

const FAULTS: [&str; 11] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    "Call Trace:",
    "general protection fault",
    "Kernel panic",
    "blocked for more than",
    "KASAN: ",
    "UBSAN: ",
    "refcount_t: ",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernels_own_faults_are_complaints() {
        for line in [
            "[   12.3] WARNING: CPU: 0 PID: 301 at net/tls/tls_sw.c:1520 tls_sw_recvmsg+0x1",
            "[   12.3] BUG: kernel NULL pointer dereference, address: 0000000000000010",
            "[   12.3] kernel BUG at net/core/skbuff.c:2190!",
            "[   12.3] Oops: 0000 [#1] PREEMPT SMP NOPTI",
            "[  242.0] INFO: task peer:412 blocked for more than 120 seconds.",
            "[    9.1] Kernel panic - not syncing: Attempted to kill init!",
        ] {
            assert_eq!(complaints(line), [line]);
        }
    }

    #[test]
    fn ordinary_lines_are_none() {
        let log = "[    0.0] Linux version 6.1.0-47-cloud-amd64\n\
                   [    0.5] x86/cpu: SGX disabled by BIOS.\n\
                   [    1.2] tls: module verification skipped\n\
                   [    2.0] TCP: request_sock_TCP: Possible SYN flooding on port 8080.\n";
        assert_eq!(complaints(log), [""; 0]);
    }
}
