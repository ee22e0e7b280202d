use std::io;
use std::path::{Path, PathBuf};

use attestation::{Evidence, ReportData, Tee, tdx};
use aws_lc_rs::rand;

use crate::endorsements::EndorsementFiles;
use crate::error::{AttesterError, TsmOperation};
use crate::source::EvidenceSource;
use crate::tsm_fs::{Configfs, TsmFs};

/// The kernel's interface to the TEE of a guest, the same for all vendors
/// (`Documentation/ABI/testing/configfs-tsm`).
///
/// # Minimum kernel version
///
/// 6.7; the host's certificates of SEV-SNP come with the same version.
#[derive(Debug)]
pub struct ConfigfsTsm {
    fs: Box<dyn TsmFs>,
    root: PathBuf,
    provider: Provider,
    endorsements: EndorsementFiles,
}

impl ConfigfsTsm {
    /// Asks which TEE the kernel speaks for.
    ///
    /// `root` is `/sys/kernel/config/tsm/report`, but in tests and containers.
    pub fn open(root: &Path, endorsements: EndorsementFiles) -> Result<Self, AttesterError> {
        Self::with_fs(Box::new(Configfs), root, endorsements)
    }

    fn with_fs(
        fs: Box<dyn TsmFs>,
        root: &Path,
        endorsements: EndorsementFiles,
    ) -> Result<Self, AttesterError> {
        let provider = Entry::create(&*fs, root)?.provider()?;
        Ok(Self {
            fs,
            root: root.to_owned(),
            provider,
            endorsements,
        })
    }

    fn request(&self, report_data: &ReportData) -> Result<Blobs, Failure> {
        let entry = Entry::create(&*self.fs, &self.root)?;
        let before = entry.generation()?;
        let mut writes = 0;
        if self.provider == Provider::SevGuest
            && let Some(floor) = entry.privilege_floor()?
        {
            entry.write("privlevel", floor.as_bytes())?;
            writes += 1;
        }
        entry.write("inblob", &report_data.0)?;
        writes += 1;
        let report = entry.read("outblob", MAX_REPORT_BYTES)?;
        let cert_table = match self.provider {
            Provider::SevGuest => entry.read_if_present("auxblob", MAX_CERT_TABLE_BYTES)?,
            Provider::TdxGuest => Vec::new(),
        };
        // Every write counts. Were there others than ours, the answer may be to another question.
        if entry.generation()? != before.wrapping_add(writes) {
            return Err(Failure::Disturbed);
        }
        Ok(Blobs { report, cert_table })
    }

    fn request_undisturbed(&self, report_data: &ReportData) -> Result<Blobs, AttesterError> {
        for _ in 0..ATTEMPTS {
            match self.request(report_data) {
                Ok(blobs) => return Ok(blobs),
                Err(Failure::Disturbed) => {}
                Err(Failure::Final(error)) => return Err(error),
            }
        }
        Err(AttesterError::Disturbed { attempts: ATTEMPTS })
    }
}

impl EvidenceSource for ConfigfsTsm {
    fn tee(&self) -> Tee {
        match self.provider {
            Provider::SevGuest => Tee::SevSnp,
            Provider::TdxGuest => Tee::Tdx,
        }
    }

