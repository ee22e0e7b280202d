//! Files of every kind, before anything is made of what they say.

use super::*;

fn read(bytes: &[u8]) -> Result<Config, ConfigError> {
    let file = ConfigFile::from_reader(Path::new("agent.toml"), bytes)?;
    effective(&Flags::default(), &Environment::default(), Some(file))
}

fn said(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

#[test]
fn wrong_types_and_unknown_keys_hide_no_other_mistake() {
    let text = r#"admin_port = 0
log_level = 3
colour = "red"
[coordinator]
adresses = ["c:7777"]
[[workload]]
name = 7
cgroup = ["/c"]
ingress_peers = "db"
[[workload.ingress]]
port = 70000
mode = true
prot = 1
"#;
    assert_eq!(
        said(text.as_bytes()),
        "agent.toml:1:14: admin_port `0` is not a port; ports are 1 to 65535\n\
         agent.toml:2:13: invalid type: integer `3`, expected a string\n\
         agent.toml:3:1: unknown field `colour`, expected one of `admin_port`, `log_format`, `log_level`, `offload`, `splice`, `local_acceleration`, `flow_table_entries`, `coordinator`, `workload`\n\
         agent.toml:4:1: coordinator.addresses is missing; add addresses = [\"coordinator:7777\"], or give --coordinator HOST:PORT\n\
         agent.toml:4:1: coordinator.manifest is missing; add manifest = \"/etc/sealwire/manifest.json\", or give --coordinator-manifest FILE: it says what the Coordinator must prove\n\
         agent.toml:5:1: unknown field `adresses`, expected one of `addresses`, `manifest`, `state_dir`, `allow_simulated_tee`, `simulated_tee`, `vek`, `crl`, `collateral`\n\
         agent.toml:7:8: invalid type: integer `7`, expected a string\n\
         agent.toml:8:10: invalid type: sequence, expected a string\n\
         agent.toml:9:17: invalid type: string \"db\", expected a sequence; write a list, [\"...\"]\n\
         agent.toml:11:8: workload \"\", ingress[0]: port `70000` is not a port; ports are 1 to 65535\n\
         agent.toml:12:8: invalid type: boolean `true`, expected a string\n\
         agent.toml:13:1: unknown field `prot`, expected one of `port`, `mode`, `peers`"
    );
}

#[test]
fn every_mistake_of_the_syntax_is_told_at_once() {
    assert_eq!(
        said(b"admin_port = \n[[workload]\nname = \"web\"\n"),
        "agent.toml:1:14: string values must be quoted, expected literal string\n\
         agent.toml:2:12: unclosed array table, expected `]`"
    );
}

#[test]
fn what_is_no_text_is_told_with_its_place() {
    assert_eq!(
        said(b"# ok\nname = \"\xff\""),
        "agent.toml:2:9: this is not UTF-8; save the file in that encoding"
    );
    assert!(said(&[0; 16]).starts_with("agent.toml:1:1: "));
}

#[test]
fn a_file_that_is_too_long_is_not_read_to_its_end() {
    let endless = std::io::repeat(b'#');
    let error = ConfigFile::from_reader(Path::new("/dev/zero"), endless).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the configuration /dev/zero is longer than 16 MiB; is it the right file?"
    );
}

#[test]
fn a_mebibyte_of_number_signs_is_a_comment() {
    let said = said(&vec![b'#'; 1 << 20]);
    assert!(said.starts_with("no workload is configured"), "{said}");
}

#[test]
fn as_many_mistakes_as_lines_are_each_told_with_their_place() {
    let lines: Vec<_> = (0..100_000)
        .map(|number| format!("key{number} = 1"))
        .collect();
    let said = said(lines.join("\n").as_bytes());
    assert_eq!(said.lines().count(), 100_000);
    assert!(
        said.lines()
            .last()
            .unwrap()
            .starts_with("agent.toml:100000:1: unknown field")
    );
}
