//! Pipes that carry bytes from one socket to another without copying them.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

/// A pipe and how much is in it. Its memory are pages that the sockets have anyway.
///
/// Pipes are pooled, by thread. Only an empty one goes back, so that bytes of one connection never
/// come out at another; one that is dropped is closed.
///
/// splice(2) has no `MSG_NOSIGNAL`: the process must ignore `SIGPIPE`, as Rust's runtime makes it.
#[derive(Debug)]
pub struct Pipe {
    ends: Ends,
    held: usize,
}

#[derive(Debug)]
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// The most bytes that a pipe takes up.
    pub const CAPACITY: usize = 256 * 1024;

    /// The most pieces of memory in which they can be: one page of the pipe's capacity each.
    pub const PIECES: usize = Self::CAPACITY / 4096;

    /// An empty pipe, of this thread's pool if there is one.
    ///
    /// # Errors
    /// Where the kernel gives none: no descriptors left, or no memory for its size
    /// (`/proc/sys/fs/pipe-user-pages-soft`, which binds unprivileged users).
    pub fn take() -> io::Result<Self> {
        let pooled = POOL.with_borrow_mut(Vec::pop);
        let ends = match pooled {
            Some(ends) => ends,
            None => Ends::open()?,
        };
        Ok(Self { ends, held: 0 })
    }

    /// Puts the pipe into this thread's pool, if it is empty and there is room; else closes it.
    pub fn give_back(self) {
        let Self { ends, held: 0 } = self else {
            return;
        };
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOLED {
                pool.push(ends);
            }
        });
    }

    /// How many bytes are in it.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes up what `socket` has: how much, 0 at the end of its stream. Never waits for bytes; the
    /// socket must not wait either (`O_NONBLOCK`).
    ///
    /// # Errors
    /// `EAGAIN` where the socket has nothing, or the pipe is full. Else as read(2).
    pub fn fill(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let room = Self::CAPACITY.saturating_sub(self.held);
        if room == 0 {
            return Err(Errno::EAGAIN.into());
        }
        let filled = splice(socket, None, &self.ends.write, None, room, flags())?;
        self.held += filled;
        Ok(filled)
    }

    /// Gives `socket` what it takes of what is here: how much. Only for a socket that may have the
    /// bytes as they are; towards the network, [`crate::Tx::splice`] does it.
    ///
    /// # Errors
    /// `EAGAIN` where the socket takes nothing. Else as write(2).
    pub fn drain(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        if self.held == 0 {
            return Ok(0);
        }
        let drained = splice(&self.ends.read, None, socket, None, self.held, flags())?;
        if drained == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.held -= drained;
        Ok(drained)
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let capacity = libc::c_int::try_from(Pipe::CAPACITY).map_err(|_| Errno::EINVAL)?;
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(capacity))?;
        Ok(Self { read, write })
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

thread_local! {
    static POOL: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
}

/// A worker needs one at a time, and one more for each direction whose reader has stopped.
const POOLED: usize = 16;

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (near, far)
    }

    fn read_end(pipe: &Pipe) -> i32 {
        pipe.ends.read.as_raw_fd()
    }

    #[test]
    fn what_goes_in_comes_out_and_is_counted() {
        let (source, mut into) = pair();
        let (sink, mut out) = pair();
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(
            pipe.fill(&source).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        into.write_all(b"bytes").unwrap();
        assert_eq!(pipe.fill(&source).unwrap(), 5);
        drop(into);
        assert_eq!((pipe.fill(&source).unwrap(), pipe.held()), (0, 5));
        assert_eq!((pipe.drain(&sink).unwrap(), pipe.held()), (5, 0));
        assert_eq!(pipe.drain(&sink).unwrap(), 0);
        let mut bytes = [0; 5];
        out.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"bytes");
    }

    #[test]
    fn an_empty_pipe_is_used_again_and_one_with_bytes_in_it_is_not() {
        let (source, mut into) = pair();
        let mut pipe = Pipe::take().unwrap();
        let first = read_end(&pipe);
        pipe.give_back();
        pipe = Pipe::take().unwrap();
        assert_eq!(read_end(&pipe), first);
        into.write_all(b"of another connection").unwrap();
        pipe.fill(&source).unwrap();
        pipe.give_back();
        assert!(POOL.with_borrow(Vec::is_empty));
    }

    #[test]
    fn the_pool_has_an_end() {
        let pipes: Vec<_> = std::iter::repeat_with(|| Pipe::take().unwrap())
            .take(POOLED + 3)
            .collect();
        for pipe in pipes {
            pipe.give_back();
        }
        assert_eq!(POOL.with_borrow(Vec::len), POOLED);
    }
}
