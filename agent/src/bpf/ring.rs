//! Reads a ring buffer of the kernel's: no call to the kernel once it is mapped.
//!
//! aya's own reader does not tell a ring that is empty from one whose next record is still being
//! written, nor how full it was found; who decides by what is in it must know both.
//! Layout: Documentation/bpf/ringbuf.rst and `kernel/bpf/ringbuf.c` of Linux 6.18.
#![expect(
    unsafe_code,
    reason = "memory shared with the kernel, each use argued for"
)]

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr::{self, NonNull},
    slice,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    thread,
};

use rustix::{
    mm::{MapFlags, ProtFlags, mmap, munmap},
    param::page_size,
};

/// The reader of one ring buffer: there is no other.
pub(crate) struct Ring {
    map: OwnedFd,
    consumer: Mapping,
    /// The kernel's position, then the records, twice in a row so that none is ever in two pieces.
    producer: Mapping,
    size: usize,
    longest: usize,
}

/// What reading a ring has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaughtUp {
    /// Everything that was in it when that began has been read.
    Wholly,
    /// Something may have found no room, or is still not written.
    WithGaps,
}

impl Ring {
    /// Maps the ring buffer `map`, of `size` bytes, whose records have at most `longest`.
    ///
    /// # Errors
    /// Where it is none, or the kernel has no memory.
    pub(crate) fn map(map: OwnedFd, size: usize, longest: usize) -> io::Result<Self> {
        let page = page_size();
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        let consumer = Mapping::new(map.as_fd(), 0, page, writable)?;
        let behind = page + 2 * size;
        let producer = Mapping::new(map.as_fd(), page as u64, behind, ProtFlags::READ)?;
        Ok(Self {
            map,
            consumer,
            producer,
            size,
            longest,
        })
    }

    /// A descriptor that becomes readable when a record waits.
    pub(crate) fn events(&self) -> io::Result<OwnedFd> {
        self.map.try_clone()
    }

    /// Hands out the records that are in the ring, and takes them from it.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(&[u8])) -> CaughtUp {
        let mut at = self.consumed().load(Ordering::Relaxed);
        let target = self.produced().load(Ordering::Acquire);
        let mut result = CaughtUp::Wholly;
        // The difference, since positions wrap around.
        while target.wrapping_sub(at).cast_signed() > 0 {
            // Looked at before each record goes: a ring that has filled up meanwhile shows it here, as
            // it shrinks by no more than one record between two looks.
            if self.produced().load(Ordering::Acquire).wrapping_sub(at) > self.full() {
                result = CaughtUp::WithGaps;
            }
            let Some(header) = self.written(at) else {
                return CaughtUp::WithGaps;
            };
            let length = (header & LENGTH) as usize;
            if header & DISCARDED == 0 {
                each(self.record(at, length));
            }
            at = at.wrapping_add((HEADER + length).next_multiple_of(HEADER));
            self.consumed().store(at, Ordering::Release);
        }
        result
    }

    /// From how many bytes on the longest record may not have found room.
    fn full(&self) -> usize {
        self.size - 2 * (HEADER + self.longest).next_multiple_of(HEADER)
    }

    /// The header of the record at `at`, which a program on another CPU may be about to write: that
    /// takes it microseconds, unless its machine stands still.
    fn written(&self, at: usize) -> Option<u32> {
        for _ in 0..PATIENCE {
            let header = self.header(at).load(Ordering::Acquire);
            if header & BUSY == 0 {
                return Some(header);
            }
            thread::yield_now();
        }
        None
    }

    fn consumed(&self) -> &AtomicUsize {
        // SAFETY: the page is mapped for as long as `self` lives and begins with the position, an
        // aligned `unsigned long` that kernel and reader access atomically.
        unsafe { self.consumer.start.cast().as_ref() }
    }

    fn produced(&self) -> &AtomicUsize {
        // SAFETY: as above.
        unsafe { self.producer.start.cast().as_ref() }
    }

    fn header(&self, at: usize) -> &AtomicU32 {
        // SAFETY: the place lies in the mapping, as it is below `size`; it is aligned, as records begin
        // at multiples of eight; the kernel accesses it atomically.
        unsafe { self.place(at).cast().as_ref() }
    }

    fn record(&self, at: usize, length: usize) -> &[u8] {
        let length = length.min(self.size - HEADER);
        // SAFETY: the bytes lie in the mapping: it has the ring twice, the place is in the first and the
        // length at most that of a ring. The kernel has written them before it took the busy mark off,
        // which `written` has seen, and writes there again only when `drain` has moved the position on.
        unsafe { slice::from_raw_parts(self.place(at).add(HEADER).as_ptr(), length) }
    }

    fn place(&self, at: usize) -> NonNull<u8> {
        let offset = page_size() + (at & (self.size - 1));
        // SAFETY: within the mapping, which has a page and the ring twice.
        unsafe { self.producer.start.add(offset) }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, size, .. } = self;
        f.debug_struct("Ring")
            .field("map", map)
            .field("size", size)
            .finish_non_exhaustive()
    }
}

/// Memory that is unmapped when this drops.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(map: BorrowedFd<'_>, offset: u64, length: usize, may: ProtFlags) -> io::Result<Self> {
        // SAFETY: the kernel chooses a free place.
        let start = unsafe { mmap(ptr::null_mut(), length, may, MapFlags::SHARED, map, offset) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing borrows from it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

// SAFETY: the memory belongs to the process, not to a thread; what is shared with the kernel is accessed
// atomically.
unsafe impl Send for Mapping {}

/// What precedes each record: its length with two marks, and where it lies.
const HEADER: usize = 8;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
const LENGTH: u32 = !(BUSY | DISCARDED);

/// How often a record is looked at that is not written yet, other threads in between.
const PATIENCE: u32 = 10_000;