    fn evidence(&self, report_data: &ReportData) -> Result<Evidence, AttesterError> {
        match self.provider {
            Provider::SevGuest => {
                let Blobs { report, cert_table } = self.request_undisturbed(report_data)?;
                self.endorsements
                    .sev_snp(report, &cert_table)
                    .map(Evidence::SevSnp)
            }
            Provider::TdxGuest => {
                // First what may fail for less.
                let collateral = self.endorsements.tdx_collateral()?;
                let quote = self.request_undisturbed(report_data)?.report;
                Ok(Evidence::Tdx(tdx::Evidence { quote, collateral }))
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    SevGuest,
    TdxGuest,
}

struct Blobs {
    report: Vec<u8>,
    cert_table: Vec<u8>,
}

enum Failure {
    /// Somebody else wrote to the entry, or holds its lock.
    Disturbed,
    Final(AttesterError),
}

impl From<AttesterError> for Failure {
    fn from(error: AttesterError) -> Self {
        match error {
            AttesterError::Tsm { ref source, .. } if is_conflict(source) => Self::Disturbed,
            other => Self::Final(other),
        }
    }
}

/// Which error a conflicting access gives has changed from one kernel version to another.
fn is_conflict(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ResourceBusy | io::ErrorKind::Interrupted
    )
}

/// A directory of configfs-tsm that stands for one request; removed when dropped.
struct Entry<'a> {
    fs: &'a dyn TsmFs,
    path: PathBuf,
}

impl<'a> Entry<'a> {
    fn create(fs: &'a dyn TsmFs, root: &Path) -> Result<Self, AttesterError> {
        let mut suffix = [0; 8];
        rand::fill(&mut suffix).map_err(|_| AttesterError::Crypto("make a random name"))?;
        let path = root.join(format!("sealwire-{}", hex::encode(suffix)));
        match fs.create_dir(&path) {
            Ok(()) => Ok(Self { fs, path }),
            Err(source) => Err(AttesterError::Tsm {
                operation: TsmOperation::Create,
                path,
                source,
            }),
        }
    }

    fn provider(&self) -> Result<Provider, AttesterError> {
        let name = self.read_text("provider")?;
        match name.as_str() {
            "sev_guest" => Ok(Provider::SevGuest),
            "tdx_guest" => Ok(Provider::TdxGuest),
            _ => Err(AttesterError::UnknownProvider { provider: name }),
        }
    }

    fn generation(&self) -> Result<u64, AttesterError> {
        self.read_text("generation")?
            .parse()
            .map_err(|_| self.failed(TsmOperation::Read, "generation", invalid_data()))
    }

    /// The most privileged level that may be asked for, where it is not the default (zero): with an
    /// SVSM below the guest.
    fn privilege_floor(&self) -> Result<Option<String>, AttesterError> {
        let floor = self.read_if_present("privlevel_floor", MAX_TEXT_BYTES)?;
        let floor = String::from_utf8_lossy(&floor).trim().to_owned();
        Ok((!matches!(floor.as_str(), "" | "0")).then_some(floor))
    }

    fn write(&self, attribute: &str, bytes: &[u8]) -> Result<(), AttesterError> {
        self.fs
            .write(&self.path.join(attribute), bytes)
            .map_err(|error| self.failed(TsmOperation::Write, attribute, error))
    }

    fn read_text(&self, attribute: &'static str) -> Result<String, AttesterError> {
        let bytes = self.read(attribute, MAX_TEXT_BYTES)?;
        Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    fn read_if_present(
        &self,
        attribute: &'static str,
        limit: usize,
    ) -> Result<Vec<u8>, AttesterError> {
        match self.read(attribute, limit) {
            Err(AttesterError::Tsm { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    fn read(&self, attribute: &'static str, limit: usize) -> Result<Vec<u8>, AttesterError> {
        let too_long = AttesterError::TooLong {
            what: attribute,
            limit,
        };
        match self.fs.read(&self.path.join(attribute), limit) {
            Ok(bytes) if bytes.len() > limit => Err(too_long),
            Ok(bytes) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => Err(too_long),
            Err(error) => Err(self.failed(TsmOperation::Read, attribute, error)),
        }
    }

    fn failed(&self, operation: TsmOperation, attribute: &str, source: io::Error) -> AttesterError {
        AttesterError::Tsm {
            operation,
            path: self.path.join(attribute),
            source,
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        // Nothing can be done about a failure, and the next request has an entry of its own.
        let _ = self.fs.remove_dir(&self.path);
    }
}

fn invalid_data() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

const ATTEMPTS: u32 = 5;
const MAX_TEXT_BYTES: usize = 64;
/// The kernel's own limit (`TSM_OUTBLOB_MAX`).
const MAX_REPORT_BYTES: usize = 32 * 1024;
/// Four times the kernel's own limit (`SEV_FW_BLOB_MAX_SIZE`).
const MAX_CERT_TABLE_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
