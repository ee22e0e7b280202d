//! Colour, where a person looks on.

use std::env;
use std::ffi::OsStr;
use std::io::IsTerminal;

/// `text` in red, if `stream` is a terminal and `NO_COLOR` (<https://no-color.org>) is not set.
pub(crate) fn red(text: &str, stream: &impl IsTerminal) -> String {
    if is_wanted(stream.is_terminal(), env::var_os("NO_COLOR").as_deref()) {
        format!("\x1b[1;31m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn is_wanted(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_of_people_who_do_not_object() {
        assert!(is_wanted(true, None));
        assert!(is_wanted(true, Some(OsStr::new(""))));
        assert!(!is_wanted(true, Some(OsStr::new("1"))));
        assert!(!is_wanted(false, None));
    }
}
