//! Chance, to keep agents from doing everything at the same moment.

use aws_lc_rs::rand;

/// A number from 0 to below 1. It is no secret; where the system gives no random bytes it is the
/// middle.
pub(crate) fn fraction() -> f64 {
    f64::from(number()) / (f64::from(u32::MAX) + 1.0)
}

/// A place below `count`, likewise; 0 where there is none.
pub(crate) fn below(count: usize) -> usize {
    (number() as usize).checked_rem(count).unwrap_or(0)
}

fn number() -> u32 {
    let mut bytes = [0; 4];
    match rand::fill(&mut bytes) {
        Ok(()) => u32::from_be_bytes(bytes),
        Err(_) => u32::MAX / 2,
    }
}
