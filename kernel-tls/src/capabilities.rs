//! What the kernel that runs can be trusted with.

use std::fmt;
use std::fs;

use nix::errno::Errno;
use serde::Serialize;

use crate::error::SocketError;
use crate::known_bad::{Fault, Known};
use crate::traffic_key::Cipher;
use crate::version::KernelVersion;

/// Whether the kernel can do something, and why not.
pub type Ability = Result<(), Why>;

/// What this kernel does soundly. Made once, by [`Capabilities::probe`]; every use asks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The kernel's version, where it can be told.
    pub version: Option<KernelVersion>,
    /// The protocol can be attached, and the kernel keeps its sockets out of sockmaps.
    pub(crate) ulp: Ability,
    /// Sending, by cipher in the order of [`Cipher::ALL`].
    pub(crate) tx: [Ability; Cipher::ALL.len()],
    /// Receiving, likewise.
    pub(crate) rx: [Ability; Cipher::ALL.len()],
    /// Replacing a key.
    pub(crate) rekey: Ability,
    /// splice(2) from and to a TLS socket.
    pub(crate) splice: Ability,
}

impl Capabilities {
    /// Of a kernel that can't do any of it.
    pub(crate) fn nothing(version: Option<KernelVersion>, why: &Why) -> Self {
        let no = || Err(why.clone());
        Self {
            version,
            ulp: no(),
            tx: std::array::from_fn(|_| no()),
            rx: std::array::from_fn(|_| no()),
            rekey: no(),
            splice: no(),
        }
    }

    /// Whether the protocol may be attached to sockets at all.
    pub fn ulp(&self) -> &Ability {
        &self.ulp
    }

    /// Whether the kernel may seal what is sent under this cipher.
    pub fn tx(&self, cipher: Cipher) -> &Ability {
        &self.tx[index(cipher)]
    }

    /// Whether the kernel may open what is received under this cipher.
    pub fn rx(&self, cipher: Cipher) -> &Ability {
        &self.rx[index(cipher)]
    }

    /// Whether a key can be replaced.
    pub fn rekey(&self) -> &Ability {
        &self.rekey
    }

    /// Whether splice(2) loses nothing.
    pub fn splice(&self) -> &Ability {
        &self.splice
    }

    /// Every ability by name, with its cipher where it has one.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, Option<Cipher>, &Ability)> {
        let Self {
            version: _,
            ulp,
            tx,
            rx,
            rekey,
            splice,
        } = self;
        [("ulp", None, ulp)]
            .into_iter()
            .chain(by_cipher("tx", tx))
            .chain(by_cipher("rx", rx))
            .chain([("rekey", None, rekey), ("splice", None, splice)])
    }

    /// Sending, over all ciphers: good with one that works, and says which do not.
    pub fn tx_verdict(&self) -> Verdict {
        over_ciphers(&self.tx)
    }

    /// Receiving, likewise.
    pub fn rx_verdict(&self) -> Verdict {
        over_ciphers(&self.rx)
    }
}

fn by_cipher<'a>(
    name: &'static str,
    abilities: &'a [Ability; Cipher::ALL.len()],
) -> impl Iterator<Item = (&'static str, Option<Cipher>, &'a Ability)> {
    let ciphers = Cipher::ALL.into_iter().zip(abilities);
    ciphers.map(move |(cipher, ability)| (name, Some(cipher), ability))
}

fn index(cipher: Cipher) -> usize {
    match cipher {
        Cipher::Aes128Gcm => 0,
        Cipher::Aes256Gcm => 1,
        Cipher::Chacha20Poly1305 => 2,
    }
}

fn over_ciphers(abilities: &[Ability]) -> Verdict {
    let named = || Cipher::ALL.into_iter().zip(abilities);
    let working: Vec<_> = named()
        .filter(|(_, ability)| ability.is_ok())
        .map(|(cipher, _)| cipher.as_str())
        .collect();
    let mut faults: Vec<_> = named()
        .filter_map(|(cipher, ability)| Some((cipher, ability.as_ref().err()?)))
        .collect();
    // The same for all is said once.
    if working.is_empty() && faults.iter().all(|(_, why)| *why == faults[0].1) {
        faults.truncate(1);
        return Verdict {
            ok: false,
            why: faults[0].1.to_string(),
        };
    }
    let faults = faults
        .iter()
        .map(|(cipher, why)| format!("not {}: {why}", cipher.as_str()));
    let works = (!working.is_empty()).then(|| working.join(", "));
    Verdict {
        ok: !working.is_empty(),
        why: works
            .into_iter()
            .chain(faults)
            .collect::<Vec<_>>()
            .join("; "),
    }
}

