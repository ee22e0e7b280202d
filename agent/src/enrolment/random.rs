//! Chance, to keep agents from doing everything at the same moment.

use aws_lc_rs::rand;

/// A number from 0 to below 1. It is no secret; where the system gives no random bytes it is the
/// middle.
pub(crate) fn fraction() -> f64 {
    let mut bytes = [0; 4];
    match rand::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_be_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        Err(_) => 0.5,
    }
}
