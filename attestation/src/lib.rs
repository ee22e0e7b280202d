//! Who a peer is, and what proves it.
//!
//! Holds no sockets, files or clock: bytes, times and trust anchors are arguments.

#![forbid(unsafe_code)]

pub mod identity;
