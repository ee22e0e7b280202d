//! What the verification means, in plain words.

use std::fmt::Write;
use std::io;
use std::path::PathBuf;

use attestation::Tee;
use attested_tls::Peer;
use manifest::{AllowedPeers, Role};

use super::deployment::VerifiedDeployment;
use crate::colour::red;

pub(super) fn report(deployment: &VerifiedDeployment, peer: &Peer, files: &[PathBuf]) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let _ = write_report(&mut text, deployment, peer, files);
    text
}

fn write_report(
    text: &mut String,
    deployment: &VerifiedDeployment,
    peer: &Peer,
    files: &[PathBuf],
) -> std::fmt::Result {
    let manifest = deployment.active();
    let head = deployment.chain.head();
    writeln!(text, "VERIFIED\n")?;
    if let Some(result) = &peer.result {
        let tee = result.claims().tee;
        writeln!(
            text,
            "The Coordinator runs on {tee} and matches {} of the manifest.",
            result.reference()
        )?;
        if tee == Tee::Simulated {
            let warning = "That TEE is simulated: whoever runs the machine can read and change \
                           everything. All that follows rests on it.";
            writeln!(text, "{}", red(warning, &io::stdout()))?;
        }
    }
    writeln!(
        text,
        "Its manifest is the one you gave ({}).\nIts history has {} and {}; every signature holds, \
         and owners consented to every update.",
        manifest.hash(),
        counted(head.seq, "transition"),
        counted(deployment.manifests.len() as u64, "manifest")
    )?;
    match deployment.first_signers.as_slice() {
        [] => writeln!(
            text,
            "The first manifest was taken on trust, from whoever set it first."
        )?,
        signers => {
            writeln!(
                text,
                "The first manifest was signed with the keys that the Coordinator was started with:"
            )?;
            for key in signers {
                writeln!(text, "    {key}")?;
            }
        }
    }
    writeln!(text, "\nYou may trust")?;
    writeln!(
        text,
        "  mesh-ca.pem              to name only what this manifest lists:"
    )?;
    for policy in manifest.policies().values() {
        if policy.role == Role::Coordinator {
            continue;
        }
        let peers = match &policy.allowed_peers {
            AllowedPeers::Any => "any of them".to_owned(),
            AllowedPeers::Only(peers) if peers.is_empty() => "none of them".to_owned(),
            AllowedPeers::Only(peers) => {
                let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
                peers.join(", ")
            }
        };
        writeln!(text, "    {}, which talks with {peers}", policy.spiffe_id)?;
    }
    writeln!(
        text,
        "  coordinator-root-ca.pem  to name what any later manifest of these owners lists"
    )?;
    writeln!(text, "\nYou trust, by doing so")?;
    match (manifest.workload_owners().len(), manifest.update_quorum()) {
        (0, _) => writeln!(
            text,
            "  nobody to change the manifest: updates are off for ever"
        )?,
        (n, k) => writeln!(
            text,
            "  any {k} of {n} workload owners to set another manifest"
        )?,
    }
    for (owners, quorum, since) in share_owners(deployment) {
        writeln!(
            text,
            "  any {quorum} of {owners} seed share owners of {since}, together, not to forge the \
             root CA or read workload secrets"
        )?;
    }
    let without: Vec<_> = manifest
        .policies()
        .keys()
        .filter(|digest| !deployment.policies.contains_key(*digest))
        .map(ToString::to_string)
        .collect();
    if !without.is_empty() {
        writeln!(
            text,
            "  policies whose document the Coordinator was not given; ask the owner for it:"
        )?;
        for digest in without {
            writeln!(text, "    {digest}")?;
        }
    }
    writeln!(
        text,
        "\nNot verified: what the programs in the images do, how the network delays or drops, and \
         anything after this moment.\nRead the manifests and policies before you send data.\n"
    )?;
    writeln!(text, "Wrote")?;
    for file in files {
        writeln!(text, "  {}", file.display())?;
    }
    Ok(())
}

/// How many owners have shares of the seed, how many of them it takes, and since which manifest.
/// Shares that were given once still give the seed, whoever owns it now.
fn share_owners(deployment: &VerifiedDeployment) -> Vec<(usize, usize, String)> {
    let mut seen = Vec::new();
    let mut all = Vec::new();
    for (number, manifest) in deployment.manifests.iter().enumerate() {
        let shared = (manifest.seedshare_owners(), manifest.seedshare_quorum());
        if !seen.contains(&shared) {
            seen.push(shared);
            all.push((shared.0.len(), shared.1, format!("manifest.{number}.json")));
        }
    }
    all
}

fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
