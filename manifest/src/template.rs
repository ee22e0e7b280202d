//! A first manifest, for an operator to complete.

use attestation::identity::{DnsName, TrustDomain};
use attestation::sev_snp::Product;
use attestation::{Digest, Tee};
use serde::{Serialize, Serializer};

use crate::read::PLACEHOLDER;
use crate::reference_values::PRODUCTS;

/// What is known of a deployment when its first manifest is written.
#[derive(Clone, Debug)]
pub struct Template {
    /// The trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// The hash of the Coordinator's policy.
    pub coordinator_policy: Digest,
    /// The host name and policy hash of each workload; its SPIFFE ID follows from the host name.
    pub workloads: Vec<(DnsName, Digest)>,
    /// What evidence is compared with.
    pub reference_values: ReferenceTemplate,
    /// SHA-256 of the `SubjectPublicKeyInfo` of each owner's key.
    pub workload_owners: Vec<Digest>,
    /// How many of them it takes; `None` for more than half.
    pub update_quorum: Option<usize>,
    /// The public key of each seed-share owner, PKCS#1 DER.
    pub seedshare_owners: Vec<Vec<u8>>,
    /// How many of them it takes; `None` for more than half.
    pub seedshare_quorum: Option<usize>,
}

/// What is known of the machines. The rest is left to fill in.
#[derive(Clone, Debug)]
pub enum ReferenceTemplate {
    /// AMD SEV-SNP.
    SevSnp {
        /// The processor.
        product: Option<Product>,
        /// The guest's initial memory.
        measurement: Option<[u8; 48]>,
    },
    /// Intel TDX.
    Tdx {
        /// The guest's initial memory (MRTD).
        measurement: Option<[u8; 48]>,
    },
    /// No TEE at all.
    Simulated {
        /// The measurement that the simulated TEE reports.
        measurement: [u8; 48],
        /// SHA-256 of the `SubjectPublicKeyInfo` of each platform key.
        platform_keys: Vec<Digest>,
    },
}

impl ReferenceTemplate {
    /// The kind of TEE.
    pub fn tee(&self) -> Tee {
        match self {
            Self::SevSnp { .. } => Tee::SevSnp,
            Self::Tdx { .. } => Tee::Tdx,
            Self::Simulated { .. } => Tee::Simulated,
        }
    }
}

/// A manifest as indented JSON. Where something is left to fill in, the value begins with
/// `FILL IN` and says what; [`Manifest::parse`](crate::Manifest::parse) treats it as empty, and so
/// names its path.
pub fn template(template: &Template) -> String {
    let Template {
        trust_domain,
        coordinator_policy,
        workloads,
        reference_values,
        workload_owners,
        update_quorum,
        seedshare_owners,
        seedshare_quorum,
    } = template;
    let mut policies = vec![(
        coordinator_policy.to_string(),
        PolicyTemplate {
            sans: vec!["coordinator".to_owned()],
            role: Some("coordinator"),
        },
    )];
    policies.extend(workloads.iter().map(|(name, hash)| {
        let policy = PolicyTemplate {
            sans: vec![name.to_string()],
            role: None,
        };
        (hash.to_string(), policy)
    }));
    let document = Document {
        trust_domain: trust_domain.as_str(),
        policies: Pairs(policies),
        reference_values: Pairs(vec![match reference_values {
            ReferenceTemplate::SevSnp {
                product,
                measurement,
            } => ("snp", [References::snp(*product, measurement.as_ref())]),
            ReferenceTemplate::Tdx { measurement } => {
                ("tdx", [References::tdx(measurement.as_ref())])
            }
            ReferenceTemplate::Simulated {
                measurement,
                platform_keys,
            } => (
                "simulated",
                [References::Simulated {
                    trusted_measurement: hex::encode(measurement),
                    platform_keys: platform_keys.iter().map(Digest::to_string).collect(),
                }],
            ),
        }]),
        workload_owner_key_digests: workload_owners.iter().map(Digest::to_string).collect(),
        update_quorum: update_quorum.unwrap_or_else(|| majority(workload_owners.len())),
        seedshare_owner_pub_keys: if seedshare_owners.is_empty() {
            vec![fill_in(SEEDSHARE_OWNER)]
        } else {
            seedshare_owners.iter().map(hex::encode).collect()
        },
        seedshare_quorum: seedshare_quorum
            .unwrap_or_else(|| majority(seedshare_owners.len().max(1))),
        rotation: RotationTemplate {
            mode: "graceful",
            deadline_seconds: 300,
        },
        certificate_lifetime: "24h",
    };
    // Nothing in it can fail to serialize: keys are strings, numbers are whole.
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default();
    text.push('\n');
    text
}

