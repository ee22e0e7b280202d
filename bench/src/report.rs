//! What a run found: as a table, as JSON, as Markdown.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

use crate::figure::{Quantity, Reading};
use crate::machine::Machine;
use crate::rivals::{self, Rival};
use crate::statistics::Rounds;

/// Everything that a run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The harness's arguments.
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

/// One quantity of one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// The scenario.
    pub scenario: String,
    /// What was measured.
    #[serde(flatten)]
    pub quantity: Quantity,
    /// Without agents.
    pub direct: Option<Rounds>,
    /// Through an agent on each side.
    pub sealwire: Option<Rounds>,
    /// The median through agents as a multiple of the median without.
    pub ratio: Option<f64>,
    /// The best rival's figure, of another machine and day.
    pub best_rival: Option<Rival>,
}

/// The readings of all rounds so far.
#[derive(Debug, Default)]
pub(crate) struct Readings(Vec<Column>);

#[derive(Debug)]
struct Column {
    scenario: String,
    quantity: Quantity,
    direct: Vec<f64>,
    sealwire: Vec<f64>,
}

/// Whether agents were between the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// No.
    Direct,
    /// One on each side.
    Sealwire,
}

impl Readings {
    /// Adds what a trial read.
    pub(crate) fn add(&mut self, scenario: &str, route: Route, readings: &[Reading]) {
        for Reading { quantity, value } in readings {
            let column = self.column(scenario, *quantity);
            match route {
                Route::Direct => column.direct.push(*value),
                Route::Sealwire => column.sealwire.push(*value),
            }
        }
    }

    /// The figures that they make.
    pub(crate) fn figures(self) -> Vec<Figure> {
        let mut figures: Vec<Figure> = self.0.into_iter().map(Column::figure).collect();
        // Costs of agents come after the first direct trial; a scenario stays together.
        let order: Vec<String> = figures.iter().map(|f| f.scenario.clone()).collect();
        figures.sort_by_key(|figure| order.iter().position(|name| *name == figure.scenario));
        figures
    }

    fn column(&mut self, scenario: &str, quantity: Quantity) -> &mut Column {
        let known = self
            .0
            .iter()
            .position(|column| column.scenario == scenario && column.quantity == quantity);
        let index = known.unwrap_or_else(|| {
            self.0.push(Column {
                scenario: scenario.to_owned(),
                quantity,
                direct: Vec::new(),
                sealwire: Vec::new(),
            });
            self.0.len() - 1
        });
        &mut self.0[index]
    }
}

impl Column {
    fn figure(self) -> Figure {
        let (direct, sealwire) = (Rounds::of(self.direct), Rounds::of(self.sealwire));
        let ratio = match (&direct, &sealwire) {
            (Some(direct), Some(sealwire)) if direct.median > 0.0 => {
                Some(sealwire.median / direct.median)
            }
            _ => None,
        };
        Figure {
            best_rival: rivals::best(&self.scenario, self.quantity.name),
            scenario: self.scenario,
            quantity: self.quantity,
            direct,
            sealwire,
            ratio,
        }
    }
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

    /// A page for people: the table, how to reproduce it, the machine, the noise.
    pub(crate) fn markdown(&self) -> String {
        let Machine {
            date,
            kernel,
            cpu,
            cores,
            load,
            default_congestion_control,
            versions,
        } = &self.machine;
        let mut page = format!(
            "# Figures of {date}\n\n\
             Two unmodified programs on two hosts (network namespaces joined by a veth pair), once directly and once\n\
             through a pod-mode agent on each side; {} alternating rounds of {} s a trial. Median of the rounds, ratio to\n\
             direct in the same run, lowest and highest round through Sealwire, and their distance as a share of the median\n\
             (spread). All processes share the {cores} cores.\n",
            self.rounds, self.seconds
        );
        let mut scenario = "";
        for (figure, row) in self.figures.iter().zip(self.rows()) {
            if figure.scenario != scenario {
                scenario = &figure.scenario;
                let _ = writeln!(page, "\n## {}\n", capitalized(scenario));
                let _ = writeln!(
                    page,
                    "| {} |\n|---|--:|--:|--:|--:|--:|---|",
                    HEADER.join(" | ")
                );
            }
            let _ = writeln!(page, "| {} |", row.join(" | "));
        }
        let _ = write!(
            page,
            "\n{RIVALS_NOTE}\n\n\
             ## How to reproduce\n\n\
             As root: `cargo xtask {}`.\n\n\
             ## Machine\n\n\
             - {cpu}, {cores} cores; Linux {kernel}\n\
             - congestion control: {} on the sockets of agents and programs, by route; the machine's default is \
             {default_congestion_control}\n\
             - {}\n\n\
             ## Noise\n\n\
             - load average at the start: {load:.2}\n\
             - {}\n",
            self.command,
            joined(&self.congestion_controls),
            versions.join("; "),
            self.noise()
        );
        for remark in &self.remarks {
            let _ = writeln!(page, "- {remark}");
        }
        page += "\n## Where the time goes\n\n";
        page
    }

    fn rows(&self) -> Vec<[String; HEADER.len()]> {
        self.figures.iter().map(Figure::row).collect()
    }

    /// How far the rounds of a figure lie apart, over all figures.
    fn noise(&self) -> String {
        let mut spreads: Vec<f64> = self
            .figures
            .iter()
            .flat_map(|figure| [&figure.direct, &figure.sealwire])
            .flatten()
            .filter(|rounds| rounds.values.len() > 1)
            .map(Rounds::spread)
            .collect();
        spreads.sort_by(f64::total_cmp);
        let at = |share| crate::statistics::quantile(&spreads, share).unwrap_or(f64::NAN);
        if spreads.is_empty() {
            return "one round: the spread is unknown".to_owned();
        }
        format!(
            "spread over {} rounds: {:.0} % in the median of all figures, {:.0} % at p90",
            self.rounds,
            at(0.5) * 100.0,
            at(0.9) * 100.0
        )
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
fn number(value: f64) -> String {
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

fn joined(words: &BTreeSet<String>) -> String {
    if words.is_empty() {
        return "not looked at".to_owned();
    }
    words
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

const HEADER: [&str; 7] = [
    "figure",
    "direct",
    "sealwire",
    "ratio",
    "range",
    "spread",
    "best rival, elsewhere",
];

const RIVALS_NOTE: &str = "Rivals were measured on another machine on another day: they give an \
                           idea, not a comparison.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Better;

    const RATE: Quantity = Quantity::more("requests", "1/s");
    const CPU: Quantity = Quantity::less("CPU of both agents", "us/request");

    fn report() -> Report {
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
    fn the_ratio_is_that_of_the_medians() {
        let figures = report().figures;
        let names: Vec<_> = figures
            .iter()
            .map(|figure| (figure.scenario.as_str(), figure.quantity.name))
            .collect();
        let expected = [
            ("one", "requests"),
            ("one", "CPU of both agents"),
            ("two", "requests"),
        ];
        assert_eq!(names, expected);
        assert_eq!(figures[0].ratio, Some(0.5));
        assert_eq!(figures[1].ratio, None);
        assert_eq!(figures[1].quantity.better, Better::Lower);
        assert_eq!(figures[2].sealwire, None);
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
    fn the_page_says_how_where_and_how_noisy() {
        let page = report().markdown();
        for part in [
            "| requests, 1/s | 100 | 50.0 | 0.50 | 40.0..60.0 | 40 % |  |",
            "`cargo xtask bench all`",
            "Linux 6.18",
            "cubic on the sockets",
            "- a remark",
            "## Where the time goes",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
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
