//! What systemd makes of the units in `deploy/systemd`: above all, in which order it starts them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use testbed::require;

#[test]
fn systemd_takes_the_units_and_has_nothing_to_say_of_them() -> Result<()> {
    require!("systemd-analyze");
    let units = Units::copy()?;
    assert_eq!(units.verify()?, "");
    Ok(())
}

#[test]
fn a_mistake_in_a_unit_would_be_found() -> Result<()> {
    require!("systemd-analyze");
    let units = Units::copy()?;
    units.add("sealwire-agent.service", "[Service]\nWatchdogSec=often\n")?;
    assert!(units.verify()?.contains("often"));
    Ok(())
}

/// If one must come before another, the opposite makes a circle.
#[test]
fn a_workload_starts_after_the_agent_and_the_agent_after_what_the_workload_lives_in() -> Result<()>
{
    require!("systemd-analyze");
    for (first, second) in [
        ("sealwire-agent.service", WORKLOAD),
        ("sealwire-workload@web.service", "sealwire-agent.service"),
        ("sealwire-web.slice", "sealwire-agent.service"),
    ] {
        let units = Units::copy()?;
        units.add(first, &format!("[Unit]\nAfter={second}\n"))?;
        let said = units.verify()?;
        assert!(said.contains("ordering cycle"), "{first}, {second}: {said}");
    }
    Ok(())
}

#[test]
fn a_workload_does_not_start_where_the_agent_can_not() -> Result<()> {
    require!("systemd-analyze");
    let units = Units::copy()?;
    fs::remove_file(units.directory.path().join("sealwire-agent.service"))?;
    let said = units.verify()?;
    assert!(said.contains("sealwire-agent.service not found"), "{said}");
    assert!(
        said.contains("Failed to create web.service/start"),
        "{said}"
    );
    Ok(())
}

/// The units as they are installed, with one of a workload.
struct Units {
    directory: tempfile::TempDir,
}

impl Units {
    fn copy() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let units = Self { directory };
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd");
        for name in ["sealwire-agent.service", "sealwire-workload@.service"] {
            // With a program that is there.
            let text = fs::read_to_string(deploy.join(name))?;
            units.write(name, &text.replace("/usr/bin/sealwire-agent", "/bin/true"))?;
        }
        units.write(WORKLOAD, "[Service]\nExecStart=/bin/true\n")?;
        units.add(WORKLOAD, &fs::read_to_string(deploy.join("workload.conf"))?)?;
        Ok(units)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.directory.path().join(name);
        fs::create_dir_all(path.parent().context("a unit has a directory")?)?;
        Ok(fs::write(path, text)?)
    }

    /// As a drop-in.
    fn add(&self, unit: &str, text: &str) -> Result<()> {
        let directory = PathBuf::from(format!("{unit}.d"));
        let number =
            fs::read_dir(self.directory.path().join(&directory)).map_or(0, Iterator::count);
        let name = directory.join(format!("{number}.conf"));
        self.write(&name.to_string_lossy(), text)
    }

    /// What systemd says of them, and of starting them together; nothing if they are well.
    fn verify(&self) -> Result<String> {
        let directory = self.directory.path();
        let judged = Command::new("systemd-analyze")
            .args(["verify", "--man=no"])
            .args(["sealwire-agent.service", WORKLOAD].map(|name| directory.join(name)))
            // And then systemd's own.
            .env("SYSTEMD_UNIT_PATH", format!("{}:", directory.display()))
            .output()?;
        let said = String::from_utf8_lossy(&judged.stderr);
        let of_ours = said.lines().filter(|line| {
            ["sealwire", WORKLOAD]
                .iter()
                .any(|name| line.contains(name))
        });
        Ok(of_ours.collect::<Vec<_>>().join("\n"))
    }
}

const WORKLOAD: &str = "web.service";
