//! Connections as a table that fits the terminal.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::iter;
use std::time::Duration;

use terminal_size::terminal_size_of;

use super::connection::{Connection, Listed, Rate};
use crate::admin::Shown;
use crate::check::count;

/// How much room a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// A terminal of so many columns and rows.
    Terminal { columns: usize, rows: usize },
    /// A file, or a program that reads it.
    Endless,
}

impl Room {
    pub(super) fn of_stdout() -> Self {
        let stdout = io::stdout();
        match terminal_size_of(&stdout) {
            Some((columns, rows)) if stdout.is_terminal() => Self::Terminal {
                columns: usize::from(columns.0),
                rows: usize::from(rows.0),
            },
            _ => Self::Endless,
        }
    }
}

/// The connections, oldest first.
pub(super) fn once(listed: &Listed, room: Room) -> String {
    let columns: Vec<&Column> = COLUMNS.iter().filter(|it| !it.is_rate).collect();
    let rows = listed.connections.iter().map(|it| row(&columns, it, None));
    let mut text = match listed.connections.len() {
        0 => "no connections\n".to_owned(),
        _ => lay_out(&columns, rows.collect(), room),
    };
    let omitted = listed.omitted;
    if omitted > 0 {
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{omitted} more are open; the agent does not list them"
        );
    }
    text
}

/// The connections with what they moved since `before`, busiest first. What a terminal has no room
/// for is counted.
pub(super) fn with_rates(listed: &Listed, before: &Listed, room: Room) -> String {
    let known: HashMap<u64, &Connection> =
        before.connections.iter().map(|it| (it.id, it)).collect();
    let rate = |now: &Connection| known.get(&now.id).and_then(|it| now.rate_since(it));
    let mut connections: Vec<(&Connection, Option<Rate>)> =
        listed.connections.iter().map(|it| (it, rate(it))).collect();
    let rates: Vec<Rate> = connections.iter().filter_map(|(_, rate)| *rate).collect();
    let sum = |part: fn(Rate) -> u64| {
        let all = rates.iter().copied().map(part);
        bytes(all.fold(0, u64::saturating_add))
    };
    let mut text = count(connections.len(), "connection");
    // Of the first picture no rate is known.
    if !rates.is_empty() {
        let (sent, received) = (sum(|rate| rate.sent), sum(|rate| rate.received));
        // Writing to a String does not fail.
        let _ = write!(text, ", {sent}/s sent, {received}/s received");
    }
    text.push('\n');
    // The sort is stable: among equals the oldest stays first.
    connections.sort_by_key(|(_, rate)| {
        Reverse(rate.map_or(0, |Rate { sent, received }| sent.saturating_add(received)))
    });
    let fitting = match room {
        Room::Endless => connections.len(),
        Room::Terminal { rows, .. } => rows.saturating_sub(LINES_AROUND).min(connections.len()),
    };
    let hidden = (connections.len() - fitting) as u64 + listed.omitted;
    let columns: Vec<&Column> = COLUMNS.iter().collect();
    let shown = connections[..fitting].iter();
    let rows = shown.map(|(it, rate)| row(&columns, it, *rate)).collect();
    text += &lay_out(&columns, rows, room);
    if hidden > 0 {
        let _ = writeln!(text, "and {hidden} more");
    }
    text
}

/// A column of the table.
struct Column {
    head: &'static str,
    shape: Shape,
    /// Shown with rates alone.
    is_rate: bool,
    /// What a connection shows here; its rate may not be known.
    cell: fn(&Connection, Option<Rate>) -> String,
}

/// What becomes of a column where there is little room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Numbers, aligned at their end: never cut.
    Number,
    /// A short word: never cut.
    Word,
    /// Its beginning is what tells most.
    KeepsStart,
    /// Its end is: the port of an address, the name in an identity.
    KeepsEnd,
}

const fn column(
    head: &'static str,
    shape: Shape,
    cell: fn(&Connection, Option<Rate>) -> String,
) -> Column {
    Column {
        head,
        shape,
        is_rate: false,
        cell,
    }
}

