//! The certificates that are trusted without proof.

use rustls_pki_types::CertificateDer;

use super::vek::{Vek, common_name};
use super::{Product, SigningKey};
use crate::refusal::{Code, Refusal};

/// The certificates that chains must lead to, for each product and kind of key.
#[derive(Clone, Debug)]
pub struct Roots(Vec<Anchors>);

impl Roots {
    /// AMD's own, of every [`Product`], as its key distribution service gives them
    /// (`https://kdsintf.amd.com/vcek/v1/Milan/cert_chain` and the like).
    pub fn amd() -> Self {
        Self(vec![
            Anchors {
                product: Product::Milan,
                ark: CertificateDer::from_slice(include_bytes!("roots/milan_ark.der")),
                ask: CertificateDer::from_slice(include_bytes!("roots/milan_ask.der")),
                asvk: CertificateDer::from_slice(include_bytes!("roots/milan_asvk.der")),
            },
            Anchors {
                product: Product::Genoa,
                ark: CertificateDer::from_slice(include_bytes!("roots/genoa_ark.der")),
                ask: CertificateDer::from_slice(include_bytes!("roots/genoa_ask.der")),
                asvk: CertificateDer::from_slice(include_bytes!("roots/genoa_asvk.der")),
            },
            Anchors {
                product: Product::Turin,
                ark: CertificateDer::from_slice(include_bytes!("roots/turin_ark.der")),
                ask: CertificateDer::from_slice(include_bytes!("roots/turin_ask.der")),
                asvk: CertificateDer::from_slice(include_bytes!("roots/turin_asvk.der")),
            },
        ])
    }

    /// Others, of one product alone: the root and the certificates of the keys that sign VCEKs and
    /// VLEKs, DER. Trusts whoever made them; for tests of what AMD's keys can't be had for.
    #[expect(clippy::similar_names, reason = "AMD's terms")]
    pub fn of(product: Product, ark: Vec<u8>, ask: Vec<u8>, asvk: Vec<u8>) -> Self {
        Self(vec![Anchors {
            product,
            ark: ark.into(),
            ask: ask.into(),
            asvk: asvk.into(),
        }])
    }

    /// Those for `product`.
    pub(super) fn of_product(
        &self,
        product: Product,
        key: SigningKey,
    ) -> Result<&Anchors, Refusal> {
        self.0
            .iter()
            .find(|anchors| anchors.product == product)
            .ok_or_else(|| {
                Refusal::new(
                    Code::Chain,
                    key.as_str(),
                    format_args!("of {product}"),
                    "of a product whose root is trusted",
                )
            })
    }

    /// Those that `vek` names as its issuer, for reports that do not name the product.
    pub(super) fn of_issuer(&self, vek: &Vek<'_>) -> Result<&Anchors, Refusal> {
        self.0
            .iter()
            .find(|anchors| anchors.names_issuer_of(vek))
            .ok_or_else(|| {
                Refusal::new(
                    Code::Chain,
                    format!("{}.issuer", vek.key()),
                    common_name(vek.certificate().issuer()),
                    format_args!("the {} of a known product", signer_name(vek.key())),
                )
            })
    }
}

impl Default for Roots {
    fn default() -> Self {
        Self::amd()
    }
}

/// The certificates of one product, DER.
#[derive(Clone, Debug)]
pub(super) struct Anchors {
    pub(super) product: Product,
    /// AMD's root key.
    pub(super) ark: CertificateDer<'static>,
    /// What signs VCEKs.
    ask: CertificateDer<'static>,
    /// What signs VLEKs.
    asvk: CertificateDer<'static>,
}

impl Anchors {
    /// What signs certificates of keys of the kind.
    pub(super) fn signer(&self, key: SigningKey) -> &CertificateDer<'static> {
        match key {
            SigningKey::Vcek => &self.ask,
            SigningKey::Vlek => &self.asvk,
        }
    }

    fn names_issuer_of(&self, vek: &Vek<'_>) -> bool {
        x509_parser::parse_x509_certificate(self.signer(vek.key())).is_ok_and(|(_, signer)| {
            signer.subject().as_raw() == vek.certificate().issuer().as_raw()
        })
    }
}

/// The name of what [`Anchors::signer`] gives.
pub(super) fn signer_name(key: SigningKey) -> &'static str {
    match key {
        SigningKey::Vcek => "ask",
        SigningKey::Vlek => "asvk",
    }
}
