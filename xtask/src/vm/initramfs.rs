//! The guest's root file system: busybox, the kernel's modules, and programs of this machine with the
//! libraries that they are linked with. No Rust target for static programs is to be had where Sealwire
//! is built (`docs/src/decisions/0026-programs-in-the-guest.md`).

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    env,
    fs::{self, File, Permissions},
    hash::{Hash, Hasher as _},
    io::Read as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{Fetched, modules};
use crate::process;

/// What will be in an archive, by its place in the guest.
#[derive(Default)]
pub(super) struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
    /// Whose modules are among them.
    release: Option<String>,
}

#[derive(Hash)]
enum Entry {
    Text {
        text: Vec<u8>,
        mode: u32,
    },
    /// A file of this machine.
    File(PathBuf),
    /// The same, a program; it goes without its debugging information.
    Program(PathBuf),
    /// A module, packed or not.
    Module(PathBuf),
}

impl Initramfs {
    pub(super) fn text(&mut self, guest: &str, text: impl Into<Vec<u8>>) {
        self.add_text(guest, text.into(), 0o644);
    }

    /// A text that can be executed.
    pub(super) fn script(&mut self, guest: &str, text: impl Into<Vec<u8>>) {
        self.add_text(guest, text.into(), 0o755);
    }

    fn add_text(&mut self, guest: &str, text: Vec<u8>, mode: u32) {
        self.entries
            .insert(guest.into(), Entry::Text { text, mode });
    }

    /// A file of this machine, or a directory with all that is in it. A program brings the libraries
    /// that it needs, at the places where it looks for them.
    pub(super) fn file(&mut self, host: &Path, guest: &Path) -> Result<()> {
        if host.is_dir() {
            let inside =
                fs::read_dir(host).with_context(|| format!("reading {}", host.display()))?;
            for entry in inside {
                let name = entry?.file_name();
                self.file(&host.join(&name), &guest.join(&name))?;
            }
            return Ok(());
        }
        if self.entries.contains_key(guest) {
            return Ok(());
        }
        let is_program = is_elf(host)?;
        let entry = if is_program {
            Entry::Program(host.to_owned())
        } else {
            Entry::File(host.to_owned())
        };
        self.entries.insert(guest.to_owned(), entry);
        if is_program {
            for library in libraries(host) {
                self.file(&library, &library)?;
            }
        }
        Ok(())
    }

    /// A program of this machine, if it is installed, at its own place.
    pub(super) fn program(&mut self, name: &str) -> Result<()> {
        let Some(path) = find_program(name) else {
            return Ok(());
        };
        self.file(&path, &path)?;
        for (program, companion) in COMPANIONS {
            let companion = Path::new(companion);
            if program == name && companion.exists() {
                self.file(companion, companion)?;
            }
        }
        Ok(())
    }

    /// Modules that a kernel has, and what they need, where modprobe(8) looks for them.
    pub(super) fn modules(&mut self, kernel: &Fetched, wanted: &[&str]) -> Result<()> {
        let place = Path::new("/lib/modules").join(&kernel.release);
        let directory = kernel.modules();
        for file in modules::with_dependencies(&directory, wanted)? {
            let guest = place.join(file.with_extension("").with_extension("ko"));
            self.entries
                .insert(guest, Entry::Module(directory.join(file)));
        }
        for index in [
            "modules.builtin",
            "modules.builtin.modinfo",
            "modules.order",
        ] {
            self.file(&directory.join(index), &place.join(index))?;
        }
        self.release = Some(kernel.release.clone());
        Ok(())
    }

    /// Names what it holds: another name, other contents.
    pub(super) fn key(&self) -> Result<String> {
        let mut hasher = DefaultHasher::new();
        for (guest, entry) in &self.entries {
            (guest, entry).hash(&mut hasher);
            if let Entry::File(host) | Entry::Program(host) | Entry::Module(host) = entry {
                let its = fs::metadata(host)
                    .with_context(|| format!("there is no {}", host.display()))?;
                let changed = (its.mtime(), its.mtime_nsec(), its.ctime(), its.ctime_nsec());
                (its.len(), its.mode(), its.ino(), changed).hash(&mut hasher);
            }
        }
        self.release.hash(&mut hasher);
        Ok(format!("{:016x}", hasher.finish()))
    }

