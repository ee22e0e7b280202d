//! The report: which bytes are what, and which must be zero.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, ParsedPublicKey};

use super::{GuestPolicy, PlatformInfo, Product, TcbVersion};
use crate::binding::{Digest, ReportData};
use crate::refusal::{Code, Refusal};

/// The fields of `ATTESTATION_REPORT` (ABI), in its order. Reading proves nothing of
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The layout: 2 to 5.
    pub version: u32,
    /// The guest's security version number, as its owner gave it in the ID block.
    pub guest_svn: u32,
    /// The policy that the guest was launched with.
    pub policy: GuestPolicy,
    /// The policy as it is in the report, with the bits that [`GuestPolicy`] does not name.
    pub policy_bits: u64,
    /// The family that the owner gave in the ID block.
    pub family_id: [u8; 16],
    /// The image that the owner gave in the ID block.
    pub image_id: [u8; 16],
    /// The privilege level that asked for the report: 0 to 3, or `0xffff_ffff` for the host.
    pub vmpl: u32,
    /// The firmware that runs.
    pub current_tcb: TcbVersion,
    /// How the platform is configured; every flag is `Some`. Flags that the version did not know
    /// yet are off.
    pub platform_info: PlatformInfo,
    /// The same as it is in the report, with the bits that [`PlatformInfo`] does not name.
    pub platform_info_bits: u64,
    /// `author_key_digest` is of a key that certified the ID key.
    pub author_key_en: bool,
    /// The host had the signature left out.
    pub mask_chip_key: bool,
    /// The key that signed the report; `None` where it is not signed.
    pub signing_key: Option<SigningKey>,
    /// What the guest asked to have signed.
    pub report_data: ReportData,
    /// The guest's initial memory.
    pub measurement: [u8; 48],
    /// What the host gave at launch.
    pub host_data: Digest,
    /// SHA-384 of the key that signed the ID block; zero if none did.
    pub id_key_digest: [u8; 48],
    /// SHA-384 of the key that certified the ID key; zero if none did.
    pub author_key_digest: [u8; 48],
    /// The guest's name for its lifetime.
    pub report_id: [u8; 32],
    /// The name of its migration agent; all ones where it has none.
    pub report_id_ma: [u8; 32],
    /// The firmware that the signing key is derived from, as the host set it.
    pub reported_tcb: TcbVersion,
    /// The processor; from version 3 on.
    pub cpuid: Option<Cpuid>,
    /// The chip; zero where the host hides it.
    pub chip_id: [u8; 64],
    /// The oldest firmware that the platform can go back to.
    pub committed_tcb: TcbVersion,
    /// The SNP firmware that runs.
    pub current_version: FirmwareVersion,
    /// The oldest SNP firmware that the platform can go back to.
    pub committed_version: FirmwareVersion,
    /// The firmware that ran when the guest was launched or imported.
    pub launch_tcb: TcbVersion,
    /// The mitigations that were in place when the guest was launched; from version 5 on.
    pub launch_mit_vector: Option<u64>,
    /// The mitigations that are in place; from version 5 on.
    pub current_mit_vector: Option<u64>,
    /// The processor: from `cpuid`, and in an [`AuthenticReport`](super::AuthenticReport) of
    /// version 2 from the certificate.
    pub product: Option<Product>,
}

/// The kinds of key that sign reports (ABI, `KEY_INFO`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SigningKey {
    /// Derived from the chip's secrets.
    Vcek,
    /// Given to a cloud provider by AMD.
    Vlek,
}

impl SigningKey {
    /// The name in refusals and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vcek => "vcek",
            Self::Vlek => "vlek",
        }
    }
}

impl fmt::Display for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the processor says of itself in CPUID leaf 1, base and extended fields combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpuid {
    /// The family: 0x19 for Zen 3 and 4, 0x1a for Zen 5.
    pub family: u8,
    /// The model.
    pub model: u8,
    /// The stepping.
    pub stepping: u8,
}

