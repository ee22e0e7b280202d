//! What the author may have meant.

use std::fmt;

/// Displays as ` (did you mean "web" or "wed"?)`, or as nothing if no known name is close.
/// Searches only when displayed.
pub(crate) struct DidYouMean<'a, I> {
    pub(crate) text: &'a str,
    pub(crate) known: I,
}

impl<'a, I: Iterator<Item = &'a str> + Clone> fmt::Display for DidYouMean<'a, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.len() > MAX_LENGTH {
            return Ok(());
        }
        let mut close: Vec<_> = self
            .known
            .clone()
            .filter(|known| known.len() <= MAX_LENGTH)
            .filter(|known| known.len().abs_diff(self.text.len()) <= MAX_DISTANCE)
            .take(MAX_COMPARED)
            .map(|known| (distance(self.text, known), known))
            .filter(|(distance, _)| *distance <= MAX_DISTANCE)
            .collect();
        close.sort_unstable();
        close.dedup();
        for (i, (_, known)) in close.iter().take(MAX_SUGGESTED).enumerate() {
            let before = if i == 0 { " (did you mean" } else { " or" };
            write!(f, "{before} {known:?}")?;
        }
        if close.is_empty() {
            Ok(())
        } else {
            write!(f, "?)")
        }
    }
}

/// Levenshtein's, over bytes with case ignored.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (cell, to) in row
            .iter_mut()
            .zip(std::iter::once(None).chain(b.bytes().map(Some)))
        {
            let above = *cell;
            let value = match to {
                None => left,
                Some(to) => (diagonal + usize::from(!from.eq_ignore_ascii_case(&to)))
                    .min(above + 1)
                    .min(left + 1),
            };
            diagonal = above;
            left = value;
            *cell = value;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// Two slips of the finger, or one swap.
const MAX_DISTANCE: usize = 2;
const MAX_SUGGESTED: usize = 3;

/// Bounds on the work for one error: names come from whoever wrote the manifest.
const MAX_LENGTH: usize = 128;
const MAX_COMPARED: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_insertions_deletions_and_substitutions() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "ab", 2),
            ("ab", "", 2),
            ("web", "web", 0),
            ("web", "WEB", 0),
            ("web", "wed", 1),
            ("web", "weeb", 1),
            ("weeb", "web", 1),
            ("web", "ewb", 2),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn the_closest_names_come_first_and_far_ones_not_at_all() {
        let text = |text, known: &[&str]| {
            let known = known.iter().copied();
            DidYouMean { text, known }.to_string()
        };
        assert_eq!(text("wbe", &["db", "frontend"]), " (did you mean \"db\"?)");
        assert_eq!(
            text("web", &["wxx", "web-1", "wed", "wed"]),
            " (did you mean \"wed\" or \"web-1\" or \"wxx\"?)"
        );
        assert_eq!(text("web", &["frontend"]), "");
        assert_eq!(text(&"w".repeat(200), &["web"]), "");
    }
}