/// An ability as `sealwire doctor --json` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether it may be used.
    pub ok: bool,
    /// Why not, or what of it works.
    pub why: String,
}

impl From<&Ability> for Verdict {
    fn from(ability: &Ability) -> Self {
        match ability {
            Ok(()) => Self {
                ok: true,
                why: "tried on this kernel".to_owned(),
            },
            Err(why) => Self {
                ok: false,
                why: why.to_string(),
            },
        }
    }
}

/// Why the kernel may not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel has no TLS, or its module is not loaded.
    NoConfigTls {
        /// Whether the module is there to be loaded.
        module: Module,
    },
    /// The version is known to be unsafe.
    KnownBad {
        /// The version.
        version: KernelVersion,
        /// What it does wrong.
        fault: &'static str,
        /// The first release of its line without the fault.
        fixed_in: KernelVersion,
    },
    /// The kernel accepts a TLS socket in a sockmap, as seen just now.
    AcceptsTlsInSockmap,
    /// Whether it does could not be seen.
    SockmapUnknown(Errno),
    /// Nobody has shown that it is sound on this line of kernels.
    Unproven {
        /// The version, where it can be told.
        version: Option<KernelVersion>,
    },
    /// The cipher is missing.
    NoCipher {
        /// Which.
        cipher: Cipher,
        /// What the kernel answered.
        error: SocketError,
    },
    /// The kernel took the key, but what came out was wrong.
    WrongBytes,
    /// A key can't be replaced.
    NoRekey(SocketError),
    /// A call failed.
    Socket(SocketError),
    /// A loopback connection to try it on could not be had.
    NoLoopback(Errno),
}

impl Why {
    pub(crate) fn fault(fault: Fault, version: Option<KernelVersion>) -> Ability {
        let Some(known) = version.map(|version| (version, fault.in_version(version))) else {
            return Err(Self::Unproven { version });
        };
        match known {
            (_, Known::Fixed) => Ok(()),
            (_, Known::Nothing) => Err(Self::Unproven { version }),
            (version, Known::Bad { fixed_in }) => Err(Self::KnownBad {
                version,
                fault: match fault {
                    Fault::TlsInSockmap => {
                        "accepts a TLS socket in a sockmap, which can put plaintext on the wire"
                    }
                    Fault::SpliceLosesBytes => "loses bytes when splicing from a TLS socket",
                },
                fixed_in,
            }),
        }
    }

    /// The code in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoConfigTls { .. } => "no-config-tls",
            Self::KnownBad { .. } | Self::AcceptsTlsInSockmap | Self::SockmapUnknown(_) => {
                "unsafe-kernel"
            }
            Self::Unproven { .. } => "unproven-kernel",
            Self::NoCipher { .. } => "cipher",
            Self::WrongBytes => "wrong-bytes",
            Self::NoRekey(_) => "no-rekey",
            Self::Socket(_) | Self::NoLoopback(_) => "probe-failed",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoConfigTls { module } => module.fmt(f),
            Self::KnownBad {
                version,
                fault,
                fixed_in,
            } => write!(
                f,
                "{version} {fault}; fixed in {fixed_in}: update the kernel"
            ),
            Self::AcceptsTlsInSockmap => f.write_str(
                "this kernel accepts a TLS socket in a sockmap, which can put plaintext on the \
                 wire: update the kernel",
            ),
            Self::SockmapUnknown(errno) => write!(
                f,
                "whether this kernel keeps TLS sockets out of sockmaps can't be tried: {errno}; run \
                 as root, with CAP_BPF and CAP_NET_ADMIN"
            ),
            Self::Unproven {
                version: Some(version),
            } => write!(
                f,
                "nobody has shown that it is sound on the line of {version}"
            ),
            Self::Unproven { version: None } => f.write_str("the kernel's version can't be told"),
            Self::NoCipher { cipher, error } => {
                let modules = match cipher {
                    Cipher::Aes128Gcm | Cipher::Aes256Gcm => "modprobe -a gcm ctr aesni_intel",
                    Cipher::Chacha20Poly1305 => "modprobe -a chacha20poly1305",
                };
                write!(f, "{error}: the cipher's modules are missing: {modules}")
            }
            Self::WrongBytes => f.write_str("what the kernel's TLS sent or received was wrong"),
            Self::NoRekey(error) => write!(f, "{error}: keys can be replaced from Linux 6.14 on"),
            Self::Socket(error) => error.fmt(f),
            Self::NoLoopback(errno) => write!(f, "no loopback connection to try it on: {errno}"),
        }
    }
}

