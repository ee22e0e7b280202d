//! What an agent remembers of its deployment, so that neither an older history nor another
//! deployment is taken for it.
//!
//! All of it is public. Kept in a file, it outlives the agent.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use attestation::Digest;
use history::{Rollback, SignedTransition, TransitionKey, check_not_older};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::mesh_state::MeshState;
use crate::atomic_file;

/// The latest transition that was seen, and who signs for the deployment.
#[derive(Debug)]
pub(crate) struct Memory {
    path: Option<PathBuf>,
    known: Option<Known>,
    /// Whether the file has what is known.
    is_saved: bool,
}

#[derive(Clone, Debug)]
struct Known {
    transition: SignedTransition,
    key: TransitionKey,
    root_ca: Vec<u8>,
}

impl Memory {
    /// What the file in `directory` remembers, nothing where there is none yet. Without a directory
    /// nothing outlives the process.
    pub(crate) fn open(directory: Option<&Path>) -> Result<Self, MemoryError> {
        let Some(directory) = directory else {
            return Ok(Self {
                path: None,
                known: None,
                is_saved: true,
            });
        };
        let path = directory.join(FILE);
        let failed = |what| {
            let path = path.clone();
            move |source| MemoryError::Io { what, path, source }
        };
        fs::create_dir_all(directory).map_err(failed("make the directory of"))?;
        let known = match read(&path) {
            Ok(text) => Some(Known::parse(&text).map_err(|damage| MemoryError::Damaged {
                path: path.clone(),
                damage,
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read")(error)),
        };
        Ok(Self {
            path: Some(path),
            known,
            is_saved: true,
        })
    }

    /// The latest transition, signed and encoded; empty where none is known.
    pub(crate) fn latest(&self) -> Vec<u8> {
        let transition = self.known.as_ref().map(|known| &known.transition);
        transition.map(SignedTransition::encode).unwrap_or_default()
    }

    /// The end of the history that was seen.
    #[cfg(test)]
    pub(crate) fn head(&self) -> Option<history::Head> {
        let transition = self.known.as_ref().map(|known| &known.transition);
        transition.map(|it| it.transition.head())
    }

    /// Refuses a state of another deployment, or an older one; else remembers it, in this process at
    /// least: [`Memory::save`] makes it last.
    pub(crate) fn accept(&mut self, state: &MeshState) -> Result<(), Distrust> {
        if let Some(known) = &self.known {
            if state.key != known.key {
                return Err(Distrust::TransitionKey(self.forget()));
            }
            if state.root_ca != known.root_ca {
                return Err(Distrust::RootCa(self.forget()));
            }
            check_not_older(&known.transition.transition.head(), &state.head())?;
            if known.transition.transition == state.transition.transition {
                return Ok(());
            }
        }
        self.known = Some(Known {
            transition: state.transition.clone(),
            key: state.key.clone(),
            root_ca: state.root_ca.clone(),
        });
        self.is_saved = false;
        Ok(())
    }

    /// Whether the file, if there is to be one, has what is known.
    pub(crate) fn is_saved(&self) -> bool {
        self.is_saved
    }

    /// Writes what is new to the file.
    pub(crate) fn save(&mut self) -> Result<(), MemoryError> {
        if self.is_saved {
            return Ok(());
        }
        if let (Some(path), Some(known)) = (&self.path, &self.known) {
            atomic_file::write(path, 0o644, known.to_json().as_bytes()).map_err(|source| {
                MemoryError::Io {
                    what: "write",
                    path: path.clone(),
                    source,
                }
            })?;
        }
        self.is_saved = true;
        Ok(())
    }

    fn forget(&self) -> Forget {
        Forget(self.path.clone())
    }
}

impl Known {
    fn parse(text: &[u8]) -> Result<Self, Damage> {
        let file: File = serde_json::from_slice(text).map_err(|_| Damage::Json)?;
        if file.format != FORMAT {
            return Err(Damage::Json);
        }
        if file.digest != file.content_digest() {
            return Err(Damage::Digest);
        }
        let transition = hex::decode(&file.transition).map_err(|_| Damage::Contents)?;
        let transition = SignedTransition::decode(&transition).map_err(|_| Damage::Contents)?;
        let key = hex::decode(&file.transition_key).map_err(|_| Damage::Contents)?;
        let key = TransitionKey::from_spki(&key).map_err(|_| Damage::Contents)?;
        key.verify(&transition).map_err(|_| Damage::Contents)?;
        Ok(Self {
            transition,
            key,
            root_ca: hex::decode(&file.root_ca).map_err(|_| Damage::Contents)?,
        })
    }

    fn to_json(&self) -> String {
        let mut file = File {
            format: FORMAT,
            transition: hex::encode(self.transition.encode()),
            transition_key: hex::encode(self.key.spki_der()),
            root_ca: hex::encode(&self.root_ca),
            digest: String::new(),
        };
        file.digest = file.content_digest();
        // Numbers and strings always have a JSON form.
        serde_json::to_string_pretty(&file).unwrap_or_default() + "\n"
    }
}

/// The file: JSON, bytes in hexadecimal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct File {
    format: u32,
    transition: String,
    transition_key: String,
    root_ca: String,
    /// SHA-256 of the other fields: tells damage from anything else.
    digest: String,
}

impl File {
    fn content_digest(&self) -> String {
        let Self {
            format,
            transition,
            transition_key,
            root_ca,
            digest: _,
        } = self;
        let text =
            format!("sealwire agent memory\n{format}\n{transition}\n{transition_key}\n{root_ca}");
        Digest::of(text.as_bytes()).to_string()
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    fs::File::open(path)?
        .take(MAX_BYTES)
        .read_to_end(&mut text)?;
    Ok(text)
}

/// Why a Coordinator, though attested, is not this deployment's, or not up to date.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Distrust {
    /// Another key signs its history.
    #[error(
        "the Coordinator's history is signed with another key than before: it is of another \
         deployment; if the deployment was set up anew, {0}"
    )]
    TransitionKey(Forget),
    /// It has another root CA.
    #[error(
        "the Coordinator has another root CA than before: it is of another deployment; if the \
         deployment was set up anew, {0}"
    )]
    RootCa(Forget),
    /// Its history is older than what was seen, or forked.
    #[error(transparent)]
    Rollback(#[from] Rollback),
}