impl Cpuid {
    /// The product; `None` for one that no root is known for.
    pub fn product(self) -> Option<Product> {
        match (self.family, self.model) {
            (0x19, 0x00..=0x0f) => Some(Product::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Product::Genoa),
            (0x1a, 0x00..=0x11) => Some(Product::Turin),
            _ => None,
        }
    }
}

impl fmt::Display for Cpuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            family,
            model,
            stepping,
        } = self;
        write!(
            f,
            "family {family:#04x}, model {model:#04x}, stepping {stepping}"
        )
    }
}

/// The version of the SNP firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FirmwareVersion {
    /// The ABI's major number.
    pub major: u8,
    /// The ABI's minor number.
    pub minor: u8,
    /// The build.
    pub build: u8,
}

impl fmt::Display for FirmwareVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            major,
            minor,
            build,
        } = self;
        write!(f, "{major}.{minor}.{build}")
    }
}

impl Report {
    /// The length of a report, in bytes.
    pub const LEN: usize = 0x4a0;

    /// Reads a report of version 2 to 5. Refused are other lengths and versions, other signature
    /// algorithms than ECDSA on P-384 with SHA-384, processors that are not known, and anything but
    /// zero beside the signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let raw = exact(bytes)?;
        let version = u32_at::<0x00>(raw);
        if !(2..=5).contains(&version) {
            return Err(Refusal::new(
                Code::Version,
                "report.version",
                version,
                "2 to 5",
            ));
        }
        let signature_algo = u32_at::<0x34>(raw);
        if signature_algo != ECDSA_P384_SHA384 {
            return Err(Refusal::new(
                Code::Malformed,
                "report.signature_algo",
                signature_algo,
                ECDSA_P384_SHA384,
            ));
        }
        check_padding(raw)?;

        let policy_bits = u64_at::<0x08>(raw);
        let platform_info_bits = u64_at::<0x40>(raw);
        let key_info = u32_at::<0x48>(raw);
        let [family, model, stepping] = at::<0x188, 3>(raw);
        let cpuid = (version >= 3).then_some(Cpuid {
            family,
            model,
            stepping,
        });
        Ok(Self {
            version,
            guest_svn: u32_at::<0x04>(raw),
            policy: GuestPolicy::of(policy_bits),
            policy_bits,
            family_id: at::<0x10, 16>(raw),
            image_id: at::<0x20, 16>(raw),
            vmpl: u32_at::<0x30>(raw),
            current_tcb: TcbVersion(at::<0x38, 8>(raw)),
            platform_info: PlatformInfo::of(platform_info_bits),
            platform_info_bits,
            author_key_en: key_info & 1 == 1,
            mask_chip_key: key_info >> 1 & 1 == 1,
            signing_key: signing_key(key_info)?,
            report_data: ReportData(at::<0x50, 64>(raw)),
            measurement: at::<0x90, 48>(raw),
            host_data: Digest(at::<0xc0, 32>(raw)),
            id_key_digest: at::<0xe0, 48>(raw),
            author_key_digest: at::<0x110, 48>(raw),
            report_id: at::<0x140, 32>(raw),
            report_id_ma: at::<0x160, 32>(raw),
            reported_tcb: TcbVersion(at::<0x180, 8>(raw)),
            cpuid,
            chip_id: at::<0x1a0, 64>(raw),
            committed_tcb: TcbVersion(at::<0x1e0, 8>(raw)),
            current_version: firmware_version(at::<0x1e8, 3>(raw)),
            committed_version: firmware_version(at::<0x1ec, 3>(raw)),
            launch_tcb: TcbVersion(at::<0x1f0, 8>(raw)),
            launch_mit_vector: (version >= 5).then_some(u64_at::<0x1f8>(raw)),
            current_mit_vector: (version >= 5).then_some(u64_at::<0x200>(raw)),
            product: cpuid.map(known_product).transpose()?,
        })
    }

    /// The chip, unless the host hides it.
    pub fn chip_id(&self) -> Option<&[u8; 64]> {
        (self.chip_id != [0; 64]).then_some(&self.chip_id)
    }
}

