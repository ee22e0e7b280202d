//! TLS 1.3 in which each side proves, before any other byte, what it runs on.

#![forbid(unsafe_code)]
