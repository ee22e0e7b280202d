use pem_rfc7468::LineEnding;

/// Encodes into a single buffer, so that a secret leaves no copies behind.
pub(super) fn encode(label: &str, der: &[u8]) -> String {
    pem_rfc7468::encode_string(label, LineEnding::LF, der)
        .expect("keys and certificates are far below the size limit of PEM")
}

pub(super) const CERTIFICATE: &str = "CERTIFICATE";
pub(super) const PRIVATE_KEY: &str = "PRIVATE KEY";
