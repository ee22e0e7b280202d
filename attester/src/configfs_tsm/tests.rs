use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::*;
use crate::cert_table::tests::table_with_vcek;

const DATA: ReportData = ReportData([0x5a; 64]);

/// What the kernel does behind the files.
#[derive(Clone, Debug)]
struct FakeTsm(Arc<Mutex<Kernel>>);

#[derive(Debug)]
struct Kernel {
    provider: &'static str,
    entries: HashMap<PathBuf, FakeEntry>,
    created: usize,
    /// How many requests somebody else disturbs from now on, and how.
    disturb: usize,
    disturbance: Disturbance,
    privilege_floor: Option<&'static str>,
    outblob: Outblob,
    auxblob: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
enum Disturbance {
    Write,
    Error(io::ErrorKind),
}

#[derive(Clone, Copy, Debug)]
enum Outblob {
    Report,
    TooLargeForTheKernel,
    Long,
}

#[derive(Debug, Default)]
struct FakeEntry {
    generation: u64,
    inblob: Vec<u8>,
    privlevel: Vec<u8>,
}

impl FakeTsm {
    fn new(provider: &'static str) -> Self {
        Self(Arc::new(Mutex::new(Kernel {
            provider,
            entries: HashMap::new(),
            created: 0,
            disturb: 0,
            disturbance: Disturbance::Write,
            privilege_floor: Some("0\n"),
            outblob: Outblob::Report,
            auxblob: Some(table_with_vcek(b"vcek")),
        })))
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap()
    }

    fn open(&self) -> Result<ConfigfsTsm, AttesterError> {
        self.open_with(EndorsementFiles::default())
    }

    fn open_with(&self, endorsements: EndorsementFiles) -> Result<ConfigfsTsm, AttesterError> {
        ConfigfsTsm::with_fs(Box::new(self.clone()), Path::new("/tsm"), endorsements)
    }