/// More than half; 0 of nobody.
fn majority(owners: usize) -> usize {
    if owners == 0 { 0 } else { owners / 2 + 1 }
}

fn fill_in(what: &str) -> String {
    format!("{PLACEHOLDER}: {what}")
}

const SEEDSHARE_OWNER: &str =
    "the RSA public key of who keeps a share of the seed, PKCS#1 DER in hexadecimal digits";

fn measurement_or(measurement: Option<&[u8; 48]>, what: &str) -> String {
    measurement.map_or_else(
        || fill_in(&format!("{what}, 96 hexadecimal digits")),
        hex::encode,
    )
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Document<'a> {
    trust_domain: &'a str,
    policies: Pairs<String, PolicyTemplate>,
    reference_values: Pairs<&'static str, [References; 1]>,
    workload_owner_key_digests: Vec<String>,
    update_quorum: usize,
    seedshare_owner_pub_keys: Vec<String>,
    seedshare_quorum: usize,
    rotation: RotationTemplate,
    certificate_lifetime: &'static str,
}

/// An object whose fields keep their order; two of one name are left for the parser to refuse.
struct Pairs<K, V>(Vec<(K, V)>);

impl<K: Serialize, V: Serialize> Serialize for Pairs<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

#[derive(Serialize)]
struct PolicyTemplate {
    #[serde(rename = "SANs")]
    sans: Vec<String>,
    #[serde(rename = "Role", skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RotationTemplate {
    mode: &'static str,
    deadline_seconds: u32,
}

#[derive(Serialize)]
#[serde(untagged)]
enum References {
    #[serde(rename_all = "PascalCase")]
    Snp {
        product_name: String,
        trusted_measurement: String,
        #[serde(rename = "MinimumTCB")]
        minimum_tcb: Pairs<&'static str, String>,
        guest_policy: GuestPolicyTemplate,
        platform_info: PlatformInfoTemplate,
    },
    #[serde(rename_all = "PascalCase")]
    Tdx {
        mr_td: String,
        mr_seam: String,
        rtmrs: Vec<String>,
        xfam: String,
        tcb_statuses: [&'static str; 1],
    },
    #[serde(rename_all = "PascalCase")]
    Simulated {
        trusted_measurement: String,
        platform_keys: Vec<String>,
    },
}

impl References {
    fn snp(product: Option<Product>, measurement: Option<&[u8; 48]>) -> Self {
        let mut versions = vec![
            "BootloaderVersion",
            "TEEVersion",
            "SNPVersion",
            "MicrocodeVersion",
        ];
        if product == Some(Product::Turin) {
            versions.push("FMCVersion");
        }
        let version = fill_in("the lowest version to trust, a number from 0 to 255");
        let product = PRODUCTS
            .iter()
            .find(|(_, known)| Some(*known) == product)
            .map(|(name, _)| (*name).to_owned());
        Self::Snp {
            product_name: product.unwrap_or_else(|| fill_in("Milan, Genoa or Turin")),
            trusted_measurement: measurement_or(measurement, "the guest's launch measurement"),
            minimum_tcb: Pairs(
                versions
                    .into_iter()
                    .map(|name| (name, version.clone()))
                    .collect(),
            ),
            guest_policy: GuestPolicyTemplate {
                abi_major: 0,
                abi_minor: 0,
                smt: true,
                debug: false,
            },
            platform_info: PlatformInfoTemplate {
                alias_check_complete: true,
            },
        }
    }

    fn tdx(measurement: Option<&[u8; 48]>) -> Self {
        let rtmr = |index| measurement_or(None, &format!("run-time measurement {index}"));
        Self::Tdx {
            mr_td: measurement_or(measurement, "the guest's initial measurement"),
            mr_seam: measurement_or(None, "the measurement of the TDX module"),
            rtmrs: (0..4).map(rtmr).collect(),
            xfam: fill_in("the extended features of the guest, 16 hexadecimal digits"),
            tcb_statuses: ["UpToDate"],
        }
    }
}

#[derive(Serialize)]
struct GuestPolicyTemplate {
    #[serde(rename = "ABIMajor")]
    abi_major: u8,
    #[serde(rename = "ABIMinor")]
    abi_minor: u8,
    #[serde(rename = "SMT")]
    smt: bool,
    #[serde(rename = "Debug")]
    debug: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PlatformInfoTemplate {
    /// Firmware that does not look for aliases of memory is open to `BadRAM` (CVE-2024-21944).
    alias_check_complete: bool,
}
