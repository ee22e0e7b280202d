use core::fmt;

use crate::{DestinationKey, Endpoint, FlowKey, pod};

/// The level of Sealwire's own socket options, which the kernel itself has no protocol for.
pub const SOL_SEALWIRE: i32 = 0x5ea1;

/// What the agent asks of the kernel side for a connection, by an option at [`SOL_SEALWIRE`] of a
/// socket in its cgroup.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketOption {
    /// To set, with a [`PermitRequest`]: what this socket sends passes the guard.
    Permit = 1,
    /// To get, an [`OriginalDestination`](crate::OriginalDestination): where the program at the other
    /// end of this accepted socket wanted to go.
    OriginalDestination = 2,
    /// To set on any socket, with a [`NameClientRequest`]: whom the program is to see as its peer.
    NameClient = 3,
    /// To set on any socket, with a [`ForgetClientRequest`]: that nobody comes from there any more.
    ForgetClient = 4,
    /// To set on any socket, with a [`RefuseRequest`]: a destination that has just refused.
    Refuse = 5,
    /// To set on any socket, with a [`BeatRequest`]: that the agent is alive, or about to leave.
    Beat = 6,
}

/// Tells an agent of the instance from whatever other program has sockets in its cgroup, or in one
/// below it: drawn at random when the maps are made. All zero is no token.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Token(pub [u64; 2]);

pod!(Token);
const _: () = assert!(size_of::<Token>() == 16);

impl Token {
    /// Whether both are one and the same, and a token at all.
    #[inline(always)]
    pub const fn is(self, other: Self) -> bool {
        let differs = (self.0[0] ^ other.0[0]) | (self.0[1] ^ other.0[1]);
        differs == 0 && !self.is_unset()
    }

    /// Whether nobody has drawn it yet.
    #[inline(always)]
    pub const fn is_unset(self) -> bool {
        self.0[0] | self.0[1] == 0
    }
}

impl fmt::Debug for Token {
    /// Not what it is: who knows it may let sockets past the guard.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// The value of [`SocketOption::Permit`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PermitRequest {
    /// Who asks.
    pub token: Token,
}

pod!(PermitRequest);
const _: () = assert!(size_of::<PermitRequest>() == 16);

/// The value of [`SocketOption::NameClient`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NameClientRequest {
    /// Who asks.
    pub token: Token,
    /// The connection that the agent is about to open.
    pub key: FlowKey,
    /// Whom it comes from.
    pub client: Endpoint,
    /// Always zero.
    pub reserved: u32,
}

pod!(NameClientRequest);
const _: () = assert!(size_of::<NameClientRequest>() == 72);

/// The value of [`SocketOption::ForgetClient`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ForgetClientRequest {
    /// Who asks.
    pub token: Token,
    /// The connection.
    pub key: FlowKey,
}

pod!(ForgetClientRequest);
const _: () = assert!(size_of::<ForgetClientRequest>() == 48);

/// The value of [`SocketOption::Refuse`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RefuseRequest {
    /// Who asks.
    pub token: Token,
    /// The destination.
    pub key: DestinationKey,
    /// `CLOCK_MONOTONIC` nanoseconds until which `connect()` is to fail at once.
    pub until: u64,
}

pod!(RefuseRequest);
const _: () = assert!(size_of::<RefuseRequest>() == 56);

/// The value of [`SocketOption::Beat`].
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BeatRequest {
    /// Who asks.
    pub token: Token,
    /// When the agent was alive: `CLOCK_MONOTONIC` nanoseconds. Zero of one that leaves.
    pub at: u64,
}

pod!(BeatRequest);
const _: () = assert!(size_of::<BeatRequest>() == 24);

#[cfg(test)]
mod tests {
    use super::Token;

    #[test]
    fn a_token_is_itself_alone_and_none_is_nobodys() {
        let token = Token([7, 9]);
        assert!(token.is(token));
        for other in [[7, 8], [6, 9], [9, 7], [0, 0]] {
            assert!(!token.is(Token(other)) && !Token(other).is(token));
        }
        assert!(!Token([0, 0]).is(Token([0, 0])));
        assert!(Token([0, 0]).is_unset() && !Token([0, 1]).is_unset());
    }
}
