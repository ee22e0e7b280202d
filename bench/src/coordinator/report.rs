//! What a run found: as a table, as JSON, as a page of Markdown.

use std::fmt::Write;

use serde::Serialize;

use crate::machine::Machine;
use crate::page::capitalized;
use crate::readings::Figure;
use crate::report::number;
use crate::statistics::Rounds;

/// Everything that a run found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What reproduces it, after `cargo xtask`.
    pub(crate) command: String,
    /// Where.
    pub(crate) machine: Machine,
    /// How many rounds.
    pub(crate) rounds: u32,
    /// How long enrolments went on in a round.
    pub(crate) seconds: u64,
    /// What a reader of the figures must know.
    pub(crate) remarks: Vec<String>,
    /// The figures, in the order in which they were first measured.
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    /// A table for a terminal.
    pub(crate) fn table(&self) -> String {
        let rows: Vec<_> = self.figures.iter().map(row).collect();
        let widths = [0, 1, 2].map(|column| {
            let cells = rows.iter().map(|row| row[column].chars().count());
            cells.max().unwrap_or_default()
        });
        let mut table = String::new();
        let mut scenario = "";
        for (figure, [name, median, range, spread]) in self.figures.iter().zip(&rows) {
            if figure.scenario != scenario {
                scenario = &figure.scenario;
                let _ = writeln!(table, "\n{scenario}");
            }
            let _ = writeln!(
                table,
                "  {name:<0$}  {median:>1$}  {range:>2$}  {spread:>5}",
                widths[0], widths[1], widths[2]
            );
        }
        for remark in &self.remarks {
            let _ = writeln!(table, "! {remark}");
        }
        table
    }

    /// A page for people.
    pub(crate) fn markdown(&self) -> String {
        let Machine {
            date,
            kernel,
            cpu,
            cores,
            load,
            default_congestion_control: _,
            versions,
        } = &self.machine;
        let mut page = format!("# The Coordinator's figures of {date}\n");
        let mut scenario = "";
        for figure in &self.figures {
            if figure.scenario != scenario {
                scenario = &figure.scenario;
                let _ = writeln!(page, "\n## {}\n", capitalized(scenario));
                let _ = writeln!(page, "| figure | median | range | spread |");
                let _ = writeln!(page, "|---|--:|--:|--:|");
            }
            let _ = writeln!(page, "| {} |", row(figure).join(" | "));
        }
        let _ = write!(page, "\n{METHOD}");
        let _ = write!(
            page,
            "\n## How to reproduce\n\nOn an idle machine: `cargo xtask {}`.\n",
            self.command
        );
        let _ = write!(page, "\n## Machine\n\n");
        let mut lines = vec![
            format!("{cpu}, {cores} cores; Linux {kernel}"),
            versions.join("; "),
            format!("load average at the start: {load:.2}"),
            format!(
                "{} rounds; enrolments went on for {} s in each",
                self.rounds, self.seconds
            ),
        ];
        lines.extend(self.remarks.iter().cloned());
        for line in lines {
            let _ = writeln!(page, "- {line}");
        }
        page
    }
}

fn row(figure: &Figure) -> [String; 4] {
    let name = format!("{}, {}", figure.quantity.name, figure.quantity.unit);
    let Some(rounds) = &figure.sealwire else {
        return [name, String::new(), String::new(), String::new()];
    };
    let Rounds {
        median,
        lowest,
        highest,
        ..
    } = rounds;
    [
        name,
        number(*median),
        format!("{}..{}", number(*lowest), number(*highest)),
        format!("{:.0} %", rounds.spread() * 100.0),
    ]
}

const METHOD: &str = "\
## How it was measured

- One `sealwire-coordinator` of the release build on the simulated TEE, pinned to the first core, its log and audit log
  in files, its history in redb. The harness, with every client, has the other cores. Both talk over loopback.
- Figures are medians of the rounds; range is the lowest and the highest round, spread their distance as a share of the
  median. CPU is user and kernel time of the Coordinator's process; it does not grow when others use its core, the times
  and the measured rates do.
- Evidence: `Evidence::decode` and `Verifier::appraise` in a loop on one thread, by that thread's CPU time: of the
  simulated TEE, and real ones with their certificates and collateral, at a moment at which those are valid (the vectors
  `azure/derived/milan-v3-v1` and `dcap-qvl/tdx_quote`). A loop finds its code and data in the caches, an enrolment less so.
- An enrolment is a TCP connection, the TLS handshake, evidence of both sides and its verification by both, and `Enrol`
  for a fresh P-256 key; then the connection is closed. It is timed by the client from before it makes its key. Clients
  start the next one when they have the last one's answer, so that with many clients the times are those of a queue.
- *A whole core* is one second by the CPU time of an enrolment. A report of hardware is bound to the session that it was
  made for, so that no stored one can enrol: for SEV-SNP and TDX the CPU time is *derived*, that of an enrolment with
  simulated evidence, less its verification, plus the verification of the vector. What is not in it: a few KiB more on
  the wire, and the making of the Coordinator's own evidence for each connection: hardware does one at a time, and how
  long it takes was not measured; it may well be what limits enrolments.
- Rotation: simulated agents (50 workloads) with the real protocol, each with its own address and a connection on which it
  watches: they verify each state, rebuild their TLS configuration with the new trust bundle, acknowledge it, enrol anew
  on another connection once the new generation is required, and acknowledge that. The deadline is 300 s, so that
  acknowledgements decide. *As agents do it* has them spread out the replacement over 10 s, as `sealwire-agent` does; *all
  at once* does not, and shows what the cores can do: all agents share those of the harness.
- Watching: as many agents, which do not go away. Memory is the resident set of the process (VmRSS); for each agent its
  growth from after 64 agents have come and gone to all watching. The kernel's socket memory is not in it. CPU while
  nothing changes is keep-alive, which both sides do every 15 s.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Quantity;
    use crate::readings::{Readings, Route};

    fn report() -> Report {
        let mut readings = Readings::default();
        let rate = Quantity::more("enrolments", "1/s");
        for value in [100.0, 120.0, 90.0] {
            readings.add("one client", Route::Sealwire, &[rate.of(value)]);
        }
        Report {
            command: "bench coordinator".to_owned(),
            machine: Machine {
                date: "2026-01-01T00:00:00Z".to_owned(),
                kernel: "6.18".to_owned(),
                cpu: "a CPU".to_owned(),
                cores: 2,
                load: 0.1,
                default_congestion_control: "bbr".to_owned(),
                versions: vec!["sealwire-coordinator 1".to_owned()],
            },
            rounds: 3,
            seconds: 5,
            remarks: vec!["a remark".to_owned()],
            figures: readings.figures(),
        }
    }

    #[test]
    fn the_page_says_what_how_and_where() {
        let page = report().markdown();
        for part in [
            "## One client",
            "| enrolments, 1/s | 100 | 90.0..120 | 30 % |",
            "`cargo xtask bench coordinator`",
            "a CPU, 2 cores; Linux 6.18",
            "- a remark",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
    }

    #[test]
    fn the_table_has_every_figure_and_remark() {
        let table = report().table();
        let row = table.lines().find(|line| line.contains("enrolments, 1/s"));
        let words: Vec<_> = row.unwrap().split_whitespace().collect();
        assert_eq!(words, ["enrolments,", "1/s", "100", "90.0..120", "30", "%"]);
        assert!(table.contains("! a remark"));
    }
}
