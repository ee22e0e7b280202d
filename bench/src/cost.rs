//! What a trial costs in CPU time: of each agent, and of the whole machine, since what the kernel
//! does for an agent in interrupts is not charged to it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::unistd::Pid;

use crate::site::Sides;

/// Measures from when it is started.
#[derive(Debug)]
pub(crate) struct Meter {
    agents: Option<Sides<Pid>>,
    started: Instant,
    before: Counters,
}

/// CPU time that was used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cost {
    /// Seconds of each agent, user and kernel; none without agents.
    pub agents: Option<Sides<f64>>,
    /// Seconds of all cores, whoever used them.
    pub machine: f64,
    /// The share of the cores' time in which they were busy.
    pub busy: f64,
}

#[derive(Debug, Clone, Copy)]
struct Counters {
    agents: Option<Sides<f64>>,
    machine: Machine,
}

/// Seconds of all cores since the machine started.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Machine {
    busy: f64,
    cores: usize,
}

impl Meter {
    /// Starts to measure, these agents among others.
    pub(crate) fn start(agents: Option<Sides<Pid>>) -> Result<Self> {
        Ok(Self {
            agents,
            before: Counters::read(agents)?,
            started: Instant::now(),
        })
    }

    /// What was used since the start.
    pub(crate) fn stop(self) -> Result<Cost> {
        let elapsed = self.started.elapsed();
        let after = Counters::read(self.agents)?;
        Ok(self.before.until(after, elapsed))
    }
}

impl Counters {
    fn read(agents: Option<Sides<Pid>>) -> Result<Self> {
        let machine = Machine::parse(&fs::read_to_string("/proc/stat")?)
            .context("/proc/stat has no line of all CPUs")?;
        let agents = agents
            .map(|pids| pids.try_map(process_seconds))
            .transpose()?;
        Ok(Self { agents, machine })
    }

    fn until(self, after: Self, elapsed: Duration) -> Cost {
        let machine = after.machine.busy - self.machine.busy;
        let agents = self.agents.zip(after.agents).map(|(before, after)| Sides {
            client: after.client - before.client,
            server: after.server - before.server,
        });
        Cost {
            agents,
            machine,
            busy: machine / (elapsed.as_secs_f64() * self.machine.cores as f64),
        }
    }
}

impl Machine {
    /// Reads `/proc/stat` (`proc_stat(5)`).
    fn parse(stat: &str) -> Option<Self> {
        let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<f64> = all
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        // Guests' time is in user and nice already; stolen time is another machine's.
        let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields[..] else {
            return None;
        };
        Some(Self {
            busy: (user + nice + system + irq + softirq) / TICKS_PER_SECOND,
            cores: stat
                .lines()
                .filter(|line| line.starts_with("cpu") && !line.starts_with("cpu "))
                .count(),
        })
    }
}

/// Seconds of CPU time that a process has used, user and kernel.
pub(crate) fn process_seconds(pid: Pid) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    parse_process(&stat).with_context(|| format!("{path} has no utime and stime: {stat}"))
}

/// The sum of utime and stime (`proc_pid_stat(5)`), in seconds.
fn parse_process(stat: &str) -> Option<f64> {
    // The name may hold spaces and parentheses.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut ticks = fields.split(' ').skip(11).map(str::parse::<f64>);
    Some((ticks.next()?.ok()? + ticks.next()?.ok()?) / TICKS_PER_SECOND)
}

/// `USER_HZ`, which is 100 on every architecture that the agent runs on.
const TICKS_PER_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_parentheses_does_not_shift_the_fields() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 3 0 99 1 2";
        assert_eq!(parse_process(stat), Some(4.0));
        assert_eq!(parse_process("42 (a) S 1"), None);
    }

    #[test]
    fn idle_waiting_and_stolen_time_is_not_busy() {
        let stat = "cpu  100 20 30 9999 8888 4 6 7777 50 10\n\
                    cpu0 50 10 15 0 0 2 3 0 0 0\ncpu1 50 10 15 0 0 2 3 0 0 0\nintr 5 cpu\n";
        let machine = Machine::parse(stat).unwrap();
        assert_eq!(
            machine,
            Machine {
                busy: 1.6,
                cores: 2
            }
        );
        assert_eq!(Machine::parse("intr 5\n"), None);
    }

    #[test]
    fn a_cost_is_what_was_used_between_two_readings() {
        let read = |client, server, busy| Counters {
            agents: Some(Sides { client, server }),
            machine: Machine { busy, cores: 2 },
        };
        let cost = read(1.0, 2.0, 10.0).until(read(1.5, 2.25, 13.0), Duration::from_secs(2));
        let agents = Sides {
            client: 0.5,
            server: 0.25,
        };
        assert_eq!(cost.agents, Some(agents));
        assert!((cost.machine - 3.0).abs() < 1e-9 && (cost.busy - 0.75).abs() < 1e-9);
    }
}
