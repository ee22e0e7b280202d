//! Debian packages, installed when they are missing; services that they bring are not started.

use std::{env, process::Command};

use anyhow::Result;

use crate::{
    process::{self, PlatformLacks},
    workspace,
};

/// Installs those of `packages` that are missing.
///
/// Fails with [`PlatformLacks`] where that takes root or apt and there is none.
pub(crate) fn ensure(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .copied()
        .filter(|name| !installed(name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !on_path("apt-get") {
        return Err(PlatformLacks(format!(
            "this needs the Debian packages {names}, and there is no apt-get here: \
             install their like by hand"
        ))
        .into());
    }
    if !workspace::is_root() {
        return Err(PlatformLacks(format!(
            "installing packages takes root: run `apt-get install {names}`, or this as root"
        ))
        .into());
    }
    process::step(format!("installing {names}"));
    process::run(
        process::quiet_stdout("sh")
            .args(["-euc", INSTALL, "sh"])
            .args(missing),
    )
}

/// What building the workspace takes beside the toolchain: aws-lc-sys compiles C (on x86-64 and
/// `AArch64` that takes neither cmake nor clang), and the gRPC messages are generated.
pub(crate) fn ensure_to_build() -> Result<()> {
    ensure(&["gcc", "libc6-dev", "protobuf-compiler", "libprotobuf-dev"])
}

/// Whether the package, or another that brings the same program, is here.
fn installed(package: &str) -> bool {
    let program = PROGRAMS
        .iter()
        .find(|(name, _)| *name == package)
        .map(|(_, program)| *program);
    program.is_some_and(on_path) || dpkg_has(package)
}

fn on_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

fn dpkg_has(package: &str) -> bool {
    process::stdout_of(Command::new("dpkg-query").args([
        "-W",
        "-f",
        "${db:Status-Status}",
        package,
    ]))
    .is_ok_and(|status| status == "installed")
}

/// The program that each package is installed for. One that came otherwise is as good, and some
/// packages would replace a variant that someone has chosen (nginx-light, nginx-full).
const PROGRAMS: [(&str, &str); 29] = [
    ("binutils", "strip"),
    ("busybox-static", "busybox"),
    ("chromium", "chromium"),
    ("cpio", "cpio"),
    ("curl", "curl"),
    ("etcd-server", "etcd"),
    ("faketime", "faketime"),
    ("g++", "g++"),
    ("gcc", "cc"),
    ("gnutls-bin", "gnutls-serv"),
    ("groff-base", "groff"),
    ("iperf3", "iperf3"),
    ("iproute2", "ip"),
    ("kmod", "depmod"),
    ("man-db", "man"),
    ("musl-tools", "musl-gcc"),
    ("nginx-light", "nginx"),
    ("nodejs", "node"),
    ("opensc", "pkcs11-tool"),
    ("openssl", "openssl"),
    ("procps", "kill"),
    ("prometheus", "promtool"),
    ("protobuf-compiler", "protoc"),
    ("qemu-system-x86", "qemu-system-x86_64"),
    ("redis-server", "redis-server"),
    ("redis-tools", "redis-benchmark"),
    ("softhsm2", "softhsm2-util"),
    ("systemd", "systemd-analyze"),
    ("xz-utils", "xz"),
];

/// Debian starts a service when its package is installed, unless `policy-rc.d` says 101. A policy
/// that is there already stays; ours goes again however the shell ends. Nor shall the service start
/// at the next boot.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
mark='# put here by `cargo xtask` while it installs packages'
if [ ! -e "$policy" ] || grep -qF "$mark" "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 0755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || echo 'warning: apt-get update failed; trying with the lists that are here' >&2
apt-get -qq install --yes --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -- "$@"
for package; do
    case $package in
        nginx-light) unit=nginx ;;
        etcd-server) unit=etcd ;;
        postgresql | prometheus | redis-server | iperf3) unit=$package ;;
        *) continue ;;
    esac
    systemctl --quiet disable "$unit.service" 2>/dev/null || true
done
"#;
