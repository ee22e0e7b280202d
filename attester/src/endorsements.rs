use std::io;
use std::path::{Path, PathBuf};

use attestation::sev_snp;
use thiserror::Error;

use crate::cert_table::CertTable;
use crate::error::AttesterError;
use crate::tsm_fs::read_at_most;

/// Files in which the operator keeps what the vendor says of the platform. They are read anew for
/// each piece of evidence, so that replacing one needs no restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndorsementFiles {
    /// SEV-SNP: the VCEK's or VLEK's certificate, DER or PEM. Goes before what the host gives.
    pub vek: Option<PathBuf>,
    /// SEV-SNP: AMD's certificate revocation list of the product, DER or PEM. Goes before what the
    /// host gives.
    pub crl: Option<PathBuf>,
    /// TDX: the platform's collateral, JSON.
    pub collateral: Option<PathBuf>,
}

impl EndorsementFiles {
    pub(crate) fn sev_snp(
        &self,
        report: Vec<u8>,
        cert_table: &[u8],
    ) -> Result<sev_snp::Evidence, AttesterError> {
        if report.len() != SNP_REPORT_BYTES {
            return Err(AttesterError::ReportLength { got: report.len() });
        }
        let vek = self
            .vek
            .as_deref()
            .map(|path| read_der(path, "CERTIFICATE"));
        let crl = self.crl.as_deref().map(|path| read_der(path, "X509 CRL"));
        // A broken table does no harm where the operator's files stand in for it.
        let table = match CertTable::parse(cert_table) {
            Ok(table) => table,
            Err(_) if vek.is_some() => CertTable::default(),
            Err(error) => return Err(error.into()),
        };
        let of_host = if is_signed_by_vlek(&report) {
            table.vlek
        } else {
            table.vcek
        };
        Ok(sev_snp::Evidence {
            report,
            vek: vek.transpose()?.or(of_host).ok_or(AttesterError::NoVek)?,
            crl: crl.transpose()?.or(table.crl),
        })
    }

    pub(crate) fn tdx_collateral(&self) -> Result<Vec<u8>, AttesterError> {
        self.collateral
            .as_deref()
            .map(|path| read(path, MAX_COLLATERAL_BYTES))
            .transpose()
            .map(Option::unwrap_or_default)
    }
}

/// `SIGNING_KEY` in `KEY_INFO`: bits 2 to 4 of the byte at 48h (SEV-SNP ABI, table 23).
fn is_signed_by_vlek(report: &[u8]) -> bool {
    report.get(0x48).is_some_and(|info| info >> 2 & 0b111 == 1)
}

fn read_der(path: &Path, label: &str) -> Result<Vec<u8>, AttesterError> {
    let bytes = read(path, MAX_FILE_BYTES)?;
    if bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(bytes);
    }
    match pem_rfc7468::decode_vec(&bytes) {
        Ok((found, der)) if found == label => Ok(der),
        Ok((found, _)) => Err(problem(
            path,
            FileProblem::Label {
                got: found.to_owned(),
                want: label.to_owned(),
            },
        )),
        Err(error) => Err(problem(path, FileProblem::Encoding(error))),
    }
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, AttesterError> {
    let bytes = read_at_most(path, limit).map_err(|error| problem(path, error.into()))?;
    if bytes.is_empty() {
        return Err(problem(path, FileProblem::Empty));
    }
    if bytes.len() > limit {
        return Err(problem(path, FileProblem::TooLong { limit }));
    }
    Ok(bytes)
}

fn problem(path: &Path, problem: FileProblem) -> AttesterError {
    AttesterError::File {
        path: path.to_owned(),
        problem,
    }
}

/// What is wrong with a file of endorsements.
#[derive(Debug, Error)]
pub enum FileProblem {
    /// It can't be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It has no contents.
    #[error("it is empty")]
    Empty,
    /// It is longer than such files are.
    #[error("it is longer than {limit} bytes")]
    TooLong {
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// It is neither DER nor a single PEM document.
    #[error("neither DER nor one PEM document: {0}")]
    Encoding(pem_rfc7468::Error),
    /// It is a PEM document of another kind.
    #[error("PEM of a {got:?}, not of a {want:?}")]
    Label {
        /// The label found.
        got: String,
        /// The label that is wanted.
        want: String,
    },
}

const SNP_REPORT_BYTES: usize = 1184;
const DER_SEQUENCE: u8 = 0x30;
const MAX_FILE_BYTES: usize = 64 * 1024;
/// Leaves room for a quote within the longest evidence.
const MAX_COLLATERAL_BYTES: usize = attestation::Evidence::MAX_BYTES - 64 * 1024;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cert_table::tests::{table_with_vcek, table_with_vcek_and_vlek};

