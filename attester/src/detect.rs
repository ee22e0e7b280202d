use std::path::PathBuf;

use crate::configfs_tsm::ConfigfsTsm;
use crate::endorsements::EndorsementFiles;
use crate::error::AttesterError;
use crate::sev_guest::SevGuest;
use crate::source::EvidenceSource;

/// Where to look for a TEE, and for what its vendor says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The directory of configfs-tsm.
    pub tsm: PathBuf,
    /// The device of SEV-SNP; its presence is looked at, the device itself is always
    /// `/dev/sev-guest`.
    pub sev_guest: PathBuf,
    /// The operator's files.
    pub endorsements: EndorsementFiles,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            tsm: PathBuf::from("/sys/kernel/config/tsm/report"),
            sev_guest: PathBuf::from("/dev/sev-guest"),
            endorsements: EndorsementFiles::default(),
        }
    }
}

/// The TEE of hardware that this process runs in: by configfs-tsm where the kernel has it, else by
/// the device of SEV-SNP. Never the simulated one, which has to be asked for by name.
pub fn detect(paths: &Paths) -> Result<Box<dyn EvidenceSource>, AttesterError> {
    let Paths {
        tsm,
        sev_guest,
        endorsements,
    } = paths;
    if tsm.exists() {
        return Ok(Box::new(ConfigfsTsm::open(tsm, endorsements.clone())?));
    }
    if sev_guest.exists() {
        return Ok(Box::new(SevGuest::new(endorsements.clone())));
    }
    Err(AttesterError::NoTee {
        tsm: tsm.clone(),
        sev_guest: sev_guest.clone(),
    })
}

#[cfg(test)]
mod tests {
    use attestation::Tee;

    use super::*;

    fn paths(dir: &tempfile::TempDir) -> Paths {
        Paths {
            tsm: dir.path().join("report"),
            sev_guest: dir.path().join("sev-guest"),
            ..Paths::default()
        }
    }

    #[test]
    fn a_machine_without_a_tee_is_told_where_it_was_looked_for() {
        let paths = paths(&tempfile::tempdir().unwrap());
        let message = detect(&paths).unwrap_err().to_string();
        assert!(message.contains(paths.tsm.to_str().unwrap()), "{message}");
        assert!(
            message.contains(paths.sev_guest.to_str().unwrap()),
            "{message}"
        );
    }

    #[test]
    fn the_device_of_sev_snp_is_the_fallback() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        std::fs::write(&paths.sev_guest, "").unwrap();
        assert_eq!(detect(&paths).unwrap().tee(), Tee::SevSnp);
    }

    #[test]
    fn configfs_tsm_that_does_not_answer_is_an_error_and_no_fallback() {
        let dir = tempfile::tempdir().unwrap();
        let paths = paths(&dir);
        std::fs::write(&paths.sev_guest, "").unwrap();
        std::fs::create_dir(&paths.tsm).unwrap();
        let error = detect(&paths).unwrap_err();
        assert!(
            matches!(&error, AttesterError::Tsm { path, .. } if path.ends_with("provider")),
            "{error}"
        );
    }
}
