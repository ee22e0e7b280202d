use std::fmt;

use attestation::{Evidence, ReportData, Tee};
use sev::firmware::guest::Firmware;

use crate::endorsements::EndorsementFiles;
use crate::error::AttesterError;
use crate::source::EvidenceSource;

/// The device of SEV-SNP, for kernels without configfs-tsm.
///
/// The certificate must come from a file: the `sev` crate reads the host's table of certificates
/// through raw pointers without looking at its bounds, and the host is not trusted. With
/// [`ConfigfsTsm`](crate::ConfigfsTsm) the table is read with care.
///
/// # Minimum kernel version
///
/// 5.19.
#[derive(Debug)]
pub struct SevGuest {
    device: Box<dyn Device>,
    endorsements: EndorsementFiles,
}

impl SevGuest {
    /// Will open `/dev/sev-guest` for each request.
    pub fn new(endorsements: EndorsementFiles) -> Self {
        Self {
            device: Box::new(DevSevGuest),
            endorsements,
        }
    }
}

impl EvidenceSource for SevGuest {
    fn tee(&self) -> Tee {
        Tee::SevSnp
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError> {
        let report = self.device.report(report_data)?;
        self.endorsements.sev_snp(report, &[]).map(Evidence::SevSnp)
    }
}

trait Device: Send + Sync + fmt::Debug {
    fn report(&self, report_data: &ReportData) -> Result<Vec<u8>, AttesterError>;
}

#[derive(Debug)]
struct DevSevGuest;

impl Device for DevSevGuest {
    fn report(&self, report_data: &ReportData) -> Result<Vec<u8>, AttesterError> {
        let mut device = Firmware::open().map_err(|error| AttesterError::SevGuest(error.into()))?;
        device
            .get_report(None, Some(report_data.0), Some(0))
            .map_err(|error| AttesterError::SevGuest(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fake;

    impl Device for Fake {
        fn report(&self, report_data: &ReportData) -> Result<Vec<u8>, AttesterError> {
            let mut report = vec![0; 1184];
            report[0x50..0x90].copy_from_slice(&report_data.0);
            Ok(report)
        }
    }

    fn source(endorsements: EndorsementFiles) -> SevGuest {
        SevGuest {
            device: Box::new(Fake),
            endorsements,
        }
    }

    #[test]
    fn the_report_goes_with_the_operators_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vcek.der");
        std::fs::write(&path, [0x30, 0]).unwrap();
        let evidence = source(EndorsementFiles {
            vek: Some(path),
            ..EndorsementFiles::default()
        })
        .evidence(&ReportData([7; 64]))
        .unwrap();
        let Evidence::SevSnp(evidence) = evidence else {
            panic!("of another TEE");
        };
        assert_eq!(evidence.report[0x50..0x90], [7; 64]);
        assert_eq!(evidence.vek, [0x30, 0]);
    }

    #[test]
    fn without_a_certificate_there_is_no_evidence() {
        let error = source(EndorsementFiles::default()).evidence(&ReportData([7; 64]));
        assert!(matches!(error, Err(AttesterError::NoVek)));
    }

    #[test]
    fn a_machine_without_the_device_says_so() {
        if std::path::Path::new("/dev/sev-guest").exists() {
            return;
        }
        let error = SevGuest::new(EndorsementFiles::default())
            .evidence(&ReportData([7; 64]))
            .unwrap_err();
        assert!(matches!(error, AttesterError::SevGuest(_)), "{error}");
    }
}
