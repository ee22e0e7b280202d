//! A report for people to read.

use super::{Report, TcbVersion};

impl Report {
    /// Every field by name, in the report's order, as text for people: bytes in hexadecimal digits.
    /// Fields that the version does not have are left out.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = self.guest();
        fields.extend(self.platform());
        fields.extend(self.contents());
        fields.extend(self.firmware());
        fields
    }

    fn guest(&self) -> Vec<(&'static str, String)> {
        let policy = self.policy;
        vec![
            ("version", self.version.to_string()),
            (
                "product",
                self.product
                    .map_or_else(|| NONE.to_owned(), |it| it.to_string()),
            ),
            ("guest_svn", self.guest_svn.to_string()),
            ("policy", format!("{:#x}", self.policy_bits)),
            (
                "policy.abi",
                format!("{}.{}", policy.abi_major, policy.abi_minor),
            ),
            ("policy.smt", policy.smt.to_string()),
            ("policy.migrate_ma", policy.migrate_ma.to_string()),
            ("policy.debug", policy.debug.to_string()),
            ("policy.single_socket", policy.single_socket.to_string()),
            ("policy.cxl_allow", policy.cxl_allow.to_string()),
            ("policy.mem_aes_256_xts", policy.mem_aes_256_xts.to_string()),
            ("policy.rapl_disabled", policy.rapl_disabled.to_string()),
            (
                "policy.ciphertext_hiding",
                policy.ciphertext_hiding.to_string(),
            ),
            (
                "policy.page_swap_disabled",
                policy.page_swap_disabled.to_string(),
            ),
            ("family_id", hex::encode(self.family_id)),
            ("image_id", hex::encode(self.image_id)),
            ("vmpl", self.vmpl.to_string()),
        ]
    }

    fn platform(&self) -> Vec<(&'static str, String)> {
        let info = self.platform_info;
        let flag = |it: Option<bool>| it.map_or_else(|| NONE.to_owned(), |it| it.to_string());
        vec![
            ("current_tcb", self.tcb(self.current_tcb)),
            ("platform_info", format!("{:#x}", self.platform_info_bits)),
            ("platform_info.smt", flag(info.smt)),
            ("platform_info.tsme", flag(info.tsme)),
            ("platform_info.ecc", flag(info.ecc)),
            ("platform_info.rapl_disabled", flag(info.rapl_disabled)),
            (
                "platform_info.ciphertext_hiding",
                flag(info.ciphertext_hiding),
            ),
            (
                "platform_info.alias_check_complete",
                flag(info.alias_check_complete),
            ),
            ("platform_info.tio", flag(info.tio)),
            ("key_info.author_key_en", self.author_key_en.to_string()),
            ("key_info.mask_chip_key", self.mask_chip_key.to_string()),
            (
                "key_info.signing_key",
                self.signing_key
                    .map_or_else(|| NONE.to_owned(), |it| it.to_string()),
            ),
        ]
    }

    fn contents(&self) -> Vec<(&'static str, String)> {
        vec![
            ("report_data", hex::encode(self.report_data.0)),
            ("measurement", hex::encode(self.measurement)),
            ("host_data", self.host_data.to_string()),
            ("id_key_digest", hex::encode(self.id_key_digest)),
            ("author_key_digest", hex::encode(self.author_key_digest)),
            ("report_id", hex::encode(self.report_id)),
            ("report_id_ma", hex::encode(self.report_id_ma)),
        ]
    }

    fn firmware(&self) -> Vec<(&'static str, String)> {
        let vector = |name, it: Option<u64>| it.map(|it| (name, format!("{it:#x}")));
        let mut fields = vec![("reported_tcb", self.tcb(self.reported_tcb))];
        fields.extend(self.cpuid.map(|it| ("cpuid", it.to_string())));
        fields.extend([
            ("chip_id", hex::encode(self.chip_id)),
            ("committed_tcb", self.tcb(self.committed_tcb)),
            ("current_version", self.current_version.to_string()),
            ("committed_version", self.committed_version.to_string()),
            ("launch_tcb", self.tcb(self.launch_tcb)),
        ]);
        fields.extend(vector("launch_mit_vector", self.launch_mit_vector));
        fields.extend(vector("current_mit_vector", self.current_mit_vector));
        fields
    }

    /// The components, or without a product, on which their places depend, the bytes.
    fn tcb(&self, version: TcbVersion) -> String {
        match self.product {
            Some(product) => version.of(product).to_string(),
            None => hex::encode(version.0),
        }
    }
}

const NONE: &str = "none";