/// Whether the kernel's TLS could be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// It is there, and not loaded.
    NotLoaded,
    /// The kernel was built without it, or its modules are not where they should be.
    Absent,
}

impl Module {
    /// Looks where `modprobe` does.
    pub(crate) fn find() -> Self {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let index = format!("/lib/modules/{}/modules.dep", release.trim());
        let modules = fs::read_to_string(index).unwrap_or_default();
        if modules.contains("/net/tls/tls.ko") {
            Self::NotLoaded
        } else {
            Self::Absent
        }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotLoaded => "the module tls is not loaded: modprobe tls",
            Self::Absent => "this kernel has no TLS (CONFIG_TLS), or its module is not installed",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(cipher: Cipher) -> Ability {
        Err(Why::NoCipher {
            cipher,
            error: SocketError::new("setsockopt", "TLS_TX", Errno::ENOENT),
        })
    }

    #[test]
    fn a_verdict_over_ciphers_says_what_works_and_what_does_not() {
        let all = over_ciphers(&[Ok(()), Ok(()), Ok(())]);
        assert!(all.ok);
        assert_eq!(all.why, "aes-128-gcm, aes-256-gcm, chacha20-poly1305");
        let some = over_ciphers(&[Ok(()), Ok(()), missing(Cipher::Chacha20Poly1305)]);
        assert!(some.ok);
        assert!(
            some.why
                .starts_with("aes-128-gcm, aes-256-gcm; not chacha20-poly1305: ")
        );
        assert!(
            some.why.ends_with("modprobe -a chacha20poly1305"),
            "{}",
            some.why
        );
        let absent = Why::NoConfigTls {
            module: Module::NotLoaded,
        };
        let none = over_ciphers(&[Err(absent.clone()), Err(absent.clone()), Err(absent)]);
        assert!(!none.ok);
        assert_eq!(none.why, "the module tls is not loaded: modprobe tls");
        let none = over_ciphers(&Cipher::ALL.map(missing));
        assert!(!none.ok);
        assert_eq!(none.why.matches("not ").count(), 3, "{}", none.why);
    }

    #[test]
    fn an_unsafe_version_is_named_with_its_fix() {
        let why = Why::fault(Fault::TlsInSockmap, Some(KernelVersion::new(6, 1, 170))).unwrap_err();
        assert_eq!(why.as_str(), "unsafe-kernel");
        assert_eq!(
            why.to_string(),
            "6.1.170 accepts a TLS socket in a sockmap, which can put plaintext on the wire; fixed \
             in 6.1.190: update the kernel"
        );
        let fixed = Some(KernelVersion::new(6, 12, 113));
        assert_eq!(Why::fault(Fault::TlsInSockmap, fixed), Ok(()));
        let other = Some(KernelVersion::new(6, 6, 50));
        assert!(matches!(
            Why::fault(Fault::SpliceLosesBytes, other),
            Err(Why::Unproven { .. })
        ));
        assert!(Why::fault(Fault::SpliceLosesBytes, None).is_err());
    }

    #[test]
    fn each_ability_is_listed_once() {
        let why = Why::NoConfigTls {
            module: Module::Absent,
        };
        let nothing = Capabilities::nothing(None, &why);
        let names: Vec<_> = nothing
            .each()
            .map(|(name, cipher, ability)| (name, cipher, ability.is_ok()))
            .collect();
        assert_eq!(names.len(), 9);
        assert_eq!(names[1], ("tx", Some(Cipher::Aes128Gcm), false));
        assert_eq!(names[6], ("rx", Some(Cipher::Chacha20Poly1305), false));
    }
}
