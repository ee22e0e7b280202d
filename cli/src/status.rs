//! `sealwire status`: how a Coordinator is.

use std::fmt::Write;

use api::v1;
use clap::Args;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::client::{CoordinatorArgs, block_on, refusal};
use crate::failure::Failure;

/// Show the Coordinator's phase, its latest transition, and whom a rotation waits for.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Status {
    #[command(flatten)]
    coordinator: CoordinatorArgs,

    /// As JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) fn run(self) -> Result<String, Failure> {
        let manifest = self.coordinator.manifest()?;
        let status = block_on(async {
            let (mut client, _) = self.coordinator.connect(&manifest).await?;
            let status = client.get_status(v1::GetStatusRequest {}).await;
            Ok(status.map_err(|status| refusal(&status))?.into_inner())
        })?;
        let is_expected = status.manifest == manifest.hash().0;
        if self.json {
            return Ok(as_json(&status, is_expected));
        }
        let mut text = String::new();
        writeln!(text, "phase       {}", phase(&status))?;
        if let Some(head) = &status.head {
            writeln!(
                text,
                "transition  {} {}",
                head.seq,
                hex::encode(&head.transition)
            )?;
            let note = if is_expected {
                ""
            } else {
                " (not the one given with -m)"
            };
            writeln!(text, "manifest    {}{note}", hex::encode(&status.manifest))?;
        }
        if let Some(v1::Recovery { have, need }) = status.recovery {
            writeln!(text, "recovery    {have} of {need} shares")?;
        }
        if let Some(rotation) = &status.rotation {
            writeln!(
                text,
                "mesh CA     generation {}, rotation {}",
                rotation.generation,
                stage(rotation)
            )?;
            for laggard in &rotation.waiting_for {
                writeln!(text, "  waits for {laggard}")?;
            }
            if let Some(deadline) = deadline(rotation) {
                writeln!(text, "  goes on without by {deadline}")?;
            }
        }
        if status.trust_on_first_use {
            writeln!(text, "first set   by whoever came first (no --owner-key)")?;
        }
        if status.simulated_tee_allowed {
            writeln!(
                text,
                "TEE         a simulated one is accepted: protects nothing"
            )?;
        }
        Ok(text)
    }
}

fn as_json(status: &v1::Status, is_expected: bool) -> String {
    let value = json!({
        "phase": phase(status),
        "seq": status.head.as_ref().map(|it| it.seq),
        "transition": status.head.as_ref().map(|it| hex::encode(&it.transition)),
        "manifest": status.head.as_ref().map(|_| hex::encode(&status.manifest)),
        "manifest_is_the_expected": is_expected,
        "recovery": status.recovery.as_ref().map(|it| json!({"have": it.have, "need": it.need})),
        "rotation": status.rotation.as_ref().map(|it| json!({
            "generation": it.generation,
            "stage": stage(it),
            "deadline": deadline(it),
            "waiting_for": it.waiting_for,
        })),
        "trust_on_first_use": status.trust_on_first_use,
        "simulated_tee_allowed": status.simulated_tee_allowed,
        "version": status.version,
    });
    format!("{value:#}\n")
}

fn phase(status: &v1::Status) -> &'static str {
    match status.phase() {
        v1::Phase::Unspecified => "unknown",
        v1::Phase::Uninitialised => "uninitialised",
        v1::Phase::Recovery => "recovery",
        v1::Phase::Ready => "ready",
    }
}

fn stage(rotation: &v1::Rotation) -> &'static str {
    match rotation.stage() {
        v1::Stage::Unspecified => "unknown",
        v1::Stage::Trust => "trust",
        v1::Stage::Issue => "issue",
        v1::Stage::Done => "done",
    }
}

/// When the stage ends, whoever is missing.
fn deadline(rotation: &v1::Rotation) -> Option<String> {
    let seconds = i64::try_from(rotation.deadline).ok().filter(|it| *it > 0)?;
    let deadline = OffsetDateTime::from_unix_timestamp(seconds).ok()?;
    deadline.format(&Rfc3339).ok()
}

const EXAMPLES: &str = "\
Examples:
  sealwire status -c coordinator:1313 -m manifest.json
  sealwire status -c coordinator:1313 -m manifest.json --json";
