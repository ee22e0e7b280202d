//! Ending a relay from outside.

use std::future::poll_fn;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// Ends one connection, from any thread and for good, with the cause. Whoever waits for it is woken
/// at once.
///
/// One task at a time may wait.
#[derive(Debug)]
pub struct StopSignal<C> {
    cause: OnceLock<C>,
    waiting: Mutex<Option<Waker>>,
}

impl<C: Copy> StopSignal<C> {
    /// Gives the signal; false if it was given before, whose cause then stays.
    pub fn stop(&self, cause: C) -> bool {
        let is_first = self.cause.set(cause).is_ok();
        let waiting = self
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = waiting {
            task.wake();
        }
        is_first
    }

    /// The cause, if the signal was given.
    pub fn cause(&self) -> Option<C> {
        self.cause.get().copied()
    }

    /// Waits for the signal.
    pub async fn stopped(&self) -> C {
        let mut watch = StopWatch::new(self);
        poll_fn(|cx| watch.poll(cx)).await
    }
}

impl<C> Default for StopSignal<C> {
    fn default() -> Self {
        Self {
            cause: OnceLock::new(),
            waiting: Mutex::new(None),
        }
    }
}

/// The task that waits for a signal.
#[derive(Debug)]
pub(super) struct StopWatch<'a, C> {
    signal: &'a StopSignal<C>,
    /// The waker that the signal has.
    registered: Option<Waker>,
}

impl<'a, C: Copy> StopWatch<'a, C> {
    pub(super) fn new(signal: &'a StopSignal<C>) -> Self {
        Self {
            signal,
            registered: None,
        }
    }

    /// Ready once the signal was given. A task's waker stays the same, so that this costs one load
    /// from the second call on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<C> {
        let Self { signal, registered } = self;
        if !registered
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            *registered = Some(cx.waker().clone());
            *signal
                .waiting
                .lock()
                .unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        match signal.cause() {
            Some(cause) => Poll::Ready(cause),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    impl Woken {
        fn poll(self: &Arc<Self>, watch: &mut StopWatch<'_, u8>) -> Poll<u8> {
            watch.poll(&mut Context::from_waker(&Arc::clone(self).into()))
        }
    }

    #[test]
    fn the_task_that_polled_last_is_woken() {
        let signal = StopSignal::default();
        let (first, second) = (Arc::<Woken>::default(), Arc::<Woken>::default());
        let mut watch = StopWatch::new(&signal);
        assert!(first.poll(&mut watch).is_pending());
        assert!(second.poll(&mut watch).is_pending());
        assert!(signal.stop(1));
        assert!(!first.0.load(Ordering::SeqCst));
        assert!(second.0.load(Ordering::SeqCst));
        assert_eq!(second.poll(&mut watch), Poll::Ready(1));
    }

    #[test]
    fn a_signal_given_before_anybody_waits_is_not_lost() {
        let signal = StopSignal::default();
        signal.stop(1);
        assert!(
            Arc::<Woken>::default()
                .poll(&mut StopWatch::new(&signal))
                .is_ready()
        );
    }

    #[test]
    fn a_signal_between_two_polls_is_not_lost_whenever_it_comes() {
        for _ in 0..1000 {
            let (signal, woken) = (StopSignal::default(), Arc::<Woken>::default());
            std::thread::scope(|scope| {
                scope.spawn(|| signal.stop(1));
                let seen = woken.poll(&mut StopWatch::new(&signal)).is_ready();
                while !seen && !woken.0.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            });
            assert_eq!(signal.cause(), Some(1));
        }
    }

    #[test]
    fn the_first_cause_stays() {
        let signal = StopSignal::default();
        assert_eq!(signal.cause(), None);
        assert!(signal.stop(1));
        assert!(!signal.stop(2));
        assert_eq!(signal.cause(), Some(1));
    }
}
