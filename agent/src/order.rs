//! Keeps connections of one client to one port in the order in which they arrived, although their
//! handshakes end in any order: some programs tell their connections apart by it (iperf3 --bidir).
//!
//! It holds within one worker, and only as long as nobody waits for it noticeably.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

/// The connections of one worker that wait for their turn, as a chain for each client and port.
#[derive(Debug, Default)]
pub(crate) struct Order {
    tails: RefCell<HashMap<Chain, Tail>>,
    next: Cell<u64>,
}

/// Who connects, and to where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Chain {
    client: IpAddr,
    to: SocketAddr,
}

/// The last turn of a chain that was taken.
#[derive(Debug)]
struct Tail {
    number: u64,
    over: oneshot::Receiver<()>,
}

/// A place in a chain. The next one's turn comes when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    order: Weak<Order>,
    chain: Chain,
    number: u64,
    ahead: Option<oneshot::Receiver<()>>,
    _over: oneshot::Sender<()>,
}

/// Longer than a handshake on a near network takes; a client that makes its own connections wait
/// loses no more than this.
const PATIENCE: Duration = Duration::from_millis(50);

impl Order {
    /// The next place behind those of the same client and port.
    pub(crate) fn turn(self: &Rc<Self>, client: IpAddr, to: SocketAddr) -> Turn {
        let chain = Chain { client, to };
        let number = self.next.replace(self.next.get().wrapping_add(1));
        let (sender, receiver) = oneshot::channel();
        let tail = Tail {
            number,
            over: receiver,
        };
        let ahead = self
            .tails
            .borrow_mut()
            .insert(chain, tail)
            .map(|tail| tail.over);
        Turn {
            order: Rc::downgrade(self),
            chain,
            number,
            ahead,
            _over: sender,
        }
    }
}

impl Turn {
    /// Waits for the turn ahead, if there is one, but not for long.
    pub(crate) async fn come(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            let _ = timeout(PATIENCE, ahead).await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(order) = self.order.upgrade() else {
            return;
        };
        let mut tails = order.tails.borrow_mut();
        if tails
            .get(&self.chain)
            .is_some_and(|tail| tail.number == self.number)
        {
            tails.remove(&self.chain);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        net::{IpAddr, Ipv4Addr, SocketAddr},
        pin::{Pin, pin},
        rc::Rc,
        task::{Context, Waker},
    };

    use super::Order;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    fn to(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 9], port))
    }

    fn is_pending<F: Future>(future: Pin<&mut F>) -> bool {
        future
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_waits_for_the_first_and_others_do_not() {
        let order = Rc::new(Order::default());
        let first = order.turn(CLIENT, to(80));
        let (mut second, mut other_port, mut other_client) = (
            order.turn(CLIENT, to(80)),
            order.turn(CLIENT, to(81)),
            order.turn(OTHER, to(80)),
        );
        assert!(!is_pending(pin!(other_port.come())));
        assert!(!is_pending(pin!(other_client.come())));
        let mut waiting = pin!(second.come());
        assert!(is_pending(waiting.as_mut()));
        drop(first);
        assert!(!is_pending(waiting));
    }

    #[tokio::test(start_paused = true)]
    async fn a_first_that_never_ends_holds_up_the_second_for_a_moment_only() {
        let order = Rc::new(Order::default());
        let _first = order.turn(CLIENT, to(80));
        order.turn(CLIENT, to(80)).come().await;
    }

    #[test]
    fn a_chain_without_turns_is_forgotten() {
        let order = Rc::new(Order::default());
        let (first, second) = (order.turn(CLIENT, to(80)), order.turn(CLIENT, to(80)));
        drop(first);
        assert_eq!(order.tails.borrow().len(), 1);
        drop(second);
        assert!(order.tails.borrow().is_empty());
    }
}
