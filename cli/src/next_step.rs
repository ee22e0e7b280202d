//! `sealwire` without a command: what this machine suggests to do next.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use agent_config::flags::Environment;
use nix::unistd::geteuid;

use crate::admin::{AdminPort, Shown};
use crate::failure::Failure;

/// The next few commands, as usage error: nothing was asked.
pub(crate) fn next_step() -> Failure {
    let environment = Environment::of_process();
    let admin_port = match AdminPort::of(&environment) {
        Ok(port) => port,
        Err(mistake) => return mistake,
    };
    let bpffs = environment.value("SEALWIRE_BPFFS").unwrap_or("/sys/fs/bpf");
    let situation = Situation {
        user: if geteuid().is_root() {
            User::Root
        } else {
            User::Other
        },
        admin_port,
        pins: Pins::in_directory(&Path::new(bpffs).join("sealwire")),
    };
    Failure::usage(situation.advice())
}

/// What tells how far somebody has come.
#[derive(Debug)]
struct Situation {
    user: User,
    admin_port: Option<AdminPort>,
    pins: Pins,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Root,
    Other,
}

/// What agents have left in the BPF file system.
#[derive(Debug, PartialEq, Eq)]
enum Pins {
    /// One is there for each instance that runs, or ran and was not detached.
    Of(Shown),
    None,
    /// Only root can see them.
    Hidden,
}

impl Pins {
    /// Of several instances, one stands for all.
    fn in_directory(path: &Path) -> Self {
        match fs::read_dir(path) {
            Ok(instances) => {
                let name = |it: fs::DirEntry| it.file_name().to_string_lossy().into_owned();
                match instances.flatten().map(name).min() {
                    Some(first) => Self::Of(Shown::from(first)),
                    None => Self::None,
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Self::Hidden,
            Err(_) => Self::None,
        }
    }
}

impl Situation {
    fn advice(&self) -> String {
        let (found, steps) = self.steps();
        let mut text = format!("no command given\n\n{found}\n");
        for (purpose, command) in steps {
            // Writing to a String does not fail.
            let _ = write!(text, "\n{purpose}:\n  {command}");
        }
        if self.user == User::Other {
            text += "\n\nYou are not root: an agent must be, and the doctor sees more as root.";
        }
        text + "\n\nAll commands: sealwire --help"
    }

    fn steps(&self) -> (String, Vec<(&'static str, String)>) {
        let doctor = || "sealwire doctor".to_owned();
        match (&self.admin_port, &self.pins) {
            (Some(AdminPort(port)), _) => (
                format!("The environment names an agent: its admin port is {port}."),
                vec![
                    (
                        "See what it carries",
                        "sealwire connections --watch".to_owned(),
                    ),
                    (
                        "See what it would run with, and where each value is from",
                        "sealwire config print --origin".to_owned(),
                    ),
                    ("Find out what the machine lacks", doctor()),
                ],
            ),
            (None, Pins::Of(instance)) => (
                format!(
                    "An agent runs here, or ran and still guards its workloads: instance {}.",
                    instance.as_str()
                ),
                vec![
                    (
                        "See what it carries, if it was started with --admin-port",
                        "sealwire connections --admin-port 9464".to_owned(),
                    ),
                    (
                        "Find out what the machine lacks, if it does not run",
                        doctor(),
                    ),
                    (
                        "Check its file before you start it again",
                        "sealwire check /etc/sealwire/agent.toml".to_owned(),
                    ),
                ],
            ),
            (None, Pins::None | Pins::Hidden) => (
                "No agent is known here.".to_owned(),
                vec![
                    ("Find out what the machine lacks", doctor()),
                    (
                        "Make a PKI for a trial without a Coordinator",
                        "sealwire pki init --dir pki --trust-domain mesh.local".to_owned(),
                    ),
                    (
                        "Then a certificate for each workload",
                        "sealwire pki issue --dir pki --name web --out web-tls".to_owned(),
                    ),
                    (
                        "Then a program of this machine, in mutual TLS",
                        "sealwire run --name web --tls-dir web-tls -- nginx".to_owned(),
                    ),
                ],
            ),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn situation(admin_port: Option<u16>, pins: Pins) -> Situation {
        Situation {
            user: User::Root,
            admin_port: admin_port.map(|port| AdminPort(port.try_into().unwrap())),
            pins,
        }
    }

    /// What each situation suggests.
    pub(crate) fn texts() -> [String; 3] {
        [
            situation(Some(9464), Pins::None),
            situation(None, Pins::Of(Shown::from("default".to_owned()))),
            situation(None, Pins::None),
        ]
        .map(|it| it.advice())
    }

    #[test]
    fn an_agent_that_is_known_is_looked_at() {
        let [known, pinned, none] = texts();
        assert!(known.contains("sealwire connections --watch"), "{known}");
        assert!(pinned.contains("instance default"), "{pinned}");
        assert!(none.contains("sealwire pki init"), "{none}");
        assert!(none.contains("sealwire run"), "{none}");
        for text in [known, pinned, none] {
            assert!(text.contains("  sealwire doctor\n"), "{text}");
            assert!(!text.contains("not root"), "{text}");
        }
    }

    #[test]
    fn who_is_not_root_is_told() {
        let situation = Situation {
            user: User::Other,
            ..situation(None, Pins::Hidden)
        };
        assert!(situation.advice().contains("You are not root"));
    }

    #[test]
    fn pins_are_found_by_their_instance() {
        let directory = tempfile::tempdir().unwrap();
        let pins = directory.path().join("sealwire");
        assert_eq!(Pins::in_directory(&pins), Pins::None);
        fs::create_dir(&pins).unwrap();
        assert_eq!(Pins::in_directory(&pins), Pins::None);
        for instance in ["web", "db"] {
            fs::create_dir(pins.join(instance)).unwrap();
        }
        assert_eq!(
            Pins::in_directory(&pins),
            Pins::Of(Shown::from("db".to_owned()))
        );
    }
}
