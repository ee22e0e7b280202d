//! Generates messages, clients and servers from `proto/`. Needs `protoc` (Debian:
//! `protobuf-compiler`).

/// Messages with secrets: they have no `Debug`, so that no log can show one.
const SECRET: [&str; 5] = [
    "Certificate",
    "EnrolResponse",
    "MeshCaKey",
    "RecoverPeerResponse",
    "RecoverRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure()
        .skip_debug(SECRET.map(|name| format!(".sealwire.v1.{name}")))
        .compile_protos(&["proto/sealwire.proto"], &["proto"])?;
    Ok(())
}
