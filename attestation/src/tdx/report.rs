use super::quote::{Reader, malformed};
use crate::refusal::{Code, Refusal};

/// What the TDX module reports of a guest: the body of a quote (Intel TDX DCAP Quoting Library
/// API, appendix A.3.2 and A.3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReport {
    /// Versions of the TDX module and the microcode when the guest began.
    pub tee_tcb_svn: [u8; 16],
    /// The TDX module.
    pub mr_seam: [u8; 48],
    /// Who signed the TDX module; zero for Intel.
    pub mr_signer_seam: [u8; 48],
    /// Attributes of the TDX module.
    pub seam_attributes: [u8; 8],
    /// The guest's attributes; bit 0 is debug.
    pub td_attributes: [u8; 8],
    /// The CPU's extended features that the guest may use.
    pub xfam: [u8; 8],
    /// The guest's initial memory.
    pub mr_td: [u8; 48],
    /// What the host configured, not measured; here the policy's hash.
    pub mr_config_id: [u8; 48],
    /// The guest's owner, as the host says.
    pub mr_owner: [u8; 48],
    /// The owner's configuration, as the host says.
    pub mr_owner_config: [u8; 48],
    /// What the guest measured at run time.
    pub rtmrs: [[u8; 48]; 4],
    /// What the guest asked to have signed.
    pub report_data: [u8; 64],
    /// The fields that TDX 1.5 adds.
    pub v1_5: Option<TdReport15>,
}

/// What TDX 1.5 adds to a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReport15 {
    /// Versions of the TDX module and the microcode now.
    pub tee_tcb_svn_2: [u8; 16],
    /// The service guests, such as a migration guest, that are bound to the guest; zero for none.
    pub mr_service_td: [u8; 48],
    /// The fields of the extended report.
    pub extended: Option<TdReport15Ex>,
}

/// What the extended report of TDX 1.5 adds (`sgx_report2_body_v1_5_ex_t` in Intel's
/// `sgx_quote_5.h`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TdReport15Ex {
    /// Which of the guest's virtual machines the report is for; 0 for the guest itself.
    pub vmid: u8,
    /// A random name of the guest's instance.
    pub td_id: [u8; 32],
    /// Hash of what is known of assigned devices.
    pub dev_info: [u8; 48],
    /// The service guests that were bound when the guest began; zero for none.
    pub init_service_td_hash: [u8; 48],
    /// Their attributes.
    pub init_service_td_attributes: [u8; 8],
    /// The platform on which the guest began: CPUSVN, `TEE_TCB_SVN` and model.
    pub init_platform: [u8; 44],
    /// The service guests that are bound now; zero for none.
    pub cur_service_td_hash: [u8; 48],
    /// Their attributes.
    pub cur_service_td_attributes: [u8; 8],
}

const BYTES_1_0: u32 = 584;
const BYTES_1_5: u32 = 648;
const BYTES_1_5_EX: u32 = 885;