    /// Writes the archive, by way of a directory `tree` that must not exist. Uncompressed, because the
    /// guest would take longer to unpack it than this machine takes to read it.
    pub(super) fn write(&self, tree: &Path, archive: &Path) -> Result<()> {
        for directory in DIRECTORIES {
            make_directory(&tree.join(directory))?;
        }
        for (link, target) in MERGED {
            symlink(target, tree.join(link)).with_context(|| format!("linking {link}"))?;
        }
        for (guest, entry) in &self.entries {
            let place = tree.join(guest.strip_prefix("/").unwrap_or(guest));
            make_directory(place.parent().unwrap_or(tree))?;
            entry
                .write(&place)
                .with_context(|| format!("putting {} into the guest", guest.display()))?;
        }
        if let Some(release) = &self.release {
            process::run(Command::new("depmod").arg("-b").arg(tree).arg(release))?;
        }
        let written =
            File::create(archive).with_context(|| format!("making {}", archive.display()))?;
        process::run(
            Command::new("sh")
                .current_dir(tree)
                .args(["-c", ARCHIVE])
                .stdout(written),
        )
        .context("packing the guest's files")?;
        fs::remove_dir_all(tree).with_context(|| format!("removing {}", tree.display()))
    }
}

impl Entry {
    fn write(&self, place: &Path) -> Result<()> {
        match self {
            Self::Text { text, mode } => {
                fs::write(place, text)?;
                fs::set_permissions(place, Permissions::from_mode(*mode))?;
            }
            Self::Program(host) if stripped(host, place) => {}
            Self::Module(host) if host.extension().is_some_and(|it| it == "xz") => {
                let unpacked = File::create(place)?;
                process::run(Command::new("xz").arg("-dc").arg(host).stdout(unpacked))?;
            }
            Self::File(host) | Self::Program(host) | Self::Module(host) => {
                fs::copy(host, place)?;
            }
        }
        Ok(())
    }
}

/// Not of every program, such as one that carries its contents behind it.
fn stripped(host: &Path, place: &Path) -> bool {
    Command::new("strip")
        .args(["--strip-debug", "-o"])
        .args([place, host])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))
}

/// Where a program is, with the directories that only root has on its path.
fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

fn is_elf(host: &Path) -> Result<bool> {
    let mut magic = [0; 4];
    let mut file = File::open(host).with_context(|| format!("opening {}", host.display()))?;
    let read = file
        .read(&mut magic)
        .with_context(|| format!("reading {}", host.display()))?;
    Ok(read == 4 && magic == *b"\x7fELF")
}

/// What `ldd` finds; nothing for a static program.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let found = process::stdout_of(Command::new("ldd").arg(program)).unwrap_or_default();
    parse_ldd(&found)
}

fn parse_ldd(output: &str) -> Vec<PathBuf> {
    output
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// root's, whoever packs it.
const ARCHIVE: &str = "find . -print0 | cpio --null --quiet --create --format newc --owner +0:+0";

const DIRECTORIES: [&str; 15] = [
    "usr/bin",
    "usr/sbin",
    "usr/lib",
    "usr/lib64",
    "dev",
    "etc",
    "out",
    "proc",
    "root",
    "run",
    "run/netns",
    "sys",
    "tmp",
    "var/lib",
    "var/log",
];

/// Debian's merged `/usr`.
const MERGED: [(&str, &str); 5] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/sbin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("var/run", "../run"),
];

/// Files without which a program does not do all that it can.
const COMPANIONS: [(&str, &str); 3] = [
    ("openssl", "/etc/ssl/openssl.cnf"),
    ("openssl", "/usr/lib/ssl/openssl.cnf"),
    ("tc", "/usr/lib/tc"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_where_ldd_finds_them() {
        let output = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \tlibgone.so.1 => not found\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(output),
            [
                Path::new("/lib/x86_64-linux-gnu/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2"),
            ]
        );
        assert!(parse_ldd("\tnot a dynamic executable\n").is_empty());
    }

    #[test]
    fn other_contents_have_another_key() {
        let key = |texts: &[(&str, &str)]| {
            let mut files = Initramfs::default();
            for (guest, text) in texts {
                files.text(guest, *text);
            }
            files.key().unwrap()
        };
        let first = key(&[("/a", "1"), ("/b", "2")]);
        assert_eq!(first, key(&[("/b", "2"), ("/a", "1")]));
        assert_ne!(first, key(&[("/a", "1"), ("/b", "3")]));
        assert_ne!(first, key(&[("/a", "1"), ("/c", "2")]));
    }
}
