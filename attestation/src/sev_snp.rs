//! Evidence of AMD SEV-SNP.

use rustls_pki_types::UnixTime;

use crate::binding::ReportData;
use crate::refusal::Refusal;
use crate::result::Claims;

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

/// The certificates that chains must lead to, for each product and kind of key.
#[derive(Clone, Debug)]
pub struct Roots {}

impl Roots {
    /// AMD's own.
    pub fn amd() -> Self {
        Self {}
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self::amd()
    }
}

/// The processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004.
    Genoa,
    /// EPYC 9005.
    Turin,
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
#[derive(Debug)]
pub struct AuthenticReport {}

/// Checks all that does not depend on reference values.
pub fn authenticate(
    _evidence: &Evidence,
    _roots: &Roots,
    _now: UnixTime,
) -> Result<AuthenticReport, Refusal> {
    todo!()
}

impl AuthenticReport {
    /// Compares with one reference value and gives every mismatch.
    pub fn appraise(
        &self,
        _reference: &ReferenceValues,
        _report_data: &ReportData,
    ) -> Result<Claims, Vec<Refusal>> {
        todo!()
    }
}
