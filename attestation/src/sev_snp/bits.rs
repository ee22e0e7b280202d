//! Fields that are packed into 64 bits.

use std::fmt;

use super::{GuestPolicy, PlatformInfo, Product, Tcb};

/// `TCB_VERSION` as it is in the report; its layout depends on the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcbVersion(pub [u8; 8]);

impl TcbVersion {
    /// The components, in the layout of `product`.
    pub fn of(self, product: Product) -> Tcb {
        match product {
            Product::Milan | Product::Genoa => {
                let [bootloader, tee, _, _, _, _, snp, microcode] = self.0;
                Tcb {
                    bootloader,
                    tee,
                    snp,
                    microcode,
                    fmc: None,
                }
            }
            Product::Turin => {
                let [fmc, bootloader, tee, snp, _, _, _, microcode] = self.0;
                Tcb {
                    bootloader,
                    tee,
                    snp,
                    microcode,
                    fmc: Some(fmc),
                }
            }
        }
    }
}

impl Tcb {
    /// Each component with its name; `None` where the product has none.
    pub(super) fn components(self) -> [(&'static str, Option<u8>); 5] {
        let Self {
            bootloader,
            tee,
            snp,
            microcode,
            fmc,
        } = self;
        [
            ("bootloader", Some(bootloader)),
            ("tee", Some(tee)),
            ("snp", Some(snp)),
            ("microcode", Some(microcode)),
            ("fmc", fmc),
        ]
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, value) in self.components() {
            if let Some(value) = value {
                write!(f, "{separator}{name} {value}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

impl GuestPolicy {
    /// Reads `POLICY` (ABI).
    pub(super) fn of(bits: u64) -> Self {
        let [abi_minor, abi_major, ..] = bits.to_le_bytes();
        let flag = |bit: u32| bits >> bit & 1 == 1;
        Self {
            abi_major,
            abi_minor,
            smt: flag(16),
            migrate_ma: flag(18),
            debug: flag(19),
            single_socket: flag(20),
            cxl_allow: flag(21),
            mem_aes_256_xts: flag(22),
            rapl_disabled: flag(23),
            ciphertext_hiding: flag(24),
            page_swap_disabled: flag(25),
        }
    }

    /// Whether `bits` has bit 17, which must be one, and none that this verifier does not know.
    pub(super) fn is_known(bits: u64) -> bool {
        bits >> 17 & 1 == 1 && bits >> 26 == 0
    }

    /// The flags that let the host do something, but for `debug`.
    pub(super) fn permissions(self) -> [(&'static str, bool); 3] {
        [
            ("smt", self.smt),
            ("migrate_ma", self.migrate_ma),
            ("cxl_allow", self.cxl_allow),
        ]
    }

    /// The flags that keep the host from something.
    pub(super) fn restrictions(self) -> [(&'static str, bool); 5] {
        [
            ("single_socket", self.single_socket),
            ("mem_aes_256_xts", self.mem_aes_256_xts),
            ("rapl_disabled", self.rapl_disabled),
            ("ciphertext_hiding", self.ciphertext_hiding),
            ("page_swap_disabled", self.page_swap_disabled),
        ]
    }
}

impl PlatformInfo {
    /// Reads `PLATFORM_INFO` (ABI): every flag is `Some`.
    pub(super) fn of(bits: u64) -> Self {
        let flag = |bit: u32| Some(bits >> bit & 1 == 1);
        Self {
            smt: flag(0),
            tsme: flag(1),
            ecc: flag(2),
            rapl_disabled: flag(3),
            ciphertext_hiding: flag(4),
            alias_check_complete: flag(5),
            tio: flag(7),
        }
    }

    /// Each flag with its name.
    pub(super) fn flags(self) -> [(&'static str, Option<bool>); 7] {
        let Self {
            smt,
            tsme,
            ecc,
            rapl_disabled,
            ciphertext_hiding,
            alias_check_complete,
            tio,
        } = self;
        [
            ("smt", smt),
            ("tsme", tsme),
            ("ecc", ecc),
            ("rapl_disabled", rapl_disabled),
            ("ciphertext_hiding", ciphertext_hiding),
            ("alias_check_complete", alias_check_complete),
            ("tio", tio),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_of_a_tcb_depends_on_the_product() {
        let version = TcbVersion([1, 2, 3, 4, 5, 6, 7, 8]);
        for product in [Product::Milan, Product::Genoa] {
            let tcb = version.of(product);
            assert_eq!(
                tcb.to_string(),
                "bootloader 1, tee 2, snp 7, microcode 8",
                "{product}"
            );
        }
        assert_eq!(
            version.of(Product::Turin).to_string(),
            "bootloader 2, tee 3, snp 4, microcode 8, fmc 1"
        );
    }

    #[test]
    fn each_flag_of_a_policy_has_a_bit_of_its_own() {
        let flags = |bits| {
            let policy = GuestPolicy::of(bits);
            policy
                .permissions()
                .into_iter()
                .chain(policy.restrictions())
                .chain([("debug", policy.debug)])
                .filter_map(|(name, on)| on.then_some(name))
                .collect::<Vec<_>>()
        };
        let expected = [
            (16, "smt"),
            (18, "migrate_ma"),
            (19, "debug"),
            (20, "single_socket"),
            (21, "cxl_allow"),
            (22, "mem_aes_256_xts"),
            (23, "rapl_disabled"),
            (24, "ciphertext_hiding"),
            (25, "page_swap_disabled"),
        ];
        for (bit, name) in expected {
            assert_eq!(flags(1 << bit), [name]);
        }
        assert_eq!(flags(0xffff | 1 << 17), [""; 0]);
    }

    #[test]
    fn a_policy_with_unknown_bits_is_not_known() {
        assert!(GuestPolicy::is_known(0x3_001f));
        assert!(GuestPolicy::is_known(0x3ff_ffff));
        assert!(!GuestPolicy::is_known(0x1_001f), "bit 17 is missing");
        for bit in 26..64 {
            assert!(!GuestPolicy::is_known(0x3_0000 | 1 << bit), "bit {bit}");
        }
    }

    #[test]
    fn each_flag_of_a_platform_has_a_bit_of_its_own() {
        let expected = [
            "smt",
            "tsme",
            "ecc",
            "rapl_disabled",
            "ciphertext_hiding",
            "alias_check_complete",
            "",
            "tio",
        ];
        for (bit, name) in expected.into_iter().enumerate() {
            for (flag, on) in PlatformInfo::of(1 << bit).flags() {
                assert_eq!(on, Some(flag == name), "bit {bit}, {flag}");
            }
        }
    }
}
