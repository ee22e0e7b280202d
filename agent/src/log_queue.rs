//! Log lines on their way out: whoever has something to say never waits for whoever reads it.
//!
//! A thread of its own writes them. Those that it has not written yet are kept up to
//! [`LogQueue::CAPACITY`]. Lines beyond that are lost, as are those that the destination refuses, a
//! file on a full disk say; they are counted.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tracing_subscriber::fmt::MakeWriter;

/// The lines that wait to be written. Clones share them.
#[derive(Clone)]
pub struct LogQueue(Arc<Shared>);

impl LogQueue {
    /// How many bytes may wait: some thousand lines, a moment of a busy agent.
    pub const CAPACITY: usize = 1 << 20;

    /// Starts the thread that writes to `destination`.
    ///
    /// # Errors
    /// Where the thread can't be made.
    pub fn start(destination: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || of_thread.write_to(destination))?;
        Ok(Self(shared))
    }

    /// Adds a line as it is.
    pub fn say(&self, line: &str) {
        self.0.add(format!("{line}\n").as_bytes());
    }

    /// Waits until all is written, but no longer than `limit`: who does not read it must not keep the
    /// process from its end.
    pub fn flush(&self, limit: Duration) {
        let lines = self.0.lines();
        let is_busy = |lines: &mut Lines| lines.is_writing || !lines.waiting.is_empty();
        drop(self.0.changed.wait_timeout_while(lines, limit, is_busy));
    }

    /// How many lines were lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.0.lines().lost
    }

    /// How many were lost that nobody was told of: 0 until lines get through again, so that this is
    /// not lost as well.
    pub(crate) fn lost_and_untold(&self) -> u64 {
        let mut lines = self.0.lines();
        if !lines.get_through {
            return 0;
        }
        let lost = lines.lost;
        lost - mem::replace(&mut lines.told, lost)
    }
}

impl fmt::Debug for LogQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.lines();
        let (waiting, lost) = (lines.waiting.len(), lines.lost);
        write!(f, "LogQueue({waiting} bytes waiting, {lost} lines lost)")
    }
}

impl<'a> MakeWriter<'a> for LogQueue {
    type Writer = Entry<'a>;

    fn make_writer(&'a self) -> Entry<'a> {
        Entry(&self.0)
    }
}

/// Takes a line, which comes in one piece.
#[derive(Debug)]
pub struct Entry<'a>(&'a Shared);

impl Write for Entry<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    /// Something waits that did not before, or has been written.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<u8>,
    is_writing: bool,
    lost: u64,
    told: u64,
    /// Nothing was lost since lines were written last.
    get_through: bool,
}

impl Shared {
    fn add(&self, line: &[u8]) {
        let mut lines = self.lines();
        if lines.waiting.len() + line.len() > LogQueue::CAPACITY {
            lines.lose(1);
            return;
        }
        let is_first = lines.waiting.is_empty();
        lines.waiting.extend_from_slice(line);
        drop(lines);
        if is_first {
            self.changed.notify_all();
        }
    }

    fn write_to(&self, mut destination: impl Write) {
        let mut batch = Vec::new();
        // A line whose beginning alone was written.
        let mut is_torn = false;
        loop {
            self.next(&mut batch);
            if is_torn {
                is_torn = write_until_refused(&mut destination, b"\n") == 0;
            }
            let (written, rest) = batch.split_at(if is_torn {
                0
            } else {
                write_until_refused(&mut destination, &batch)
            });
            let refused = rest.split(|byte| *byte == b'\n').skip(1).count() as u64;
            is_torn |= !written.is_empty() && !written.ends_with(b"\n");
            let mut lines = self.lines();
            lines.is_writing = false;
            lines.get_through = true;
            if refused > 0 {
                lines.lose(refused);
            }
            drop(lines);
            self.changed.notify_all();
        }
    }

    /// Waits for lines and puts them in `batch`, in place of those that are written.
    fn next(&self, batch: &mut Vec<u8>) {
        batch.clear();
        batch.shrink_to(USUAL_BATCH);
        let lines = self.lines();
        let is_empty = |lines: &mut Lines| lines.waiting.is_empty();
        let mut lines = self
            .changed
            .wait_while(lines, is_empty)
            .unwrap_or_else(PoisonError::into_inner);
        lines.is_writing = true;
        mem::swap(&mut lines.waiting, batch);
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn lose(&mut self, lines: u64) {
        self.lost += lines;
        self.get_through = false;
    }
}

/// Writes `bytes` as far as the destination takes them; how many it took.
fn write_until_refused(destination: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match destination.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares standard error may have made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => break,
        }
    }
    written
}

/// What is kept of a buffer that a burst has made larger.
const USUAL_BATCH: usize = 64 << 10;

const RETRY: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Takes as many bytes of each write as it is told to, and waits to be told.
    struct Told {
        room: Receiver<usize>,
        taken: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.room.recv().unwrap_or(usize::MAX).min(bytes.len());
            if room == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.taken.lock().unwrap().extend_from_slice(&bytes[..room]);
            Ok(room)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn start() -> (LogQueue, Sender<usize>, Arc<Mutex<Vec<u8>>>) {
        let (tell, room) = channel();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let destination = Told {
            room,
            taken: Arc::clone(&taken),
        };
        (LogQueue::start(destination).unwrap(), tell, taken)
    }

    fn text(taken: &Mutex<Vec<u8>>) -> String {
        String::from_utf8(taken.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn lines_arrive_in_order_and_whole_however_they_are_taken() {
        let (queue, tell, taken) = start();
        for line in 0..100 {
            queue.say(&format!("line {line}"));
            tell.send(3).unwrap();
        }
        drop(tell);
        queue.flush(DEADLINE);
        let expected: Vec<_> = (0..100).map(|line| format!("line {line}\n")).collect();
        assert_eq!(text(&taken), expected.concat());
        assert_eq!(queue.lost(), 0);
    }

    #[test]
    fn a_destination_that_takes_nothing_holds_nobody_up_and_what_is_lost_is_counted() {
        let (queue, tell, taken) = start();
        let line = "x".repeat(999);
        for _ in 0..5_000 {
            queue.say(&line);
        }
        queue.flush(Duration::ZERO);
        let lost = queue.lost();
        assert!(lost > 0);
        // They would not get through either.
        assert_eq!(queue.lost_and_untold(), 0);

        drop(tell);
        queue.flush(DEADLINE);
        assert_eq!(text(&taken).lines().count() as u64, 5_000 - lost);
        assert_eq!(queue.lost_and_untold(), lost);
        assert_eq!(queue.lost_and_untold(), 0);
    }

    #[test]
    fn a_destination_without_space_loses_lines_that_are_counted_and_joins_none() {
        let (queue, tell, taken) = start();
        // The first line to its half, then no space for the rest, nor for the end of the line, twice.
        for room in [5, 0, 0] {
            tell.send(room).unwrap();
        }
        for lost in [1, 2] {
            queue.say("0123456789");
            queue.flush(DEADLINE);
            assert_eq!(queue.lost(), lost);
            assert_eq!(queue.lost_and_untold(), 0);
        }
        drop(tell);
        queue.say("whole");
        queue.flush(DEADLINE);
        assert_eq!(text(&taken), "01234\nwhole\n");
        assert_eq!(queue.lost_and_untold(), 2);
    }

    const DEADLINE: Duration = Duration::from_mins(1);
}
