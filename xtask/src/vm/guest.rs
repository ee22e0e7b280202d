//! What runs in the guest before and after the command.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

/// The ports between guest and host, by name: what the command says, the kernel's log, what the
/// command leaves, and how it ended.
pub(super) const PORTS: [&str; 5] = ["stdout", "stderr", "log", "out", "status"];

/// Where the script is that runs the command.
pub(super) const COMMAND: &str = "/command";

/// Where the names are of the modules that are loaded.
pub(super) const MODULES: &str = "/etc/modules";

/// Where the command runs.
pub(super) const HOME: &str = "/root";

/// The guest's first process.
///
/// Everything that is to reach the host is written and closed before the status, whose arrival says
/// that nothing is missing. `/tmp`, `/run` and the rest are a tmpfs, as the root is one.
pub(super) const INIT: &str = r#"#!/usr/bin/busybox sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root TERM=dumb
/usr/bin/busybox --install -s /usr/bin 2>/dev/null
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
chmod 1777 /tmp /dev/shm
ln -s /proc/self/fd /dev/fd
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
for module in $(cat /etc/modules); do
    modprobe $module 2>/run/error || echo "modprobe $module: $(cat /run/error)" >/dev/kmsg
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
dmesg -s 8388608 >$(port log)
tar -C /out -cf - . >$(port out)
echo $code >$(port status)
poweroff -f
"#;

/// The script that runs a command with these variables in its environment.
pub(super) fn command_script(
    environment: &[(String, OsString)],
    words: &[impl AsRef<OsStr>],
) -> Vec<u8> {
    let mut script = Vec::new();
    for (name, value) in environment {
        script.extend_from_slice(format!("export {name}=").as_bytes());
        quote(value, &mut script);
        script.push(b'\n');
    }
    script.extend_from_slice(b"exec ");
    script.extend_from_slice(line_of(words).as_bytes());
    script.push(b'\n');
    script
}

/// The words as the shell reads them.
pub(super) fn line_of(words: impl IntoIterator<Item = impl AsRef<OsStr>>) -> OsString {
    let mut line = Vec::new();
    for word in words {
        if !line.is_empty() {
            line.push(b' ');
        }
        quote(word.as_ref(), &mut line);
    }
    OsString::from_vec(line)
}

/// As one word of the shell, whatever is in it.
fn quote(word: &OsStr, script: &mut Vec<u8>) {
    script.push(b'\'');
    for byte in word.as_bytes() {
        match byte {
            b'\'' => script.extend_from_slice(br"'\''"),
            byte => script.push(*byte),
        }
    }
    script.push(b'\'');
}

/// What the guest says of how the command ended; nothing where the guest did not get so far.
pub(super) fn exit_code(status: &str) -> Option<u8> {
    status.strip_suffix('\n')?.parse().ok()
}

/// Users and names that programs look up.
pub(super) const FILES: [(&str, &str); 4] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\n\
         www-data:x:33:33::/var/www:/bin/sh\n\
         nobody:x:65534:65534::/:/bin/sh\n",
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
        let environment = [("RUST_LOG".to_owned(), OsString::from("a=b c"))];
        let script = command_script(&environment, &["sh", "-c", "echo 'a b' $HOME"]);
        assert_eq!(
            String::from_utf8(script).unwrap(),
            "export RUST_LOG='a=b c'\nexec 'sh' '-c' 'echo '\\''a b'\\'' $HOME'\n"
        );
    }

    #[test]
    fn a_word_need_not_be_text() {
        let script = command_script(&[], &[OsStr::from_bytes(b"\xff")]);
        assert_eq!(script, b"exec '\xff'\n");
    }

    #[test]
    fn a_whole_line_is_an_exit_code_and_nothing_else() {
        assert_eq!(exit_code("0\n"), Some(0));
        assert_eq!(exit_code("255\n"), Some(255));
        for cut_short in ["", "\n", "13", "256\n", "-1\n", "1\n2\n"] {
            assert_eq!(exit_code(cut_short), None, "{cut_short:?}");
        }
    }
}
