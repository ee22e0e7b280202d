//! Append-only history: every manifest that was ever active, in order, signed.

#![forbid(unsafe_code)]