    fn evidence(&self) -> Result<Evidence, AttesterError> {
        self.open().unwrap().evidence(&DATA)
    }
}

impl TsmFs for FakeTsm {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut kernel = self.kernel();
        kernel.created += 1;
        assert_eq!(path.parent(), Some(Path::new("/tsm")));
        match kernel.entries.insert(path.to_owned(), FakeEntry::default()) {
            None => Ok(()),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let removed = self.kernel().entries.remove(path);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let kernel = &mut *self.kernel();
        let entry = kernel.entries.get_mut(path.parent().unwrap()).unwrap();
        match path.file_name().unwrap().to_str().unwrap() {
            "provider" => Ok(format!("{}\n", kernel.provider).into_bytes()),
            "generation" => Ok(format!("{}\n", entry.generation).into_bytes()),
            "privlevel_floor" => match kernel.privilege_floor {
                Some(floor) => Ok(floor.as_bytes().to_vec()),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            "outblob" => {
                if kernel.disturb > 0 {
                    kernel.disturb -= 1;
                    match kernel.disturbance {
                        Disturbance::Write => {
                            entry.generation += 1;
                            entry.inblob = vec![0; 64];
                        }
                        Disturbance::Error(kind) => return Err(kind.into()),
                    }
                }
                match kernel.outblob {
                    // Said of the report's fields: the level asked for, the data.
                    Outblob::Report => {
                        let mut report = vec![0; 1184];
                        report[0x30] = *entry.privlevel.first().unwrap_or(&b'0') - b'0';
                        report[0x50..0x90].copy_from_slice(&entry.inblob);
                        Ok(report)
                    }
                    Outblob::TooLargeForTheKernel => Err(io::ErrorKind::FileTooLarge.into()),
                    Outblob::Long => Ok(vec![0; limit + 1]),
                }
            }
            "auxblob" => kernel.auxblob.clone().ok_or(io::ErrorKind::NotFound.into()),
            other => panic!("{other} was read"),
        }
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let kernel = &mut *self.kernel();
        let entry = kernel.entries.get_mut(path.parent().unwrap()).unwrap();
        entry.generation += 1;
        match path.file_name().unwrap().to_str().unwrap() {
            "inblob" => entry.inblob = bytes.to_vec(),
            "privlevel" => entry.privlevel = bytes.to_vec(),
            other => panic!("{other} was written"),
        }
        Ok(())
    }
}

fn report_of(evidence: Evidence) -> Vec<u8> {
    match evidence {
        Evidence::SevSnp(evidence) => evidence.report,
        Evidence::Tdx(evidence) => evidence.quote,
        Evidence::Simulated(_) => panic!("simulated"),
    }
}

#[test]
fn sev_snp_evidence_has_report_and_the_hosts_certificate() {
    let tsm = FakeTsm::new("sev_guest");
    assert_eq!(tsm.open().unwrap().tee(), Tee::SevSnp);
    let Evidence::SevSnp(evidence) = tsm.evidence().unwrap() else {
        panic!("of another TEE");
    };
    assert_eq!(evidence.report[0x50..0x90], DATA.0);
    assert_eq!(evidence.vek, b"vcek");
}

#[test]
fn tdx_evidence_has_quote_and_the_operators_collateral() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("collateral.json");
    std::fs::write(&path, "{}").unwrap();
    let source = FakeTsm::new("tdx_guest")
        .open_with(EndorsementFiles {
            collateral: Some(path),
            ..EndorsementFiles::default()
        })
        .unwrap();
    assert_eq!(source.tee(), Tee::Tdx);
    let Evidence::Tdx(evidence) = source.evidence(&DATA).unwrap() else {
        panic!("of another TEE");
    };
    assert_eq!(evidence.quote[0x50..0x90], DATA.0);
    assert_eq!(evidence.collateral, b"{}");
}

#[test]
fn no_entry_is_left_behind() {
    let tsm = FakeTsm::new("sev_guest");
    tsm.evidence().unwrap();
    tsm.kernel().outblob = Outblob::TooLargeForTheKernel;
    tsm.evidence().unwrap_err();
    assert!(tsm.kernel().entries.is_empty());
}

#[test]
fn another_writer_makes_it_ask_again_in_a_new_entry() {
    for disturbance in [
        Disturbance::Write,
        Disturbance::Error(io::ErrorKind::WouldBlock),
        Disturbance::Error(io::ErrorKind::ResourceBusy),
    ] {
        let tsm = FakeTsm::new("sev_guest");
        let source = tsm.open().unwrap();
        let before = tsm.kernel().created;
        tsm.kernel().disturb = 2;
        tsm.kernel().disturbance = disturbance;
        let report = report_of(source.evidence(&DATA).unwrap());
        assert_eq!(report[0x50..0x90], DATA.0, "{disturbance:?}");
        assert_eq!(tsm.kernel().created, before + 3, "{disturbance:?}");
    }
}

#[test]
fn endless_disturbance_ends_in_an_error() {
    let tsm = FakeTsm::new("sev_guest");
    tsm.kernel().disturb = usize::MAX;
    let error = tsm.evidence().unwrap_err();
    assert!(matches!(error, AttesterError::Disturbed { attempts: 5 }));
    assert!(tsm.kernel().entries.is_empty());
}

#[test]
fn a_blob_too_large_for_the_kernel_or_for_us_is_an_error() {
    for outblob in [Outblob::TooLargeForTheKernel, Outblob::Long] {
        let tsm = FakeTsm::new("sev_guest");
        tsm.kernel().outblob = outblob;
        let error = tsm.evidence().unwrap_err();
        assert!(
            matches!(
                error,
                AttesterError::TooLong {
                    what: "outblob",
                    ..
                }
            ),
            "{error}"
        );
    }
}

#[test]
fn an_unknown_provider_is_named() {
    let error = FakeTsm::new("arm_cca_guest").open().unwrap_err();
    assert!(error.to_string().contains("arm_cca_guest"), "{error}");
}

#[test]
fn a_guest_on_an_svsm_asks_at_its_own_level() {
    for (floor, level) in [(None, 0), (Some("0\n"), 0), (Some("2\n"), 2)] {
        let tsm = FakeTsm::new("sev_guest");
        tsm.kernel().privilege_floor = floor;
        assert_eq!(report_of(tsm.evidence().unwrap())[0x30], level, "{floor:?}");
    }
}

#[test]
fn a_host_without_certificates_or_with_broken_ones_is_told_of() {
    let tsm = FakeTsm::new("sev_guest");
    for none in [None, Some(Vec::new())] {
        tsm.kernel().auxblob = none;
        assert!(matches!(tsm.evidence(), Err(AttesterError::NoVek)));
    }
    tsm.kernel().auxblob = Some(vec![1; 23]);
    assert!(matches!(tsm.evidence(), Err(AttesterError::CertTable(_))));
}