const fn rate_column(head: &'static str, cell: fn(&Connection, Option<Rate>) -> String) -> Column {
    Column {
        is_rate: true,
        ..column(head, Shape::Number, cell)
    }
}

const COLUMNS: [Column; 13] = [
    column("ID", Shape::Number, |it, _| it.id.to_string()),
    column("WORKLOAD", Shape::KeepsStart, |it, _| {
        it.workload.as_str().to_owned()
    }),
    column("WAY", Shape::Word, |it, _| it.direction.as_str().to_owned()),
    column("FROM", Shape::KeepsEnd, |it, _| it.from.to_string()),
    column("TO", Shape::KeepsEnd, |it, _| it.to.to_string()),
    column("PEER", Shape::KeepsEnd, |it, _| or_dash(it.peer.as_ref())),
    column("MODE", Shape::Word, |it, _| it.mode.as_str().to_owned()),
    column("DATAPATH", Shape::KeepsStart, |it, _| datapath(it)),
    column("SENT", Shape::Number, |it, _| bytes(it.sent)),
    rate_column("PER S", |_, rate| {
        rate.map_or_else(dash, |rate| bytes(rate.sent))
    }),
    column("RECEIVED", Shape::Number, |it, _| bytes(it.received)),
    rate_column("PER S", |_, rate| {
        rate.map_or_else(dash, |rate| bytes(rate.received))
    }),
    column("AGE", Shape::Number, |it, _| age(it.age())),
];

fn datapath(connection: &Connection) -> String {
    match (&connection.datapath, &connection.datapath_why) {
        (Some(name), Some(why)) => format!("{}:{}", name.as_str(), why.as_str()),
        (name, _) => or_dash(name.as_ref()),
    }
}

fn or_dash(text: Option<&Shown>) -> String {
    text.map_or_else(dash, |text| text.as_str().to_owned())
}

/// For what is not known.
fn dash() -> String {
    "-".to_owned()
}

fn row(columns: &[&Column], connection: &Connection, rate: Option<Rate>) -> Vec<String> {
    columns
        .iter()
        .map(|it| (it.cell)(connection, rate))
        .collect()
}

