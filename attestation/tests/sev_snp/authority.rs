//! A root of our own, and who signs for it. Keys are made when a test runs.

use std::sync::OnceLock;

use attestation::sev_snp::{Product, Roots, SigningKey};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair, RSA_PSS_SHA384};

use crate::der;

/// RSA-PSS with SHA-384, without the trailer field.
const RSA_PSS: &[u8] = &[
    0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30, 0x34, 0xa0,
    0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00,
    0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30,
    0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa2, 0x03,
    0x02, 0x01, 0x30,
];
const RSA_ENCRYPTION: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];

/// Whoever signs certificates and lists.
pub(crate) struct Authority {
    /// Its name, DER.
    pub(crate) name: Vec<u8>,
    key: RsaKeyPair,
}

impl Authority {
    pub(crate) fn new(name: Vec<u8>) -> Self {
        Self {
            name,
            key: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        }
    }

    /// `content` with its signature: a certificate or a list.
    pub(crate) fn sign(&self, content: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(
                &RSA_PSS_SHA384,
                &SystemRandom::new(),
                content,
                &mut signature,
            )
            .unwrap();
        der::sequence(&[content, RSA_PSS, &der::bit_string(&signature)])
    }

    /// A certificate that `self` gives.
    pub(crate) fn certify(&self, subject: &Subject<'_>) -> Vec<u8> {
        self.sign(&der::sequence(&[
            &[0xa0, 0x03, 0x02, 0x01, 0x02],
            &der::integer(subject.serial),
            RSA_PSS,
            &self.name,
            &der::sequence(&[
                &der::utc_time(subject.not_before),
                &der::utc_time(subject.not_after),
            ]),
            subject.name,
            &subject.key,
            &der::value(0xa3, &[&der::sequence(&[&subject.extensions.concat()])]),
        ]))
    }

    /// A certificate that `self` gives to another authority.
    pub(crate) fn certify_authority(&self, other: &Self, serial: u8, usage: Usage) -> Vec<u8> {
        let key = der::sequence(&[
            RSA_ENCRYPTION,
            &der::bit_string(other.key.public_key().as_ref()),
        ]);
        self.certify(&Subject {
            name: &other.name,
            serial,
            not_before: "200101000000Z",
            not_after: "450101000000Z",
            key,
            extensions: vec![
                der::extension(
                    BASIC_CONSTRAINTS,
                    true,
                    &der::sequence(&[&[0x01, 0x01, 0xff]]),
                ),
                der::extension(KEY_USAGE, true, &[0x03, 0x02, 0x01, usage as u8]),
            ],
        })
    }

    /// A revocation list that `self` gives, of serial numbers.
    pub(crate) fn list(&self, list: &List<'_>) -> Vec<u8> {
        let revoked: Vec<_> = list
            .serials
            .iter()
            .map(|serial| der::sequence(&[&der::integer(*serial), &der::utc_time("250601000000Z")]))
            .collect();
        let revoked = match revoked.as_slice() {
            [] => vec![],
            some => der::sequence(&[&some.concat()]),
        };
        self.sign(&der::sequence(&[
            &der::integer(1),
            RSA_PSS,
            &self.name,
            &der::utc_time(list.this_update),
            &der::utc_time(list.next_update),
            &revoked,
            &der::value(0xa0, &[&der::sequence(&[&list.extensions.concat()])]),
        ]))
    }
}

/// What an authority's certificate lets it sign.
#[derive(Clone, Copy)]
pub(crate) enum Usage {
    Certificates = 0b0000_0100,
    CertificatesAndLists = 0b0000_0110,
}

pub(crate) struct Subject<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) serial: u8,
    pub(crate) not_before: &'a str,
    pub(crate) not_after: &'a str,
    /// `SubjectPublicKeyInfo`.
    pub(crate) key: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
}

pub(crate) struct List<'a> {
    pub(crate) serials: &'a [u8],
    pub(crate) this_update: &'a str,
    pub(crate) next_update: &'a str,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Default for List<'_> {
    /// Empty, and of the time that the tests are in.
    fn default() -> Self {
        Self {
            serials: &[],
            this_update: "251201000000Z",
            next_update: "260201000000Z",
            extensions: vec![der::extension(&[0x55, 0x1d, 0x14], false, &der::integer(7))],
        }
    }
}

/// A hierarchy like AMD's.
pub(crate) struct Authorities {
    pub(crate) ark: Authority,
    pub(crate) ask: Authority,
    pub(crate) asvk: Authority,
}

impl Authorities {
    pub(crate) const ARK_SERIAL: u8 = 0x10;
    pub(crate) const ASK_SERIAL: u8 = 0x11;
    pub(crate) const ASVK_SERIAL: u8 = 0x12;

    /// The one that the tests trust.
    pub(crate) fn trusted() -> &'static Self {
        static TRUSTED: OnceLock<Authorities> = OnceLock::new();
        TRUSTED.get_or_init(|| Self::named(der::name("ARK-Own"), der::name("SEV-Own")))
    }

    pub(crate) fn named(ark: Vec<u8>, ask: Vec<u8>) -> Self {
        Self {
            ark: Authority::new(ark),
            ask: Authority::new(ask),
            asvk: Authority::new(der::name("SEV-VLEK-Own")),
        }
    }

    /// These as roots of `product`. AMD's ASK and ASVK may not sign lists.
    pub(crate) fn roots(&self, product: Product) -> Roots {
        self.roots_with(product, Usage::Certificates)
    }

    pub(crate) fn roots_with(&self, product: Product, ask_usage: Usage) -> Roots {
        let certify = |other, serial, usage| self.ark.certify_authority(other, serial, usage);
        Roots::of(
            product,
            certify(&self.ark, Self::ARK_SERIAL, Usage::CertificatesAndLists),
            certify(&self.ask, Self::ASK_SERIAL, ask_usage),
            certify(&self.asvk, Self::ASVK_SERIAL, ask_usage),
        )
    }

    pub(crate) fn signer(&self, kind: SigningKey) -> &Authority {
        match kind {
            SigningKey::Vcek => &self.ask,
            SigningKey::Vlek => &self.asvk,
        }
    }
}