    const REPORT: [u8; SNP_REPORT_BYTES] = [0; SNP_REPORT_BYTES];
    const DER: &[u8] = &[0x30, 1, 2];

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.path().join(name);
            fs::write(&path, contents).unwrap();
            path
        }
    }

    fn vek(path: PathBuf) -> Result<sev_snp::Evidence, AttesterError> {
        EndorsementFiles {
            vek: Some(path),
            ..EndorsementFiles::default()
        }
        .sev_snp(REPORT.to_vec(), &[])
    }

    #[test]
    fn the_hosts_certificate_serves_where_the_operator_gives_none() {
        let evidence = EndorsementFiles::default()
            .sev_snp(REPORT.to_vec(), &table_with_vcek(b"of the host"))
            .unwrap();
        assert_eq!(evidence.vek, b"of the host");
        assert_eq!(evidence.crl, None);
    }

    #[test]
    fn of_the_hosts_certificates_it_takes_that_of_the_key_that_signed() {
        let table = table_with_vcek_and_vlek(b"vcek", b"vlek");
        for (key_info, vek) in [(0, b"vcek"), (1 << 2, b"vlek")] {
            let mut report = REPORT.to_vec();
            report[0x48] = key_info;
            let evidence = EndorsementFiles::default().sev_snp(report, &table);
            assert_eq!(evidence.unwrap().vek, vek);
        }
    }

    #[test]
    fn the_operators_files_go_before_the_hosts_even_a_broken_one() {
        let dir = Dir::new();
        let pem = pem_rfc7468::encode_string("X509 CRL", pem_rfc7468::LineEnding::LF, b"a list");
        let files = EndorsementFiles {
            vek: Some(dir.file("vcek.der", DER)),
            crl: Some(dir.file("crl.pem", pem.unwrap())),
            collateral: None,
        };
        for table in [table_with_vcek(b"of the host"), vec![1; 5]] {
            let evidence = files.sev_snp(REPORT.to_vec(), &table).unwrap();
            assert_eq!(evidence.vek, DER);
            assert_eq!(evidence.crl.as_deref(), Some(&b"a list"[..]));
        }
    }

    #[test]
    fn a_file_that_is_replaced_is_read_anew() {
        let dir = Dir::new();
        let path = dir.file("vcek.der", DER);
        assert_eq!(vek(path.clone()).unwrap().vek, DER);
        dir.file("vcek.der", [0x30, 9]);
        assert_eq!(vek(path).unwrap().vek, [0x30, 9]);
    }

    #[test]
    fn each_useless_file_is_refused_with_its_problem() {
        let dir = Dir::new();
        let refused = |path| match vek(path).unwrap_err() {
            AttesterError::File { problem, .. } => problem,
            other => panic!("{other}"),
        };
        let of_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(
            refused(dir.0.path().join("absent")),
            FileProblem::Io(error) if error.kind() == io::ErrorKind::NotFound
        ));
        assert!(matches!(refused(dir.file("empty", "")), FileProblem::Empty));
        assert!(matches!(
            refused(dir.file("long", vec![0x30; MAX_FILE_BYTES + 1])),
            FileProblem::TooLong { .. }
        ));
        assert!(matches!(
            refused(dir.file("text", "hello")),
            FileProblem::Encoding(_)
        ));
        assert!(matches!(
            refused(dir.file("key", of_key)),
            FileProblem::Label { got, .. } if got == "PRIVATE KEY"
        ));
    }

    #[test]
    fn without_any_certificate_the_operator_is_told_to_fetch_it() {
        let files = EndorsementFiles::default();
        let error = files.sev_snp(REPORT.to_vec(), &[]).unwrap_err();
        assert!(matches!(error, AttesterError::NoVek));
        let error = files.sev_snp(REPORT.to_vec(), &[1]).unwrap_err();
        assert!(matches!(error, AttesterError::CertTable(_)));
    }

    #[test]
    fn a_report_of_another_length_is_refused() {
        let error = EndorsementFiles::default().sev_snp(vec![0; 1183], &[]);
        assert!(matches!(
            error,
            Err(AttesterError::ReportLength { got: 1183 })
        ));
    }

    #[test]
    fn collateral_is_what_the_file_holds_or_nothing() {
        let dir = Dir::new();
        let files = EndorsementFiles {
            collateral: Some(dir.file("collateral.json", "{}")),
            ..EndorsementFiles::default()
        };
        assert_eq!(files.tdx_collateral().unwrap(), b"{}");
        let none = EndorsementFiles::default().tdx_collateral().unwrap();
        assert!(none.is_empty());
    }
}
