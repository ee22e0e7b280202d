//! How the demonstration looks to people: an aligned table that grows; on a terminal in colour.

use std::env;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};

use crate::report::Proof;

/// Where people read.
///
/// What can't be written is lost: nobody reads it any more, and the demonstration still has to clean
/// up.
pub(crate) struct Screen {
    out: Box<dyn Write>,
    terminal: bool,
    colour: bool,
}

impl Screen {
    pub(crate) fn new(out: impl Write + IsTerminal + 'static) -> Self {
        let terminal = out.is_terminal() && env::var_os("TERM").is_none_or(|term| term != "dumb");
        let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            out: Box::new(out),
            terminal,
            colour: terminal && !no_colour,
        }
    }

    /// Writes lines as they are.
    pub(crate) fn say(&mut self, text: &str) {
        self.write(&format!("{text}\n"));
    }

    /// Writes a warning, in red.
    pub(crate) fn warn(&mut self, text: &str) {
        for line in wrapped(text, INDENT + DETAIL_WIDTH) {
            let line = self.paint(Style::Red, &line);
            self.write(&format!("  {line}\n"));
        }
    }

    /// Begins a part of the table.
    pub(crate) fn part(&mut self, title: &str) {
        let title = self.paint(Style::Bold, title);
        self.write(&format!("\n{title}\n"));
    }

    /// Shows what is under way, until the next line takes its place.
    pub(crate) fn pending(&mut self, what: &str) {
        if self.terminal {
            let what = self.paint(Style::Dim, &format!("… {what}"));
            self.write(&format!("  {what}"));
        }
    }

    /// Shows how a check ended.
    pub(crate) fn check(&mut self, name: &str, ok: bool, proof: &Proof) {
        let (sign, style) = if ok {
            ("✓", Style::Green)
        } else {
            ("✗", Style::Red)
        };
        let sign = self.paint(style, sign);
        self.erase();
        let mut lines = wrapped(&proof.detail, DETAIL_WIDTH).into_iter();
        let first = lines.next().unwrap_or_default();
        let mut text = format!("  {sign} {name:NAME_WIDTH$}  {first}\n");
        for line in lines {
            let _ = writeln!(text, "{:INDENT$}{line}", "");
        }
        let names = proof.facts.iter().map(|(name, _)| name.len());
        let width = names.max().unwrap_or_default();
        for (name, value) in &proof.facts {
            let mut name = self.paint(Style::Dim, &format!("{name:width$}"));
            for line in wrapped(value, DETAIL_WIDTH - width - 2) {
                let _ = writeln!(text, "{:INDENT$}{name}  {line}", "");
                name = " ".repeat(width);
            }
        }
        self.write(&text);
    }

    /// Shows how all of it ended.
    pub(crate) fn result(&mut self, ok: bool, held: usize, of: usize) {
        let result = if ok {
            self.paint(Style::Green, &format!("All {of} checks hold."))
        } else {
            self.paint(
                Style::Red,
                &format!("{} of {of} checks do not hold.", of - held),
            )
        };
        self.write(&format!("\n{result}\n"));
    }

    /// Takes away what is under way.
    pub(crate) fn erase(&mut self) {
        if self.terminal {
            self.write("\r\x1b[K");
        }
    }

    fn paint(&self, style: Style, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Red => "1;31",
            Style::Green => "1;32",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    fn write(&mut self, text: &str) {
        let _ = self.out.write_all(text.as_bytes());
        let _ = self.out.flush();
    }
}

#[derive(Clone, Copy)]
enum Style {
    Bold,
    Dim,
    Red,
    Green,
}

/// Breaks a text between words, so that no line is longer than `width` unless a word is.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

const NAME_WIDTH: usize = 35;
const DETAIL_WIDTH: usize = 60;
/// Where details begin: after the sign and the name.
const INDENT: usize = 4 + NAME_WIDTH + 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("immeasurable", 7), ["immeasurable"]);
        assert!(wrapped("", 7).is_empty());
    }
}
