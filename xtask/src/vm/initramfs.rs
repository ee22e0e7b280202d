//! The guest's root file system: busybox, the kernel's modules, and programs of this machine with the
//! libraries that they are linked with.

use std::{
    collections::HashSet,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::process;

/// A directory that becomes an archive.
pub(super) struct Initramfs {
    root: PathBuf,
    /// Host paths that are in it, at their own place.
    there: HashSet<PathBuf>,
}

impl Initramfs {
    /// An empty one with Debian's merged `/usr`, in a directory that must not exist.
    pub(super) fn new(root: PathBuf) -> Result<Self> {
        let tree = Self {
            root,
            there: HashSet::new(),
        };
        for directory in DIRECTORIES {
            tree.directory(Path::new(directory))?;
        }
        for (link, target) in MERGED {
            symlink(target, tree.place(Path::new(link)))
                .with_context(|| format!("linking {link}"))?;
        }
        Ok(tree)
    }

    /// A file with this text.
    pub(super) fn text(&self, guest: &str, text: &str) -> Result<()> {
        let guest = Path::new(guest);
        self.parent(guest)?;
        fs::write(self.place(guest), text).with_context(|| format!("writing {}", guest.display()))
    }

    /// A script that can be executed.
    pub(super) fn script(&self, guest: &str, text: &str) -> Result<()> {
        self.text(guest, text)?;
        fs::set_permissions(self.place(Path::new(guest)), Permissions::from_mode(0o755))
            .with_context(|| format!("making {guest} executable"))
    }

    /// A file of this machine. A program comes without its debugging information, and with the
    /// libraries that it needs at the places where it looks for them.
    pub(super) fn file(&mut self, host: &Path, guest: &Path) -> Result<()> {
        if host == guest && !self.there.insert(host.to_owned()) {
            return Ok(());
        }
        self.parent(guest)?;
        let place = self.place(guest);
        let _ = fs::remove_file(&place);
        if !is_elf(host)? {
            fs::copy(host, &place).with_context(|| format!("copying {}", host.display()))?;
            return Ok(());
        }
        let strip = Command::new("strip")
            .args(["--strip-debug", "-o"])
            .args([&place, host])
            .stderr(Stdio::null())
            .status();
        if !strip.is_ok_and(|status| status.success()) {
            fs::copy(host, &place).with_context(|| format!("copying {}", host.display()))?;
        }
        for library in libraries(host) {
            self.file(&library, &library)?;
        }
        Ok(())
    }

    /// A program of this machine, if it is installed, at its own place.
    pub(super) fn program(&mut self, name: &str) -> Result<bool> {
        let Some(path) = find_program(name) else {
            return Ok(false);
        };
        self.file(&path, &path)?;
        for (program, companion) in COMPANIONS {
            let companion = Path::new(companion);
            if program == name && companion.exists() {
                self.file(companion, companion)?;
            }
        }
        Ok(true)
    }

    /// The modules, unpacked and numbered in the order in which they are loaded.
    pub(super) fn modules(&self, files: &[PathBuf]) -> Result<()> {
        for (index, file) in files.iter().enumerate() {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let place = self.root.join(format!(
                "modules/{index:03}-{}",
                name.trim_end_matches(".xz")
            ));
            if !name.ends_with(".xz") {
                fs::copy(file, &place).with_context(|| format!("copying {}", file.display()))?;
                continue;
            }
            let unpacked =
                fs::File::create(&place).with_context(|| format!("making {}", place.display()))?;
            process::run(Command::new("xz").arg("-dc").arg(file).stdout(unpacked))?;
        }
        Ok(())
    }

    /// Writes the archive, and removes the directory.
    pub(super) fn pack(self, archive: &Path) -> Result<()> {
        let written =
            fs::File::create(archive).with_context(|| format!("making {}", archive.display()))?;
        process::run(
            Command::new("sh")
                .current_dir(&self.root)
                .args(["-c", "find . -print0 | cpio --null --quiet -o -H newc"])
                .stdout(written),
        )
        .context("packing the guest's files")?;
        fs::remove_dir_all(&self.root).with_context(|| format!("removing {}", self.root.display()))
    }

    fn parent(&self, guest: &Path) -> Result<()> {
        guest
            .parent()
            .map_or(Ok(()), |parent| self.directory(parent))
    }

    fn directory(&self, guest: &Path) -> Result<()> {
        fs::create_dir_all(self.place(guest)).with_context(|| format!("making {}", guest.display()))
    }

    fn place(&self, guest: &Path) -> PathBuf {
        self.root.join(guest.strip_prefix("/").unwrap_or(guest))
    }
}

/// Where a program is, with the directories that only root has on its path.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .and_then(|path| path.canonicalize().ok().map(|real| (path, real)))
        // busybox has its applets as links, and finds out by its name which it is.
        .map(|(path, real)| {
            if real.file_name() == path.file_name() {
                real
            } else {
                path
            }
        })
}

fn is_elf(host: &Path) -> Result<bool> {
    use std::io::Read as _;
    let mut magic = [0; 4];
    let mut file = fs::File::open(host).with_context(|| format!("opening {}", host.display()))?;
    if file.metadata().is_ok_and(|it| it.is_dir()) {
        bail!("{} is a directory; name the files in it", host.display());
    }
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

const DIRECTORIES: [&str; 15] = [
    "/usr/bin",
    "/usr/sbin",
    "/usr/lib",
    "/usr/lib64",
    "/dev",
    "/etc",
    "/modules",
    "/out",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/var/lib",
    "/var/log",
];

const MERGED: [(&str, &str); 5] = [
    ("/bin", "usr/bin"),
    ("/sbin", "usr/sbin"),
    ("/lib", "usr/lib"),
    ("/lib64", "usr/lib64"),
    ("/var/run", "/run"),
];

/// Files without which a program does not start.
const COMPANIONS: [(&str, &str); 2] = [
    ("openssl", "/etc/ssl/openssl.cnf"),
    ("openssl", "/usr/lib/ssl/openssl.cnf"),
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
}
