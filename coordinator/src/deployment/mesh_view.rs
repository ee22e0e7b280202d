//! Which mesh CAs are trusted, and which one signs: a function of history alone.
//!
//! A new generation begins with a manifest or a recovery, and takes over in two steps that history
//! records too, so that every Coordinator is in the same step and a restart forgets none:
//!
//! | transition | trusted | signs | certificates must be of |
//! |---|---|---|---|
//! | `Manifest` (graceful) | old, new | old | old or new |
//! | `Recovery` | old, new | new (the old key is lost) | old or new |
//! | `Issue` | old, new | new | new |
//! | `Withdraw`, or `Manifest` (strict) | new | new | new |

use history::Kind;
use manifest::RotationMode;

/// The number of a mesh CA: the sequence number of the transition that it began with.
pub type Generation = u64;

/// How far the newest generation has taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Old and new are trusted; nobody needs a certificate of the new one.
    Trust,
    /// Old and new are trusted; everybody needs a certificate of the new one.
    Issue,
    /// Only the new one is trusted.
    Done,
}

impl Stage {
    /// The name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Issue => "issue",
            Self::Done => "done",
        }
    }
}

/// What agents trust, and what they are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshView {
    /// Every generation that is trusted, the oldest first. Never empty.
    trusted: Vec<Generation>,
    signing: Generation,
    required: Generation,
    stage: Stage,
}

impl MeshView {
    /// After the very first transition.
    pub fn first(generation: Generation) -> Self {
        Self {
            trusted: vec![generation],
            signing: generation,
            required: generation,
            stage: Stage::Done,
        }
    }

    /// After one more transition; `mode` is that of the manifest in force from then on.
    #[must_use]
    pub fn after(&self, seq: u64, kind: Kind, mode: RotationMode) -> Self {
        match (kind, mode) {
            (Kind::Manifest, RotationMode::Strict) => Self::first(seq),
            (Kind::Manifest, RotationMode::Graceful) => Self {
                trusted: [self.trusted.as_slice(), &[seq]].concat(),
                signing: self.signing,
                required: self.required,
                stage: Stage::Trust,
            },
            (Kind::Recovery, _) => Self {
                trusted: [self.trusted.as_slice(), &[seq]].concat(),
                signing: seq,
                required: self.required,
                stage: Stage::Trust,
            },
            (Kind::Issue, _) => Self {
                trusted: self.trusted.clone(),
                signing: self.newest(),
                required: self.newest(),
                stage: Stage::Issue,
            },
            (Kind::Withdraw, _) => Self::first(self.newest()),
        }
    }

    /// The generation that is to take over, or has.
    pub fn newest(&self) -> Generation {
        self.trusted.last().copied().unwrap_or(self.signing)
    }

    /// Every generation that is trusted, the oldest first.
    pub fn trusted(&self) -> &[Generation] {
        &self.trusted
    }

    /// The generation that signs certificates.
    pub fn signing(&self) -> Generation {
        self.signing
    }

    /// The oldest generation that certificates may be of.
    pub fn required(&self) -> Generation {
        self.required
    }

    /// How far the newest generation has taken over.
    pub fn stage(&self) -> Stage {
        self.stage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RotationMode::{Graceful, Strict};

    fn view(trusted: &[u64], signing: u64, required: u64, stage: Stage) -> MeshView {
        MeshView {
            trusted: trusted.to_vec(),
            signing,
            required,
            stage,
        }
    }

    #[test]
    fn a_graceful_update_takes_over_in_three_steps() {
        let first = MeshView::first(1);
        let trust = first.after(2, Kind::Manifest, Graceful);
        assert_eq!(trust, view(&[1, 2], 1, 1, Stage::Trust));
        let issue = trust.after(3, Kind::Issue, Graceful);
        assert_eq!(issue, view(&[1, 2], 2, 2, Stage::Issue));
        let done = issue.after(4, Kind::Withdraw, Graceful);
        assert_eq!(done, view(&[2], 2, 2, Stage::Done));
    }

    #[test]
    fn a_strict_update_withdraws_at_once() {
        let strict = MeshView::first(1).after(2, Kind::Manifest, Strict);
        assert_eq!(strict, MeshView::first(2));
    }

    #[test]
    fn after_a_recovery_the_new_generation_signs_and_old_certificates_stay_good() {
        let recovered = MeshView::first(1).after(2, Kind::Recovery, Strict);
        assert_eq!(recovered, view(&[1, 2], 2, 1, Stage::Trust));
    }

    #[test]
    fn an_update_during_an_update_keeps_every_generation_until_the_newest_has_taken_over() {
        let second = MeshView::first(1).after(2, Kind::Manifest, Graceful).after(
            3,
            Kind::Manifest,
            Graceful,
        );
        assert_eq!(second, view(&[1, 2, 3], 1, 1, Stage::Trust));
        let done = second
            .after(4, Kind::Issue, Graceful)
            .after(5, Kind::Withdraw, Graceful);
        assert_eq!(done, MeshView::first(3));
    }
}