fn lay_out(columns: &[&Column], rows: Vec<Vec<String>>, room: Room) -> String {
    let heads = columns.iter().map(|it| it.head.to_owned()).collect();
    let lines: Vec<Vec<String>> = iter::once(heads).chain(rows).collect();
    let mut widths: Vec<usize> = (0..columns.len())
        .map(|at| {
            lines
                .iter()
                .map(|line| line[at].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    if let Room::Terminal { columns: room, .. } = room {
        shrink(columns, &mut widths, room);
    }
    let mut text = String::new();
    for line in lines {
        let cells = columns.iter().zip(&widths).zip(line);
        let cells: Vec<String> = cells
            .map(|((column, width), text)| column.fit(&text, *width))
            .collect();
        let line = cells.join(GAP);
        let line = match room {
            Room::Terminal { columns, .. } => line.chars().take(columns).collect(),
            Room::Endless => line,
        };
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Takes from the widest column that may be cut, until the table fits or none is left to take from.
fn shrink(columns: &[&Column], widths: &mut [usize], room: usize) {
    let gaps = GAP.len() * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > room {
        let may_be_cut = |shape| matches!(shape, Shape::KeepsStart | Shape::KeepsEnd);
        let candidates = columns.iter().zip(widths.iter_mut());
        let widest = candidates
            .filter(|(column, width)| may_be_cut(column.shape) && **width > NARROWEST)
            .max_by_key(|(_, width)| **width);
        let Some((_, width)) = widest else { break };
        *width -= 1;
    }
}

impl Column {
    fn fit(&self, text: &str, width: usize) -> String {
        let length = text.chars().count();
        match self.shape {
            Shape::Number => format!("{text:>width$}"),
            Shape::KeepsStart if length > width => {
                let start = text.chars().take(width.saturating_sub(1));
                start.chain(iter::once(CUT)).collect()
            }
            Shape::KeepsEnd if length > width => {
                let end = text.chars().skip(length + 1 - width.max(1));
                iter::once(CUT).chain(end).collect()
            }
            Shape::Word | Shape::KeepsStart | Shape::KeepsEnd => format!("{text:<width$}"),
        }
    }
}

/// Three digits at most, such as `1.2 MB`.
fn bytes(number: u64) -> String {
    let mut unit = 0;
    // Tenths of the unit.
    let mut tenths = u128::from(number) * 10;
    while tenths >= 10_000 && unit + 1 < UNITS.len() {
        tenths /= 1000;
        unit += 1;
    }
    let unit_name = UNITS[unit];
    if unit > 0 && tenths < 100 {
        format!("{}.{} {unit_name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit_name}", tenths / 10)
    }
}

/// The two largest units, such as `3h07m`.
fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{:02}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{:02}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else {
        format!("{seconds}s")
    }
}

const GAP: &str = "  ";
const CUT: char = '…';

/// A column is not cut any further.
const NARROWEST: usize = 8;

/// The summary, the heads, how many more there are, and the line that the cursor stands in.
const LINES_AROUND: usize = 4;

const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];

#[cfg(test)]
mod tests {
    use super::super::connection::tests::{TWO, two};
    use super::super::filter::Filter;
    use super::*;

    fn terminal(columns: usize, rows: usize) -> Room {
        Room::Terminal { columns, rows }
    }

    #[test]
    fn a_table_has_a_line_for_each_connection() {
        assert_eq!(
            once(&two(), Room::Endless),
            "\
ID  WORKLOAD  WAY      FROM            TO            PEER                                  MODE  DATAPATH               SENT  RECEIVED    AGE
 1  web       egress   10.0.0.1:40000  [fd00::1]:80  spiffe://mesh.local/ns/default/sa/db  mtls  userspace:offload-off   5 B    1.2 MB     0s
 2  web-2     ingress  10.0.0.9:5      10.0.0.1:443  -                                     mtls  -                       0 B       0 B  1h00m
"
        );
    }

    #[test]
    fn a_table_fits_its_terminal_and_keeps_what_tells_most() {
        let text = once(&two(), terminal(100, 24));
        assert!(
            text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
        assert!(text.contains("sa/db  mtls  userspac"), "{text}");
        for width in 0..140 {
            let text = once(&two(), terminal(width, 24));
            assert!(
                text.lines().all(|line| line.chars().count() <= width),
                "{text}"
            );
        }
    }

    #[test]
    fn nothing_and_too_much_are_said() {
        let listed = |omitted| Listed::parse(b"[]", omitted, &Filter::default()).unwrap();
        assert_eq!(once(&listed(0), Room::Endless), "no connections\n");
        let text = once(&listed(3), Room::Endless);
        assert!(text.contains("3 more are open"), "{text}");
    }

    #[test]
    fn the_busiest_connection_is_first_and_the_rest_is_counted() {
        let later = TWO
            .replace("3600000", "3601000")
            .replace(r#""sent":0,"received":0"#, r#""sent":2500000,"received":0"#);
        let now = Listed::parse(later.as_bytes(), 0, &Filter::default()).unwrap();
        let text = with_rates(&now, &two(), Room::Endless);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "2 connections, 2.5 MB/s sent, 0 B/s received");
        let first = with_rates(&now, &Listed::default(), Room::Endless);
        assert!(first.starts_with("2 connections\n"), "{first}");
        assert!(
            lines[2].starts_with(" 2  web-2") && lines[2].contains("2.5 MB"),
            "{text}"
        );
        // The other one is as it was, by its own clock: no time has passed.
        assert!(lines[3].starts_with(" 1  web"), "{text}");

        let text = with_rates(&now, &two(), terminal(80, 5));
        assert_eq!(text.lines().last(), Some("and 1 more"), "{text}");
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn numbers_of_bytes_have_three_digits_at_most() {
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1999, "1.9 kB"),
            (10_000, "10 kB"),
            (999_999, "999 kB"),
            (1_000_000, "1.0 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn ages_are_in_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0s"),
            (61, "1m01s"),
            (7 * 3600, "7h00m"),
            (90_061, "1d01h"),
        ] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
