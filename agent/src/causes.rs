//! An error and what caused it, on one line.

use std::{error::Error, io, iter};

/// What went wrong, with every cause that the text before does not have already.
pub fn with_causes(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    message
}

/// What the system said, where a call to it is among the causes.
pub(crate) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    iter::successors(Some(error), |&error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .find_map(io::Error::raw_os_error)
}
