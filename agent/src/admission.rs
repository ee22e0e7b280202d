//! How many handshakes one source may have under way: a source that holds its share makes only
//! itself wait.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::IpAddr,
    rc::{Rc, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The handshakes under way on one worker, by source address.
#[derive(Debug)]
pub(crate) struct Admission {
    at_once: usize,
    sources: RefCell<HashMap<IpAddr, Rc<Source>>>,
}

#[derive(Debug)]
struct Source {
    slots: std::sync::Arc<Semaphore>,
    waiting: std::cell::Cell<usize>,
}

/// A place in a source's queue and then one of its slots; leaves both when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    admission: Weak<Admission>,
    address: IpAddr,
    source: Rc<Source>,
    permit: Option<OwnedSemaphorePermit>,
}

/// The source has too many connections waiting as it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Connections of one source that may wait for a slot on one worker.
const WAITING: usize = 4096;

impl Admission {
    /// Room for `at_once` handshakes of each source.
    pub(crate) fn new(at_once: usize) -> Rc<Self> {
        Rc::new(Self {
            at_once: at_once.max(1),
            sources: RefCell::default(),
        })
    }

    /// A slot for a handshake with `address`, once one is free. The caller sets the deadline.
    ///
    /// # Errors
    /// [`TooMany`] at once, where the source's queue is full.
    pub(crate) async fn slot(self: &Rc<Self>, address: IpAddr) -> Result<Slot, TooMany> {
        let source = self
            .sources
            .borrow_mut()
            .entry(address)
            .or_insert_with(|| {
                Rc::new(Source {
                    slots: std::sync::Arc::new(Semaphore::new(self.at_once)),
                    waiting: std::cell::Cell::new(0),
                })
            })
            .clone();
        if source.waiting.get() >= WAITING {
            return Err(TooMany);
        }
        source.waiting.set(source.waiting.get() + 1);
        let slots = source.slots.clone();
        let mut slot = Slot {
            admission: Rc::downgrade(self),
            address,
            source,
            permit: None,
        };
        slot.permit = Some(slots.acquire_owned().await.map_err(|_| TooMany)?);
        Ok(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let waiting = self.source.waiting.get() - 1;
        self.source.waiting.set(waiting);
        if waiting == 0
            && let Some(admission) = self.admission.upgrade()
        {
            admission.sources.borrow_mut().remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        net::IpAddr,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::{Admission, TooMany, WAITING};

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_source_at_its_limit_waits_and_another_does_not() {
        let admission = Admission::new(1);
        let Poll::Ready(Ok(first)) = poll(pin!(admission.slot(A))) else {
            panic!("no slot")
        };
        let mut second = pin!(admission.slot(A));
        assert!(poll(second.as_mut()).is_pending());
        assert!(matches!(poll(pin!(admission.slot(B))), Poll::Ready(Ok(_))));
        drop(first);
        assert!(matches!(poll(second.as_mut()), Poll::Ready(Ok(_))));
    }

    #[test]
    fn a_full_queue_refuses_at_once() {
        let admission = Admission::new(1);
        let mut waiting: Vec<_> = (0..WAITING).map(|_| Box::pin(admission.slot(A))).collect();
        let held: Vec<_> = waiting.iter_mut().map(|slot| poll(slot.as_mut())).collect();
        assert!(matches!(
            poll(pin!(admission.slot(A))),
            Poll::Ready(Err(TooMany))
        ));
        drop((held, waiting));
    }

    #[test]
    fn a_source_without_handshakes_is_forgotten() {
        let admission = Admission::new(1);
        let Poll::Ready(Ok(slot)) = poll(pin!(admission.slot(A))) else {
            panic!("no slot")
        };
        assert_eq!(admission.sources.borrow().len(), 1);
        drop(slot);
        assert_eq!(admission.sources.borrow().len(), 0);
    }
}