/// How to make the agent forget its deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Forget(Option<PathBuf>);

impl std::fmt::Display for Forget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Some(path) => write!(
                f,
                "stop the agent, remove {} and start it again",
                path.display()
            ),
            None => f.write_str("start the agent again"),
        }
    }
}

/// Why what is remembered can't be read or written.
#[derive(Debug, Error)]
pub(crate) enum MemoryError {
    /// The system does not let it.
    #[error("can't {what} {}, which remembers the deployment: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not as it was written.
    #[error(
        "{}, which remembers the deployment, {damage}: restore it; or remove it, and the agent \
         trusts the next Coordinator that is attested, as it did the first time",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        damage: Damage,
    },
}

/// How it shows that a file is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Damage {
    /// It is cut off, or was never this file.
    #[error("is cut off or of another kind")]
    Json,
    /// Its digest does not match.
    #[error("was changed")]
    Digest,
    /// Its digest matches, but not what it says.
    #[error("has contents that do not belong together")]
    Contents,
}

const FILE: &str = "deployment.json";
const FORMAT: u32 = 1;

/// Far longer than the file ever is.
const MAX_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolment::testing::Deployment;

    fn state(deployment: &Deployment, seq: u64) -> MeshState {
        MeshState::read(deployment.state(seq)).unwrap()
    }

    fn remembering(directory: &Path, state: &MeshState) -> Memory {
        let mut memory = Memory::open(Some(directory)).unwrap();
        memory.accept(state).unwrap();
        memory.save().unwrap();
        memory
    }

    #[test]
    fn what_was_saved_is_known_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("state/agent");
        let deployment = Deployment::new();
        assert_eq!(Memory::open(Some(&directory)).unwrap().head(), None);
        assert!(Memory::open(Some(&directory)).unwrap().latest().is_empty());
        let newest = state(&deployment, 2);
        remembering(&directory, &newest);
        let memory = Memory::open(Some(&directory)).unwrap();
        assert_eq!(memory.head(), Some(newest.head()));
        assert_eq!(memory.latest(), newest.transition.encode());
    }

    #[test]
    fn an_older_and_a_forked_history_are_refused_and_the_same_and_newer_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let deployment = Deployment::new();
        let mut memory = remembering(directory.path(), &state(&deployment, 5));
        let refused = memory.accept(&state(&deployment, 4)).unwrap_err();
        assert!(matches!(
            refused,
            Distrust::Rollback(Rollback::Older { .. })
        ));
        let fork = MeshState::read(deployment.fork(5)).unwrap();
        let refused = memory.accept(&fork).unwrap_err();
        assert!(matches!(refused, Distrust::Rollback(Rollback::Fork { .. })));
        assert_eq!(memory.head().unwrap().seq, 5);
        memory.accept(&state(&deployment, 5)).unwrap();
        memory.accept(&state(&deployment, 7)).unwrap();
        assert_eq!(memory.head().unwrap().seq, 7);
        memory.accept(&state(&deployment, 6)).unwrap_err();
    }

    #[test]
    fn another_deployment_is_refused_even_with_a_longer_history() {
        let directory = tempfile::tempdir().unwrap();
        let deployment = Deployment::new();
        let mut memory = remembering(directory.path(), &state(&deployment, 5));
        let refused = memory.accept(&state(&Deployment::new(), 9)).unwrap_err();
        let path = directory.path().join(FILE);
        assert!(matches!(refused, Distrust::TransitionKey(_)));
        assert!(refused.to_string().contains(path.to_str().unwrap()));
        let mut other_root = state(&deployment, 9);
        other_root.root_ca.push(0);
        let refused = memory.accept(&other_root).unwrap_err();
        assert!(matches!(refused, Distrust::RootCa(_)));
        assert_eq!(memory.head().unwrap().seq, 5);
    }

    #[test]
    fn a_file_that_was_flipped_or_cut_off_is_refused_and_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        remembering(directory.path(), &state(&Deployment::new(), 5));
        let path = directory.path().join(FILE);
        let text = fs::read(&path).unwrap();
        Known::parse(&text).unwrap();
        // Without its last line feed it says the same.
        for index in 0..text.len() - 1 {
            Known::parse(&text[..index]).unwrap_err();
            let mut text = text.clone();
            text[index] ^= 1;
            Known::parse(&text).unwrap_err();
        }
        fs::write(&path, &text[..100]).unwrap();
        let error = Memory::open(Some(directory.path())).unwrap_err();
        assert!(matches!(error, MemoryError::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("remove it"), "{error}");
    }

    #[test]
    fn contents_that_do_not_belong_together_are_refused_in_spite_of_their_digest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let known = |seq| {
            let state = state(&Deployment::new(), seq);
            Known {
                transition: state.transition,
                key: state.key,
                root_ca: state.root_ca,
            }
        };
        let mixed = Known {
            key: known(1).key,
            ..known(1)
        };
        fs::write(&path, mixed.to_json()).unwrap();
        let error = Memory::open(Some(directory.path())).unwrap_err();
        let damage = Damage::Contents;
        assert!(matches!(error, MemoryError::Damaged { damage: it, .. } if it == damage));
    }

    #[test]
    fn what_could_not_be_saved_is_remembered_meanwhile_and_saved_later() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("state");
        let deployment = Deployment::new();
        let mut memory = Memory::open(Some(&directory)).unwrap();
        fs::remove_dir(&directory).unwrap();
        memory.accept(&state(&deployment, 5)).unwrap();
        memory.save().unwrap_err();
        memory.accept(&state(&deployment, 4)).unwrap_err();
        fs::create_dir(&directory).unwrap();
        memory.accept(&state(&deployment, 5)).unwrap();
        memory.save().unwrap();
        assert_eq!(
            Memory::open(Some(&directory)).unwrap().head().unwrap().seq,
            5
        );
    }
}
