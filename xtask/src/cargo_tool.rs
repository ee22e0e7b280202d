//! Programs from crates.io at a pinned version: found here, else installed under `target/tools`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{process, workspace};

/// A program whose crate has the same name.
pub(crate) struct CargoTool {
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
    /// Options of `cargo install`, such as features.
    pub(crate) options: &'static [&'static str],
}

impl CargoTool {
    /// Where the pinned version lies, if it is installed.
    pub(crate) fn find(&self) -> Option<PathBuf> {
        [
            self.ours(),
            workspace::cargo_home().join("bin").join(self.name),
            self.name.into(),
        ]
        .into_iter()
        .find(|program| version(program).is_some_and(|version| version == self.version))
    }

    /// Finds the pinned version, or installs it.
    pub(crate) fn ensure(&self) -> Result<PathBuf> {
        self.find()
            .map_or_else(|| self.install(|install| install), Ok)
    }

    /// Installs the pinned version; `prepare` may add to the command that does.
    pub(crate) fn install(
        &self,
        prepare: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Result<PathBuf> {
        let Self {
            name,
            version,
            options,
        } = self;
        process::step(format!(
            "installing {name} {version} (takes a minute or two)"
        ));
        let mut install = process::quiet_stdout("cargo");
        install
            .current_dir(workspace::root())
            .args(["install", name, "--version", version, "--locked", "--quiet"])
            .args(*options)
            .arg("--root")
            .arg(tools())
            .env("CARGO_TARGET_DIR", tools().join("build"));
        process::run(prepare(&mut install))?;
        Ok(self.ours())
    }

    fn ours(&self) -> PathBuf {
        tools().join("bin").join(self.name)
    }
}

fn tools() -> PathBuf {
    workspace::target().join("tools")
}

/// `1.2.3` of `name 1.2.3` or `name v1.2.3`; nothing if it doesn't run.
fn version(program: &Path) -> Option<String> {
    let line = process::stdout_of(Command::new(program).arg("--version")).ok()?;
    Some(
        line.rsplit(' ')
            .next()
            .unwrap_or(&line)
            .trim_start_matches('v')
            .to_owned(),
    )
}
