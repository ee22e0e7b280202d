//! A manifest in plain words.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use ::manifest::{AllowedPeers, Manifest, Policy, Role, RotationMode, in_words};
use attestation::Digest;
use attestation::identity::SpiffeId;

pub(super) fn summary(manifest: &Manifest) -> Result<String, fmt::Error> {
    let mut text = String::new();
    writeln!(text, "hash: {}", manifest.hash())?;
    writeln!(text, "trust domain: {}", manifest.trust_domain())?;
    let (hash, _) = manifest.coordinator();
    writeln!(text, "Coordinator: policy {hash}")?;
    for role in [Role::Workload, Role::Node] {
        let mut policies = manifest.policies().iter().filter(|(_, it)| it.role == role);
        policies.try_for_each(|(hash, policy)| write_policy(&mut text, hash, policy))?;
    }
    write_reference_values(&mut text, manifest)?;
    match (manifest.update_quorum(), manifest.workload_owners().len()) {
        (0, _) => writeln!(text, "updates: never, there are no owners")?,
        (quorum, owners) => writeln!(text, "updates: {quorum} of {owners} owners must sign")?,
    }
    let (quorum, owners) = (manifest.seedshare_quorum(), manifest.seedshare_owners());
    writeln!(
        text,
        "recovery: {quorum} of {} seed-share owners, or a live Coordinator",
        owners.len()
    )?;
    let rotation = manifest.rotation();
    let deadline = in_words(rotation.deadline);
    match rotation.mode {
        RotationMode::Graceful => writeln!(
            text,
            "rotation: graceful, waits for agents at most {deadline} a step"
        )?,
        RotationMode::Strict => writeln!(text, "rotation: strict, withdraws at once")?,
    }
    let lifetime = in_words(manifest.certificate_lifetime());
    writeln!(text, "certificates: valid for {lifetime}")?;
    for note in notes(manifest) {
        writeln!(text, "note: {note}")?;
    }
    Ok(text)
}

fn write_policy(text: &mut String, hash: &Digest, policy: &Policy) -> fmt::Result {
    let Policy {
        spiffe_id,
        dns,
        ip,
        workload_secret_id,
        role,
        allowed_peers,
        max_instances,
        hosts,
    } = policy;
    writeln!(text, "{role}: {spiffe_id}")?;
    writeln!(text, "  policy {hash}")?;
    let names: Vec<_> = dns
        .iter()
        .map(ToString::to_string)
        .chain(ip.iter().map(ToString::to_string))
        .collect();
    if !names.is_empty() {
        writeln!(text, "  names: {}", names.join(", "))?;
    }
    match allowed_peers {
        AllowedPeers::Any => writeln!(text, "  may talk with: every member of the mesh")?,
        AllowedPeers::Only(peers) => writeln!(text, "  may talk with: {}", listed(peers))?,
    }
    if let Some(cap) = max_instances {
        writeln!(text, "  instances: at most {cap}")?;
    }
    if let Some(id) = workload_secret_id {
        writeln!(text, "  secret: {id}")?;
    }
    if *role == Role::Node {
        writeln!(text, "  hosts: {}", listed(hosts))?;
    }
    Ok(())
}

fn write_reference_values(text: &mut String, manifest: &Manifest) -> fmt::Result {
    let reference = manifest.reference_values();
    for values in &reference.snp {
        let measurement = hex::encode(values.measurement);
        writeln!(text, "trusted: AMD SEV-SNP on {:?}", values.product)?;
        writeln!(text, "  measurement {measurement}")?;
        if !values.chip_ids.is_empty() {
            writeln!(text, "  on {} named chip(s) alone", values.chip_ids.len())?;
        }
    }
    for values in &reference.tdx {
        writeln!(text, "trusted: Intel TDX")?;
        writeln!(text, "  measurement {}", hex::encode(values.mr_td))?;
        if !values.ppids.is_empty() {
            writeln!(text, "  on {} named platform(s) alone", values.ppids.len())?;
        }
    }
    for values in &reference.simulated {
        writeln!(text, "trusted: SIMULATED, no TEE at all")?;
        writeln!(text, "  measurement {}", hex::encode(values.measurement))?;
    }
    Ok(())
}

/// What is valid and yet may not be meant.
fn notes(manifest: &Manifest) -> Vec<String> {
    let mut notes = Vec::new();
    if !manifest.reference_values().simulated.is_empty() {
        notes.push("the simulated TEE protects nothing: for development and tests only".to_owned());
    }
    if manifest.workload_owners().is_empty() {
        notes.push("once set, this manifest can never be changed".to_owned());
    }
    if manifest.update_quorum() == 1 && manifest.workload_owners().len() > 1 {
        notes.push("each owner alone can change what is trusted; see UpdateQuorum".to_owned());
    }
    if manifest.seedshare_quorum() == 1 {
        let note = "each seed-share owner alone can make every key and secret; see SeedshareQuorum";
        notes.push(note.to_owned());
    }
    for policy in manifest.policies().values() {
        if policy.role == Role::Node && policy.hosts.is_empty() {
            let id = &policy.spiffe_id;
            notes.push(format!("node {id} hosts no workload; see Hosts"));
        }
    }
    notes.extend(shared_names(manifest));
    notes
}

/// A peer that checks a host name alone takes one owner of the name for the other.
fn shared_names(manifest: &Manifest) -> impl Iterator<Item = String> {
    let mut owners: BTreeMap<String, BTreeSet<&SpiffeId>> = BTreeMap::new();
    for policy in manifest.policies().values() {
        let dns = policy.dns.iter().map(ToString::to_string);
        for name in dns.chain(policy.ip.iter().map(ToString::to_string)) {
            owners.entry(name).or_default().insert(&policy.spiffe_id);
        }
    }
    owners
        .into_iter()
        .filter(|(_, ids)| ids.len() > 1)
        .map(|(name, ids)| format!("the name {name} belongs to {}", listed(ids)))
}

fn listed<'a>(ids: impl IntoIterator<Item = &'a SpiffeId>) -> String {
    let ids: Vec<_> = ids.into_iter().map(SpiffeId::as_str).collect();
    if ids.is_empty() {
        return "nobody".to_owned();
    }
    ids.join(", ")
}
