//! What runs in the guest before and after the command.

use std::ffi::OsStr;

/// The ports between guest and host, by name: what the command says, how it ended, what it leaves.
pub(super) const PORTS: [&str; 5] = ["stdout", "stderr", "log", "out", "status"];

/// The guest's first process. `/command` is the command as a line of the shell.
///
/// Everything that is to reach the host is written and closed before the status, whose arrival says
/// that nothing is missing.
pub(super) const INIT: &str = r#"#!/usr/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root TERM=dumb
/usr/bin/busybox --install -s /usr/bin 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
chmod 1777 /tmp /dev/shm
mkdir -p /run/netns
ln -sf /proc/self/fd /dev/fd
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in /modules/*; do
    insmod "$module" 2>/run/error || grep -q exists /run/error || echo "insmod $module: $(cat /run/error)" >/dev/kmsg
done
ifconfig lo 127.0.0.1 up
hostname sealwire-vm
ulimit -n 65536
port() {
    for port in /sys/class/virtio-ports/*; do
        [ "$(cat $port/name)" = "$1" ] && echo /dev/${port##*/} && return
    done
    echo "no port $1" >/dev/kmsg
    poweroff -f
}
cd /root
sh /command >$(port stdout) 2>$(port stderr) </dev/null
code=$?
dmesg >$(port log)
tar -C /out -cf - . >$(port out)
echo $code >$(port status)
sync
poweroff -f
"#;

/// The words as a line of the shell that runs them.
pub(super) fn command_line(words: &[impl AsRef<OsStr>]) -> String {
    let quoted: Vec<_> = words
        .iter()
        .map(|word| {
            let word = word.as_ref().to_string_lossy();
            format!("'{}'", word.replace('\'', r"'\''"))
        })
        .collect();
    format!("exec {}\n", quoted.join(" "))
}

/// Users and names that programs look up.
pub(super) const FILES: [(&str, &str); 4] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    ),
    (
        "/etc/group",
        "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n",
    ),
    (
        "/etc/hosts",
        "127.0.0.1 localhost sealwire-vm\n::1 localhost\n",
    ),
    ("/etc/nsswitch.conf", "hosts: files\n"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_stay_what_they_are() {
        assert_eq!(
            command_line(&["sh", "-c", "echo 'a b' $HOME"]),
            "exec 'sh' '-c' 'echo '\\''a b'\\'' $HOME'\n"
        );
    }
}
