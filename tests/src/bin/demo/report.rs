//! The checks: told to people as they come, to programs as one object at the end.

use std::io::{self, Write};

use anyhow::{Error, Result};
use serde::Serialize;

use crate::abort::Interrupt;
use crate::screen::Screen;

/// Makes checks and tells of them.
pub(crate) struct Report {
    json: bool,
    interrupt: Interrupt,
    screen: Screen,
    checks: Vec<Check>,
}

/// What programs read; `cargo xtask demo --json` promises its form.
#[derive(Serialize)]
struct Object<'r> {
    ok: bool,
    checks: &'r [Check],
}

#[derive(Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Report {
    /// With `json`, standard output is for the object, and people read standard error.
    pub(crate) fn new(json: bool, interrupt: Interrupt) -> Self {
        let screen = if json {
            Screen::new(io::stderr())
        } else {
            Screen::new(io::stdout())
        };
        Self {
            json,
            interrupt,
            screen,
            checks: Vec::new(),
        }
    }

    /// Says something to people only.
    pub(crate) fn say(&mut self, text: &str) {
        self.screen.say(text);
    }

    /// Says something that nobody may overlook, in red.
    pub(crate) fn warn(&mut self, text: &str) {
        self.screen.warn(text);
    }

    /// Begins a part of the demonstration. Fails if somebody has interrupted it.
    pub(crate) fn part(&mut self, title: &str) -> Result<()> {
        self.interrupt.check()?;
        self.screen.part(title);
        Ok(())
    }

    /// Makes a check, which holds if `prove` finds a proof. Fails only if somebody has interrupted
    /// the demonstration.
    pub(crate) fn check(
        &mut self,
        name: &'static str,
        prove: impl FnOnce() -> Result<Proof>,
    ) -> Result<()> {
        self.interrupt.check()?;
        self.screen.pending(name);
        let proof = prove();
        self.interrupt.check()?; // Ctrl-C reaches the programs too: they may have failed of it
        let ok = proof.is_ok();
        let proof = proof.unwrap_or_else(|error| Proof::new(format!("{error:#}")));
        self.screen.check(name, ok, &proof);
        let detail = proof.in_a_line();
        self.checks.push(Check { name, ok, detail });
        Ok(())
    }

    /// Tells the result: whether every check held and there was no `error` that ended it early.
    pub(crate) fn finish(mut self, error: Option<&Error>) -> bool {
        if let Some(error) = error {
            self.checks.push(Check {
                name: "the demonstration runs to its end",
                ok: false,
                detail: format!("{error:#}"),
            });
        }
        let ok = self.checks.iter().all(|check| check.ok);
        if error.is_some() {
            self.screen.erase();
        } else {
            let held = self.checks.iter().filter(|check| check.ok).count();
            self.screen.result(ok, held, self.checks.len());
        }
        if self.json {
            let checks = &self.checks;
            let object = serde_json::to_string(&Object { ok, checks }).unwrap_or_default();
            let _ = writeln!(io::stdout(), "{object}"); // the exit code says it, too
        }
        ok
    }
}

/// Why a check holds.
pub(crate) struct Proof {
    /// In plain words.
    pub(crate) detail: String,
    /// What was seen, by name.
    pub(crate) facts: Vec<(&'static str, String)>,
}

impl Proof {
    pub(crate) fn new(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            facts: Vec::new(),
        }
    }

    /// Adds something that was seen.
    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.facts.push((name, value.into()));
        self
    }

    fn in_a_line(&self) -> String {
        let facts = self.facts.iter();
        let facts: Vec<_> = facts
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        if facts.is_empty() {
            return self.detail.clone();
        }
        format!("{} ({})", self.detail, facts.join("; "))
    }
}
