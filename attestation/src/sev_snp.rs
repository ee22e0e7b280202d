//! Evidence of AMD SEV-SNP.
//!
//! What is judged are the bytes that came, not what they decode to: the signature is checked over
//! them, and those that it does not cover must be zero, so that no bit can be changed.
//!
//! Sources: "ABI" is AMD's SEV Secure Nested Paging Firmware ABI Specification (56860), "KDS" its
//! VCEK and KDS Interface Specification (57230).

mod appraise;
mod bits;
mod chain;
mod crl;
mod fields;
mod report;
mod roots;
mod vek;

use std::fmt;

use rustls_pki_types::UnixTime;

pub use bits::TcbVersion;
pub use report::{Cpuid, FirmwareVersion, Report, SigningKey};
pub use roots::Roots;

use crate::refusal::{Code, Refusal};
use vek::Vek;

/// An attestation report with what AMD says of the chip. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// `ATTESTATION_REPORT`, 1184 bytes.
    pub report: Vec<u8>,
    /// The VCEK's or VLEK's certificate, DER.
    pub vek: Vec<u8>,
    /// AMD's certificate revocation list of the product, DER.
    pub crl: Option<Vec<u8>>,
}

/// The processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004, and with the same roots EPYC 8004 and 97x4.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// Every product.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// AMD's name of it, as in the addresses of its key distribution service.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A configuration that is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceValues {
    /// The processor.
    pub product: Product,
    /// The guest's initial memory.
    pub measurement: [u8; 48],
    /// The oldest firmware that is trusted, component by component.
    pub minimum_tcb: Tcb,
    /// What the guest's policy may allow.
    pub guest_policy: GuestPolicy,
    /// What the platform's configuration must be.
    pub platform_info: PlatformInfo,
    /// The chips that are trusted; empty for any.
    pub chip_ids: Vec<[u8; 64]>,
}

/// Security version numbers of the firmware's components.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcb {
    /// The boot loader.
    pub bootloader: u8,
    /// The PSP's operating system.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// The microcode.
    pub microcode: u8,
    /// The FMC; Turin alone has one.
    pub fmc: Option<u8>,
}

/// The policy that a guest is launched with (SEV-SNP ABI, table 10). As a reference value each flag
/// is what the report may at most allow, or for restrictions at least demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestPolicy {
    /// The oldest ABI, major number.
    pub abi_major: u8,
    /// The oldest ABI, minor number.
    pub abi_minor: u8,
    /// The host may use simultaneous multithreading.
    pub smt: bool,
    /// The guest may be associated with a migration agent.
    pub migrate_ma: bool,
    /// The host may debug the guest. Refused whatever the reference value says.
    pub debug: bool,
    /// The guest runs on one socket alone.
    pub single_socket: bool,
    /// CXL devices and memory may be used.
    pub cxl_allow: bool,
    /// Memory is encrypted with AES-256-XTS.
    pub mem_aes_256_xts: bool,
    /// The processor reports no energy figures.
    pub rapl_disabled: bool,
    /// The host can't read ciphertext from DRAM.
    pub ciphertext_hiding: bool,
    /// The host can't move or swap the guest's pages.
    pub page_swap_disabled: bool,
}

/// How the platform is configured (SEV-SNP ABI, `PLATFORM_INFO`); `None` where it does not matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlatformInfo {
    /// Simultaneous multithreading is on.
    pub smt: Option<bool>,
    /// Transparent memory encryption is on.
    pub tsme: Option<bool>,
    /// Memory has error correction.
    pub ecc: Option<bool>,
    /// Energy figures are off.
    pub rapl_disabled: Option<bool>,
    /// Ciphertext hiding is on.
    pub ciphertext_hiding: Option<bool>,
    /// No alias of memory was found (since boot).
    pub alias_check_complete: Option<bool>,
    /// Trusted I/O is on.
    pub tio: Option<bool>,
}

/// A report whose signature holds and whose key AMD vouches for.
///
/// That alone makes no guest trustworthy: it may be open to debugging, for one. See
/// [`check_baseline`](Self::check_baseline) and [`appraise`](Self::appraise).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticReport {
    report: Report,
    product: Product,
}

impl AuthenticReport {
    /// What the report says.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The processor that AMD vouches for.
    pub fn product(&self) -> Product {
        self.product
    }
}

/// Checks all that does not depend on reference values: the report's structure and signature; that
/// its key's certificate leads to the root of `roots` for the product, is valid at `now` and not
/// revoked (if the evidence has a list); that report and certificate tell of the same product, chip
/// and firmware.
pub fn authenticate(
    evidence: &Evidence,
    roots: &Roots,
    now: UnixTime,
) -> Result<AuthenticReport, Refusal> {
    let mut report = Report::parse(&evidence.report)?;
    let key = report.signing_key.ok_or_else(|| {
        Refusal::new(
            Code::Signature,
            "report.key_info.signing_key",
            "none",
            "vcek or vlek",
        )
    })?;
    let vek = Vek::parse(&evidence.vek, key)?;
    let anchors = match report.product {
        Some(product) => roots.of_product(product, key),
        None => roots.of_issuer(&vek),
    }?;
    chain::verify(&vek, anchors, now)?;
    if let Some(crl) = &evidence.crl {
        crl::check(crl, &vek, anchors, now)?;
    }
    vek.check_describes(&report, anchors.product)?;
    report::verify_signature(&evidence.report, vek.public_key())?;
    report.product = Some(anchors.product);
    Ok(AuthenticReport {
        report,
        product: anchors.product,
    })
}