/// Checks the signature over the bytes that it covers. `key` is a `SubjectPublicKeyInfo`, DER.
pub(super) fn verify_signature(bytes: &[u8], key: &[u8]) -> Result<(), Refusal> {
    let raw = exact(bytes)?;
    // The report has the scalars little-endian, the signature's fixed form has them big-endian.
    let mut signature = [0; 2 * SCALAR];
    let (r, s) = signature.split_at_mut(SCALAR);
    r.copy_from_slice(&at::<SIGNATURE_R, SCALAR>(raw));
    r.reverse();
    s.copy_from_slice(&at::<SIGNATURE_S, SCALAR>(raw));
    s.reverse();
    ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key)
        .ok()
        .and_then(|key| key.verify_sig(&at::<0, SIGNATURE_R>(raw), &signature).ok())
        .ok_or_else(|| {
            Refusal::new(
                Code::Signature,
                "report.signature",
                "invalid",
                "a signature by the key that the certificate names",
            )
        })
}

fn check_padding(raw: &[u8; Report::LEN]) -> Result<(), Refusal> {
    const REST: usize = SIGNATURE_S + SCALAR;
    let after_r = at::<{ SIGNATURE_R + SCALAR }, { SIGNATURE_S - SIGNATURE_R - SCALAR }>(raw);
    let after_s = at::<REST, { Report::LEN - REST }>(raw);
    if after_r.iter().chain(&after_s).all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Malformed,
        "report.signature",
        "followed by other bytes",
        "followed by zeros",
    ))
}

fn signing_key(key_info: u32) -> Result<Option<SigningKey>, Refusal> {
    match key_info >> 2 & 0b111 {
        0 => Ok(Some(SigningKey::Vcek)),
        1 => Ok(Some(SigningKey::Vlek)),
        7 => Ok(None),
        other => Err(Refusal::new(
            Code::Malformed,
            "report.key_info.signing_key",
            other,
            "0 (vcek), 1 (vlek) or 7 (none)",
        )),
    }
}

fn known_product(cpuid: Cpuid) -> Result<Product, Refusal> {
    cpuid.product().ok_or_else(|| {
        Refusal::new(
            Code::Chain,
            "report.cpuid",
            cpuid,
            "of Milan, Genoa or Turin",
        )
    })
}

fn firmware_version([build, minor, major]: [u8; 3]) -> FirmwareVersion {
    FirmwareVersion {
        major,
        minor,
        build,
    }
}

fn exact(bytes: &[u8]) -> Result<&[u8; Report::LEN], Refusal> {
    bytes
        .try_into()
        .map_err(|_| Refusal::new(Code::Malformed, "report.length", bytes.len(), Report::LEN))
}

/// The `N` bytes at `AT`; that they are within the report is checked when this is compiled.
fn at<const AT: usize, const N: usize>(raw: &[u8; Report::LEN]) -> [u8; N] {
    const { assert!(AT + N <= Report::LEN) };
    let mut value = [0; N];
    value.copy_from_slice(&raw[AT..AT + N]);
    value
}

fn u32_at<const AT: usize>(raw: &[u8; Report::LEN]) -> u32 {
    u32::from_le_bytes(at::<AT, 4>(raw))
}

fn u64_at<const AT: usize>(raw: &[u8; Report::LEN]) -> u64 {
    u64::from_le_bytes(at::<AT, 8>(raw))
}

/// What `SIGNATURE_ALGO` is for the one algorithm there is (ABI).
const ECDSA_P384_SHA384: u32 = 1;
/// Where R is; all before it is signed. R and S have 72 bytes each, of which P-384 uses the first.
const SIGNATURE_R: usize = 0x2a0;
const SIGNATURE_S: usize = 0x2e8;
const SCALAR: usize = 48;
