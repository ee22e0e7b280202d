use nix::errno::Errno;

/// A call to the kernel that failed: what was asked, and what it answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}({option}): {errno}")]
pub struct SocketError {
    /// The system call.
    pub call: &'static str,
    /// The option, or what else was asked for.
    pub option: &'static str,
    /// The answer.
    pub errno: Errno,
}

impl SocketError {
    pub(crate) fn last(call: &'static str, option: &'static str) -> Self {
        Self {
            call,
            option,
            errno: Errno::last(),
        }
    }

    pub(crate) fn new(call: &'static str, option: &'static str, errno: Errno) -> Self {
        Self {
            call,
            option,
            errno,
        }
    }
}
