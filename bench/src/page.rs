//! A report as a page of Markdown: the figures, how they were measured and where, how noisy they
//! are.

use std::fmt::Write;

use crate::machine::Machine;
use crate::report::{HEADER, RIVALS_NOTE, Report};
use crate::statistics::{Rounds, quantile};

impl Report {
    /// A page for people: the figures, how they were measured and where, how noisy they are.
    pub(crate) fn markdown(&self) -> String {
        let mut page = format!("# Figures of {}\n", self.machine.date);
        let mut scenario = "";
        for (figure, row) in self.figures.iter().zip(self.rows()) {
            if figure.scenario != scenario {
                scenario = &figure.scenario;
                let _ = writeln!(page, "\n## {}\n", capitalized(scenario));
                let _ = writeln!(page, "| {} |", HEADER.join(" | "));
                let _ = writeln!(page, "|---|--:|--:|--:|--:|--:|---|");
            }
            let _ = writeln!(page, "| {} |", row.join(" | "));
        }
        let _ = write!(page, "\n{RIVALS_NOTE}\n\n{METHOD}");
        let _ = write!(
            page,
            "\n## How to reproduce\n\nOn an idle machine, as root: `cargo xtask {}`.\n",
            self.command
        );
        let _ = write!(page, "\n## Machine\n\n");
        for line in self.machine_lines().iter().chain(&self.noise_lines()) {
            let _ = writeln!(page, "- {line}");
        }
        page += "\n## Where the time goes\n\n";
        page
    }

    fn machine_lines(&self) -> Vec<String> {
        let Machine {
            date: _,
            kernel,
            cpu,
            cores,
            load: _,
            default_congestion_control,
            versions,
        } = &self.machine;
        let seen: Vec<_> = self.congestion_controls.iter().cloned().collect();
        vec![
            format!("{cpu}, {cores} cores, which all processes share; Linux {kernel}"),
            format!(
                "every route sets cubic (the machine's default is {default_congestion_control}); \
                 seen on sockets during bulk trials: {}",
                seen.join(", ")
            ),
            versions.join("; "),
        ]
    }

    fn noise_lines(&self) -> Vec<String> {
        let load = format!("load average at the start: {:.2}", self.machine.load);
        let rounds = format!("{} rounds of {} s a trial", self.rounds, self.seconds);
        let mut lines = vec![load, format!("{rounds}; {}", self.noise())];
        lines.extend(self.remarks.iter().cloned());
        lines
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
        let at = |share| quantile(&spreads, share).unwrap_or(f64::NAN);
        if spreads.is_empty() {
            return "the spread of one round is unknown".to_owned();
        }
        format!(
            "spread of a figure over them: {:.0} % median, {:.0} % at p90",
            at(0.5) * 100.0,
            at(0.9) * 100.0
        )
    }
}

pub(crate) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

const METHOD: &str = "\
## How it was measured

- Two hosts are network namespaces joined by a veth pair; on each, unmodified programs in a cgroup. Through Sealwire, a
  pod-mode agent runs in each host's namespace with its defaults, and writes its log (a line a connection) to a file.
  Direct is the same on two more hosts without agents; the two alternate, and change places every round.
- direct and sealwire are medians of the rounds, ratio is that of the medians. range is the lowest and the highest round
  through Sealwire, spread their distance as a share of the median.
- CPU of agents is user and kernel time of their processes; CPU of the machine is all time in which a core was not idle,
  of programs, agents and interrupts, and of whatever else ran. GB is 10^9 bytes.
- Bulk is iperf3. Requests are wrk with one thread on connections that stay open, to nginx with one worker and a page of
  1 KiB; wrk corrects its percentiles for coordinated omission. Judge p99 by its lowest round.
- New connections are the harness's own clients: connect, fetch the page from nginx, read to the end, close. nginx closes
  first, so TIME_WAIT stays on its side, where a newer SYN may take the port again, as TCP allows; the clients' ports do not
  wait, and every failure would be listed below. Each connection is a full handshake: nothing is pooled or resumed.
- Memory of idle connections is the growth of each agent's private memory (Private_Clean and Private_Dirty), from after 64
  connections have come and gone to all open, a byte exchanged on each. The kernel's socket memory is not in it.
";

#[cfg(test)]
mod tests {
    use crate::report::tests::report;

    #[test]
    fn the_page_says_how_where_and_how_noisy() {
        let page = report().markdown();
        for part in [
            "| requests, 1/s | 100 | 50.0 | 0.50 | 40.0..60.0 | 40 % |  |",
            "`cargo xtask bench all`",
            "Linux 6.18",
            "during bulk trials: cubic",
            "- a remark",
            "## Where the time goes",
        ] {
            assert!(page.contains(part), "{part} is not in\n{page}");
        }
    }
}
