use clap::{Command, CommandFactory, Parser};

use crate::{Sealwire, next_step};

/// Every command, with the words that lead to it.
fn commands(command: &Command, path: &str) -> Vec<(String, Command)> {
    let own = (path.to_owned(), command.clone());
    let shown = command.get_subcommands().filter(|it| !it.is_hide_set());
    let below = shown.flat_map(|below| {
        let path = format!("{path} {}", below.get_name());
        commands(below, &path)
    });
    [own].into_iter().chain(below).collect()
}

/// The command lines in a text.
fn examples(text: &str) -> Vec<Vec<String>> {
    let command = |line: &str| {
        let (before, command) = line.split_at(line.find("sealwire ")?);
        let is_command =
            before.trim().is_empty() || [": ", "| "].iter().any(|it| before.ends_with(it));
        is_command.then(|| words(command))
    };
    let text = text.replace("\\\n", " ");
    text.lines().filter_map(command).collect()
}

/// The words of a command line, with a whole hash for each that it shows the beginning of.
fn words(command: &str) -> Vec<String> {
    // What stands in double quotes is one word.
    let mut is_quoted = false;
    let is_gap = |c: char| {
        is_quoted ^= c == '"';
        !is_quoted && c.is_whitespace()
    };
    let parts = command.split(is_gap).map(|it| it.trim_matches('"'));
    let mut words: Vec<String> = Vec::new();
    for word in parts
        .filter(|it| !it.is_empty())
        .take_while(|it| ![">", "|"].contains(it))
    {
        let Some(start) = word.strip_suffix("...") else {
            words.push(word.to_owned());
            continue;
        };
        let is_measurement = words.last().is_some_and(|it| it == "--measurement");
        let length = if is_measurement { 96 } else { 64 };
        let (name, digits) = start.split_at(start.find('=').map_or(0, |at| at + 1));
        words.push(format!("{name}{}", digits.repeat(length / digits.len())));
    }
    words
}

#[test]
fn the_command_line_is_well_formed() {
    Sealwire::command().debug_assert();
}

#[test]
fn every_command_says_what_it_does_and_shows_how() {
    for (path, command) in commands(&Sealwire::command(), "sealwire") {
        assert!(command.get_about().is_some(), "{path} says nothing");
        if !command.has_subcommands() {
            let help = command.clone().render_long_help().to_string();
            let shown = examples(&help)
                .iter()
                .any(|it| it.join(" ").starts_with(&path));
            assert!(shown, "{path} has no example of itself:\n{help}");
        }
    }
}

#[test]
fn every_example_is_a_command_line_that_works() {
    let texts = commands(&Sealwire::command(), "sealwire")
        .into_iter()
        .map(|(_, command)| command.get_after_help().map(ToString::to_string))
        .chain(next_step::tests::texts().map(Some));
    let mut count = 0;
    for words in texts.flatten().flat_map(|text| examples(&text)) {
        if words.last().is_some_and(|word| word == "--help") {
            continue;
        }
        if let Err(error) = Sealwire::try_parse_from(&words) {
            panic!("{}:\n{error}", words.join(" "));
        }
        count += 1;
    }
    assert!(count > 30, "{count} examples");
}

#[test]
fn every_option_is_explained() {
    for (path, command) in commands(&Sealwire::command(), "sealwire") {
        for argument in command.get_arguments() {
            assert!(
                argument.get_help().is_some(),
                "{path} {}",
                argument.get_id()
            );
        }
    }
}