impl TdReport {
    /// Reads the body of a quote of version 4.
    pub(super) fn read_1_0(reader: &mut Reader<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            tee_tcb_svn: reader.array()?,
            mr_seam: reader.array()?,
            mr_signer_seam: reader.array()?,
            seam_attributes: reader.array()?,
            td_attributes: reader.array()?,
            xfam: reader.array()?,
            mr_td: reader.array()?,
            mr_config_id: reader.array()?,
            mr_owner: reader.array()?,
            mr_owner_config: reader.array()?,
            rtmrs: [
                reader.array()?,
                reader.array()?,
                reader.array()?,
                reader.array()?,
            ],
            report_data: reader.array()?,
            v1_5: None,
        })
    }

    /// Reads the body of a quote of version 5, which says of what kind it is.
    pub(super) fn read_with_descriptor(reader: &mut Reader<'_>) -> Result<Self, Refusal> {
        let kind = reader.u16()?;
        let bytes = reader.u32()?;
        let expected = match kind {
            1 => {
                let want = "2, 3 or 4 (TDX)";
                return Err(Refusal::new(Code::WrongTee, "body.type", "1 (SGX)", want));
            }
            2 => BYTES_1_0,
            3 => BYTES_1_5,
            4 => BYTES_1_5_EX,
            other => {
                let want = "2 (TDX 1.0), 3 (TDX 1.5) or 4 (TDX 1.5, extended)";
                return Err(Refusal::new(Code::Version, "body.type", other, want));
            }
        };
        if bytes != expected {
            return Err(malformed("body.size", bytes, expected));
        }
        let mut report = Self::read_1_0(reader)?;
        if kind > 2 {
            report.v1_5 = Some(TdReport15 {
                tee_tcb_svn_2: reader.array()?,
                mr_service_td: reader.array()?,
                extended: if kind > 3 {
                    Some(TdReport15Ex::read(reader)?)
                } else {
                    None
                },
            });
        }
        Ok(report)
    }

    /// The measurements of service guests that are bound to this one, by name.
    pub(super) fn service_tds(&self) -> Vec<(&'static str, &[u8; 48])> {
        let Some(added) = &self.v1_5 else {
            return Vec::new();
        };
        let mut measurements = vec![("td.mr_service_td", &added.mr_service_td)];
        if let Some(extended) = &added.extended {
            measurements.extend([
                ("td.init_service_td_hash", &extended.init_service_td_hash),
                ("td.cur_service_td_hash", &extended.cur_service_td_hash),
            ]);
        }
        measurements
    }

    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = &self.rtmrs;
        let mut fields = vec![
            ("td.tee_tcb_svn", hex::encode(self.tee_tcb_svn)),
            ("td.mr_seam", hex::encode(self.mr_seam)),
            ("td.mr_signer_seam", hex::encode(self.mr_signer_seam)),
            ("td.seam_attributes", hex::encode(self.seam_attributes)),
            ("td.td_attributes", hex::encode(self.td_attributes)),
            ("td.xfam", hex::encode(self.xfam)),
            ("td.mr_td", hex::encode(self.mr_td)),
            ("td.mr_config_id", hex::encode(self.mr_config_id)),
            ("td.mr_owner", hex::encode(self.mr_owner)),
            ("td.mr_owner_config", hex::encode(self.mr_owner_config)),
            ("td.rtmr0", hex::encode(rtmr0)),
            ("td.rtmr1", hex::encode(rtmr1)),
            ("td.rtmr2", hex::encode(rtmr2)),
            ("td.rtmr3", hex::encode(rtmr3)),
            ("td.report_data", hex::encode(self.report_data)),
        ];
        if let Some(added) = &self.v1_5 {
            fields.push(("td.tee_tcb_svn_2", hex::encode(added.tee_tcb_svn_2)));
            fields.push(("td.mr_service_td", hex::encode(added.mr_service_td)));
            if let Some(extended) = &added.extended {
                fields.extend(extended.fields());
            }
        }
        fields
    }
}

impl TdReport15Ex {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Refusal> {
        let [vmid] = reader.array()?;
        Ok(Self {
            vmid,
            td_id: reader.array()?,
            dev_info: reader.array()?,
            init_service_td_hash: reader.array()?,
            init_service_td_attributes: reader.array()?,
            init_platform: reader.array()?,
            cur_service_td_hash: reader.array()?,
            cur_service_td_attributes: reader.array()?,
        })
    }

    fn fields(&self) -> [(&'static str, String); 8] {
        [
            ("td.vmid", self.vmid.to_string()),
            ("td.td_id", hex::encode(self.td_id)),
            ("td.dev_info", hex::encode(self.dev_info)),
            (
                "td.init_service_td_hash",
                hex::encode(self.init_service_td_hash),
            ),
            (
                "td.init_service_td_attributes",
                hex::encode(self.init_service_td_attributes),
            ),
            ("td.init_platform", hex::encode(self.init_platform)),
            (
                "td.cur_service_td_hash",
                hex::encode(self.cur_service_td_hash),
            ),
            (
                "td.cur_service_td_attributes",
                hex::encode(self.cur_service_td_attributes),
            ),
        ]
    }
}
