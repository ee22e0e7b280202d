//! The seed in shares: who splits it, who opens a share, who gathers them.

pub(crate) mod document;
pub(crate) mod gathering;
pub(crate) mod open;
pub(crate) mod share;
pub(crate) mod split;
