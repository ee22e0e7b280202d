//! A picture of the connections that is made anew again and again, until somebody has seen enough.

use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::connection::Listed;
use super::filter::Filter;
use super::list;
use super::table::{Room, with_rates};
use crate::admin::AdminPort;
use crate::failure::{Failure, Stopped};

/// How long a picture stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval(Duration);

impl FromStr for Interval {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = text.parse().ok().filter(|it| (0.1..=3600.0).contains(it));
        let seconds = seconds.context("expected a number of seconds from 0.1 to 3600")?;
        Ok(Self(Duration::from_secs_f64(seconds)))
    }
}

/// Shows the connections that pass the filter until a signal or the reader's end.
///
/// An agent that is not there at first is an error; one that goes away later may come back.
pub(super) async fn watch(
    port: AdminPort,
    filter: &Filter,
    Interval(every): Interval,
    as_json: bool,
) -> Result<String, Failure> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let pictures = async {
        let mut latest = Ok(list(port, filter).await?);
        let mut before = Listed::default();
        let mut screen = Screen::new(as_json);
        loop {
            let shown = match &latest {
                Ok(now) if as_json => screen.show(&now.as_json()),
                Ok(now) => screen.show(&with_rates(now, &before, Room::of_stdout())),
                Err(error) => screen.complain(error),
            };
            if shown? == Reader::Gone {
                return Ok(String::new());
            }
            before = latest.unwrap_or_default();
            sleep(every).await;
            latest = list(port, filter).await;
        }
    };
    // Whichever ends, the pictures are dropped, and so their screen.
    tokio::select! {
        ended = pictures => ended,
        _ = interrupt.recv() => Err(Failure::Stopped(Stopped::Interrupted)),
        _ = terminate.recv() => Err(Failure::Stopped(Stopped::Terminated)),
    }
}

/// Where pictures go.
#[derive(Debug)]
enum Screen {
    /// The other screen of a terminal, in place of each other. Dropping it shows the first one again.
    Terminal,
    /// One after the other.
    Plain,
}

/// Whether anybody still looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

impl Screen {
    fn new(as_json: bool) -> Self {
        if io::stdout().is_terminal() && !as_json {
            // What can't be written now fails again with the first picture.
            let _ = write(ENTER);
            Self::Terminal
        } else {
            Self::Plain
        }
    }

    fn show(&mut self, picture: &str) -> io::Result<Reader> {
        match self {
            Self::Terminal => write(&in_place(picture)),
            Self::Plain => write(picture),
        }
    }

    fn complain(&mut self, error: &anyhow::Error) -> io::Result<Reader> {
        let text = format!("{error:#}\n");
        match self {
            Self::Terminal => write(&in_place(&text)),
            Self::Plain => {
                // Where nobody listens, there is nobody to tell.
                let _ = io::stderr().write_all(text.as_bytes());
                Ok(Reader::There)
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        match self {
            // A terminal that has gone needs nothing.
            Self::Terminal => drop(write(LEAVE)),
            Self::Plain => {}
        }
    }
}

/// The picture in place of the one before, without a flash of an empty screen: each line is written
/// over, then its rest is cleared.
fn in_place(picture: &str) -> String {
    let lines = picture.replace('\n', "\x1b[K\r\n");
    format!("\x1b[H{lines}\x1b[J")
}

fn write(text: &str) -> io::Result<Reader> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error),
    }
}

/// To the other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";

/// Back.
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_a_tenth_of_a_second_to_an_hour() {
        let interval = |text: &str| text.parse::<Interval>().map(|it| it.0).ok();
        assert_eq!(interval("1"), Some(Duration::from_secs(1)));
        assert_eq!(interval("0.5"), Some(Duration::from_millis(500)));
        for wrong in ["", "0", "-1", "NaN", "inf", "1e300", "3601", "1s"] {
            assert_eq!(interval(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_picture_leaves_nothing_of_the_one_before() {
        assert_eq!(in_place("a\nb\n"), "\x1b[Ha\x1b[K\r\nb\x1b[K\r\n\x1b[J");
    }
}
