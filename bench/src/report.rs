//! What a run found: as a table, and as JSON.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

use crate::machine::Machine;
use crate::readings::Figure;
use crate::rivals::Rival;
use crate::statistics::Rounds;

/// Everything that a run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What reproduces it, after `cargo xtask`.
    pub command: String,
    /// Where.
    pub machine: Machine,
    /// How many rounds.
    pub rounds: u32,
    /// How long a trial lasted.
    pub seconds: u64,
    /// The congestion controls that were seen on sockets during bulk trials.
    pub congestion_controls: BTreeSet<String>,
    /// What a reader of the figures must know.
    pub remarks: Vec<String>,
    /// The figures, in the order in which they were first measured.
    pub figures: Vec<Figure>,
}

impl Report {
    /// A table for a terminal.
    pub(crate) fn table(&self) -> String {
        let rows = self.rows();
        let mut widths = HEADER.map(str::len);
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut table = String::new();
        let mut scenario = "";
        line(&mut table, &HEADER.map(str::to_owned), &widths);
        for (figure, row) in self.figures.iter().zip(&rows) {
            if figure.scenario != scenario {
                scenario = &figure.scenario;
                let _ = writeln!(table, "\n{scenario}");
            }
            line(&mut table, row, &widths);
        }
        let _ = writeln!(table, "\n{RIVALS_NOTE}");
        for remark in &self.remarks {
            let _ = writeln!(table, "! {remark}");
        }
        table
    }

    /// A row of cells for each figure, as [`HEADER`] calls them.
    pub(crate) fn rows(&self) -> Vec<[String; HEADER.len()]> {
        self.figures.iter().map(Figure::row).collect()
    }
}

impl Figure {
    fn row(&self) -> [String; HEADER.len()] {
        let median = |rounds: &Option<Rounds>| {
            rounds
                .as_ref()
                .map_or_else(String::new, |rounds| number(rounds.median))
        };
        let sealwire = self.sealwire.as_ref();
        [
            format!("{}, {}", self.quantity.name, self.quantity.unit),
            median(&self.direct),
            median(&self.sealwire),
            self.ratio
                .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
            sealwire.map_or_else(String::new, |rounds| {
                format!("{}..{}", number(rounds.lowest), number(rounds.highest))
            }),
            sealwire.map_or_else(String::new, |rounds| {
                format!("{:.0} %", rounds.spread() * 100.0)
            }),
            self.best_rival.map_or_else(String::new, rival),
        ]
    }
}

fn rival(rival: Rival) -> String {
    let Rival {
        name,
        value,
        direct,
    } = rival;
    let value_text = number(value);
    match direct {
        Some(direct) => format!("{value_text} ({:.2} of its direct; {name})", value / direct),
        None => format!("{value_text} ({name})"),
    }
}

fn line(table: &mut String, cells: &[String; HEADER.len()], widths: &[usize; HEADER.len()]) {
    let mut line = String::from("  ");
    for (index, (cell, &width)) in cells.iter().zip(widths).enumerate() {
        let is_text = index == 0 || index + 1 == HEADER.len();
        let _ = if is_text {
            write!(line, "{cell:<width$}  ")
        } else {
            write!(line, "{cell:>width$}  ")
        };
    }
    let _ = writeln!(table, "{}", line.trim_end());
}

/// Three significant digits, and commas between thousands.
pub(crate) fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 0.0995 {
        return format!("{value:.3}");
    }
    if value.abs() < 9.95 {
        return format!("{value:.2}");
    }
    if value.abs() < 99.5 {
        return format!("{value:.1}");
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::from(if value < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

pub(crate) const HEADER: [&str; 7] = [
    "figure",
    "direct",
    "sealwire",
    "ratio",
    "range",
    "spread",
    "best rival, elsewhere",
];

pub(crate) const RIVALS_NOTE: &str = "Rivals were measured on another machine on another day: they give an \
                           idea, not a comparison.";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::figure::Quantity;
    use crate::readings::{Readings, Route};

    const RATE: Quantity = Quantity::more("requests", "1/s");
    const CPU: Quantity = Quantity::less("CPU of both agents", "us/request");

    pub(crate) fn report() -> Report {
        let mut readings = Readings::default();
        for (direct, sealwire) in [(100.0, 40.0), (90.0, 60.0), (200.0, 50.0)] {
            readings.add("one", Route::Direct, &[RATE.of(direct)]);
            readings.add("two", Route::Direct, &[RATE.of(1.0)]);
            readings.add("one", Route::Sealwire, &[RATE.of(sealwire), CPU.of(7.0)]);
        }
        Report {
            command: "bench all".to_owned(),
            machine: Machine {
                date: "2026-01-01T00:00:00Z".to_owned(),
                kernel: "6.18".to_owned(),
                cpu: "a CPU".to_owned(),
                cores: 2,
                load: 0.1,
                default_congestion_control: "bbr".to_owned(),
                versions: vec!["iperf 3".to_owned()],
            },
            rounds: 3,
            seconds: 5,
            congestion_controls: BTreeSet::from(["cubic".to_owned()]),
            remarks: vec!["a remark".to_owned()],
            figures: readings.figures(),
        }
    }

    #[test]
    fn the_table_has_every_figure_and_remark() {
        let table = report().table();
        let row = table.lines().find(|line| line.contains("requests, 1/s"));
        let words: Vec<_> = row.unwrap().split_whitespace().collect();
        let expected = [
            "requests,",
            "1/s",
            "100",
            "50.0",
            "0.50",
            "40.0..60.0",
            "40",
            "%",
        ];
        assert_eq!(words, expected);
        assert!(table.contains("! a remark"));
    }

    #[test]
    fn json_has_every_rounds_value() {
        let json = serde_json::to_value(report()).unwrap();
        let figure = &json["figures"][0];
        let values = serde_json::json!([40.0, 60.0, 50.0]);
        assert_eq!(figure["sealwire"]["values"], values);
        assert_eq!(figure["unit"], "1/s");
        assert_eq!(figure["better"], "higher");
        assert_eq!(json["machine"]["default_congestion_control"], "bbr");
    }

    #[test]
    fn numbers_have_three_digits_and_commas() {
        let texts = [0.0, 0.0123, 0.75, 9.949, 12.34, 644.4, 206_000.0, -1234.5].map(number);
        let expected = [
            "0.00", "0.012", "0.75", "9.95", "12.3", "644", "206,000", "-1,234",
        ];
        assert_eq!(texts, expected);
    }
}
