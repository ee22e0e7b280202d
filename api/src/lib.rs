//! The Coordinator's two APIs.

#![forbid(unsafe_code)]
