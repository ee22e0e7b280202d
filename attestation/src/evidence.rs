use prost::Message;

use crate::refusal::{Code, Refusal};
use crate::tee::Tee;
use crate::{sev_snp, simulated, tdx};

/// What a TEE says of itself, with what the vendor says of the TEE. Nothing in it is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// Of AMD SEV-SNP.
    SevSnp(sev_snp::Evidence),
    /// Of Intel TDX.
    Tdx(tdx::Evidence),
    /// Of no TEE at all.
    Simulated(simulated::Evidence),
}

impl Evidence {
    /// The longest encoding that [`Evidence::decode`] reads, in bytes.
    pub const MAX_BYTES: usize = 256 * 1024;

    /// The kind of TEE that it claims to be of.
    pub fn tee(&self) -> Tee {
        match self {
            Self::SevSnp(_) => Tee::SevSnp,
            Self::Tdx(_) => Tee::Tdx,
            Self::Simulated(_) => Tee::Simulated,
        }
    }

    /// The bytes for the wire: the protobuf message `Evidence` of `docs/reference`.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.clone() {
            Self::SevSnp(evidence) => Kind::SevSnp(SevSnp {
                report: evidence.report,
                vek: evidence.vek,
                crl: evidence.crl,
            }),
            Self::Tdx(evidence) => Kind::Tdx(Tdx {
                quote: evidence.quote,
                collateral: evidence.collateral,
            }),
            Self::Simulated(evidence) => Kind::Simulated(Simulated {
                report: evidence.report,
                signature: evidence.signature,
                key: evidence.key,
            }),
        };
        Envelope { kind: Some(kind) }.encode_to_vec()
    }

    /// Reads what [`Evidence::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(Refusal::new(
                Code::Malformed,
                "evidence.length",
                bytes.len(),
                format_args!("at most {}", Self::MAX_BYTES),
            ));
        }
        let envelope = Envelope::decode(bytes)
            .map_err(|error| Refusal::new(Code::Malformed, "evidence", error, "protobuf"))?;
        match envelope.kind {
            Some(Kind::SevSnp(SevSnp { report, vek, crl })) => {
                Ok(Self::SevSnp(sev_snp::Evidence { report, vek, crl }))
            }
            Some(Kind::Tdx(Tdx { quote, collateral })) => {
                Ok(Self::Tdx(tdx::Evidence { quote, collateral }))
            }
            Some(Kind::Simulated(Simulated {
                report,
                signature,
                key,
            })) => Ok(Self::Simulated(simulated::Evidence {
                report,
                signature,
                key,
            })),
            None => Err(Refusal::new(
                Code::Malformed,
                "evidence.kind",
                "absent or unknown",
                "sev-snp, tdx or simulated",
            )),
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(oneof = "Kind", tags = "1, 2, 255")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Kind {
    #[prost(message, tag = "1")]
    SevSnp(SevSnp),
    #[prost(message, tag = "2")]
    Tdx(Tdx),
    #[prost(message, tag = "255")]
    Simulated(Simulated),
}

#[derive(Clone, PartialEq, prost::Message)]
struct SevSnp {
    #[prost(bytes = "vec", tag = "1")]
    report: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    vek: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "3")]
    crl: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Tdx {
    #[prost(bytes = "vec", tag = "1")]
    quote: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    collateral: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Simulated {
    #[prost(bytes = "vec", tag = "1")]
    report: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> [Evidence; 3] {
        [
            Evidence::SevSnp(sev_snp::Evidence {
                report: vec![1; 1184],
                vek: vec![2; 1360],
                crl: Some(vec![]),
            }),
            Evidence::Tdx(tdx::Evidence {
                quote: vec![3; 5000],
                collateral: vec![4; 16_000],
            }),
            Evidence::Simulated(simulated::Evidence {
                report: vec![5; 100],
                signature: vec![6; 70],
                key: vec![7; 91],
            }),
        ]
    }

    #[test]
    fn evidence_survives_the_wire() {
        for evidence in all() {
            assert_eq!(Evidence::decode(&evidence.encode()).unwrap(), evidence);
        }
    }

    #[test]
    fn garbage_and_excess_are_refused() {
        assert_eq!(Evidence::decode(&[]).unwrap_err().code, Code::Malformed);
        assert_eq!(
            Evidence::decode(&[0xff; 9]).unwrap_err().code,
            Code::Malformed
        );
        let excess = vec![0; Evidence::MAX_BYTES + 1];
        assert_eq!(
            Evidence::decode(&excess).unwrap_err().field,
            "evidence.length"
        );
    }
}
