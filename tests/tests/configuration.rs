//! Bad input: one clear message, an exit code that tells whose fault it is, and nothing left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::unistd::{Uid, chown};
use testbed::agent::command;
use testbed::pair::PORT;
use testbed::pki::Mesh;
use testbed::{Client, Finished, Server, Testbed, require};

#[test]
fn a_valid_file_with_nothing_wrong_is_what_the_others_are_made_from() -> Result<()> {
    require!();
    let scene = Scene::new()?;
    let agent = command(None)?
        .arg("--config")
        .arg(scene.write(&scene.valid())?)
        .args(["--instance", &scene.instance()])
        .spawn()?;
    std::thread::sleep(Duration::from_millis(1500));
    assert!(scene.pins().exists(), "it does not run: {}", agent.stderr());
    Ok(())
}

#[test]
fn an_unknown_key_is_refused() -> Result<()> {
    require!();
    let scene = Scene::new()?;
    scene.assert_refused(
        &format!("colour = 3\n{}", scene.valid()),
        &["colour", ":1:"],
    )?;
    scene.assert_refused(
        &format!("{}colour = 3\n", scene.valid()),
        &["colour", ":6:"],
    )
}

#[test]
fn a_value_of_the_wrong_type_is_refused() -> Result<()> {
    require!();
    let scene = Scene::new()?;
    scene.assert_refused(&scene.with("name = 7"), &[":2:", "string"])?;
    scene.assert_refused(&scene.with("ingress_peers = \"client\""), &["sequence"])?;
    scene.assert_refused("workload = 1\n", &[":1:"])
}

#[test]
fn a_port_that_is_none_is_refused() -> Result<()> {
    require!();
    let scene = Scene::new()?;
    for port in ["0", "65536", "-1", "\"http\"", "1.5"] {
        let shown = port.trim_matches('"');
        let admin = format!("admin_port = {port}\n{}", scene.valid());
        scene.assert_refused(&admin, &["admin_port", shown, ":1:"])?;
        let ingress = format!("{}[[workload.ingress]]\nport = {port}\n", scene.valid());
        scene.assert_refused(&ingress, &["port", shown, ":7:"])?;
        let egress = format!(
            "{}[[workload.egress]]\ncidr = \"10.0.0.0/8\"\nport = {port}\n",
            scene.valid()
        );
        scene.assert_refused(&egress, &["port", shown, ":8:"])?;
    }
    Ok(())
}

#[test]
fn every_mistake_is_reported_at_once() -> Result<()> {
    require!();
    let scene = Scene::new()?;
    let text = format!(
        "admin_port = 0\n{}[[workload.ingress]]\nport = 70000\nmode = \"clear\"\n",
        scene.valid()
    );
    scene.assert_refused(&text, &["admin_port", "70000", "clear"])
}

#[test]
fn a_cgroup_or_namespace_that_is_not_there_is_refused() -> Result<()> {
    require!();
    let scene = Scene::new()?;
    scene.assert_refused(
        &scene.with("cgroup = \"/sys/fs/cgroup/nowhere\""),
        &["nowhere"],
    )?;
    scene.assert_refused(&scene.with("netns = \"/run/netns/nowhere\""), &["nowhere"])?;
    let file = scene.bed.directory().join("file");
    fs::write(&file, "")?;
    let file = file.display();
    scene.assert_refused(&scene.with(&format!("cgroup = \"{file}\"")), &["file"])?;
    scene.assert_refused(&scene.with(&format!("netns = \"{file}\"")), &["file"])
}

#[test]
fn a_file_that_is_missing_empty_or_no_toml_is_refused() -> Result<()> {
    require!();
    let scene = Scene::new()?;
    let missing = scene.bed.directory().join("missing.toml");
    let finished = scene.run(&missing)?;
    assert_refusal(&finished, 2, &["missing.toml"]);
    scene.assert_refused("", &["workload"])?;
    scene.assert_refused("[[workload]\n", &[":1:"])
}

#[test]
fn certificates_that_cannot_serve_are_refused() -> Result<()> {
    require!("openssl");
    let scene = Scene::new()?;
    let other = scene.mesh.issue("other")?;
    let good = scene.mesh.issue("client")?;
    let chain = fs::read_to_string(good.join("certChain.pem"))?;
    let (leaf, intermediate) = chain
        .split_once("-----END CERTIFICATE-----\n")
        .map(|(leaf, rest)| (format!("{leaf}-----END CERTIFICATE-----\n"), rest))
        .context("a chain of two")?;
    let der = std::process::Command::new("openssl")
        .args(["x509", "-outform", "DER", "-in"])
        .arg(good.join("certChain.pem"))
        .output()?
        .stdout;
    assert!(!der.is_empty());

    let cases: [(&str, &str, Vec<u8>); 7] = [
        (
            "the key of another",
            "key.pem",
            fs::read(other.join("key.pem"))?,
        ),
        (
            "the wrong order",
            "certChain.pem",
            format!("{intermediate}{leaf}").into_bytes(),
        ),
        ("an empty chain", "certChain.pem", Vec::new()),
        ("an empty key", "key.pem", Vec::new()),
        ("an empty CA", "mesh-ca.pem", Vec::new()),
        ("DER", "certChain.pem", der),
        ("a certificate for a key", "key.pem", leaf.into_bytes()),
    ];
    for (what, file, contents) in cases {
        let directory = scene.mesh.issue("client")?;
        fs::write(directory.join(file), contents)?;
        let finished = scene.run(&scene.write(&scene.valid())?).context(what)?;
        assert_refusal(&finished, 2, &[file]);
        scene.assert_nothing_is_left()?;
    }
    Ok(())
}

#[test]
fn who_is_not_root_is_told_so() -> Result<()> {
    require!("setpriv");
    let scene = Scene::new()?;
    let config = scene.write(&scene.valid())?;
    chown(scene.bed.directory(), Some(Uid::from_raw(NOBODY)), None)?;
    let binary = fs::canonicalize(testbed::agent::binary())?;
    let outsider = scene.bed.directory().join("sealwire-agent");
    fs::copy(binary, &outsider)?; // where nobody may run it
    let agent = scene
        .bed
        .host("client")
        .command("setpriv")
        .args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")])
        .arg("--clear-groups")
        .arg(outsider)
        .arg("--config")
        .arg(config)
        .args(["--instance", &scene.instance()])
        .outside_the_cgroup();
    let finished = agent.run(LIMIT)?;
    let said = finished.stderr_text();
    assert!(
        matches!(finished.status.code(), Some(2 | 3)),
        "{}: {said}",
        finished.status
    );
    assert!(said.contains("root"), "{said}");
    scene.assert_nothing_is_left()
}

#[test]
fn a_kernel_without_type_information_is_refused() -> Result<()> {
    require!("unshare");
    let scene = Scene::new()?;
    let config = scene.write(&scene.valid())?;
    // A mount namespace in which the kernel seems to have no BTF.
    let hide = "mount -t tmpfs none /sys/kernel/btf && exec \"$0\" \"$@\"";
    let agent = scene
        .bed
        .host("client")
        .command("unshare")
        .args(["--mount", "sh", "-c", hide])
        .arg(fs::canonicalize(testbed::agent::binary())?)
        .arg("--config")
        .arg(config)
        .args(["--instance", &scene.instance()])
        .outside_the_cgroup();
    assert_refusal(&agent.run(LIMIT)?, 3, &["BTF"]);
    scene.assert_nothing_is_left()
}

#[test]
fn wrong_usage_is_refused() -> Result<()> {
    require!();
    for arguments in [
        &["--colour"][..],
        &["--admin-port"],
        &["--workers", "none"],
        &[],
    ] {
        let finished = command(None)?.args(arguments).run(LIMIT)?;
        assert_eq!(
            finished.status.code(),
            Some(2),
            "{arguments:?}: {}",
            finished.stderr_text()
        );
        assert!(!finished.stderr.is_empty(), "{arguments:?}");
    }
    Ok(())
}

#[test]
fn a_second_agent_for_the_same_instance_is_refused() -> Result<()> {
    require!();
    let pair = testbed::Pair::start()?;
    let second = pair.client_agent.start_another()?.wait(LIMIT)?;
    let code = second.status.code();
    assert!(
        matches!(code, Some(1..=3)),
        "{code:?}: {}",
        second.stderr_text()
    );
    pair.assert_served()
}

/// A host with what a valid configuration names.
struct Scene {
    bed: Testbed,
    mesh: Mesh,
}

impl Scene {
    fn new() -> Result<Self> {
        let bed = Testbed::new(&["client", "server"])?;
        let mesh = Mesh::new(&bed.directory().join("mesh"))?;
        mesh.issue("client")?;
        Ok(Self { bed, mesh })
    }

    /// Five lines.
    fn valid(&self) -> String {
        let host = self.bed.host("client");
        format!(
            "[[workload]]\nname = \"client\"\ncgroup = \"{}\"\nnetns = \"{}\"\ntls_dir = \"{}\"\n",
            host.cgroup().display(),
            host.netns().display(),
            self.bed.directory().join("mesh/client").display()
        )
    }

    /// The valid file with the line of this key replaced, or added.
    fn with(&self, line: &str) -> String {
        let key = line.split(' ').next().unwrap_or_default();
        let mut replaced = false;
        let mut text = String::new();
        for valid in self.valid().lines() {
            let is_it = valid.starts_with(&format!("{key} "));
            replaced |= is_it;
            text += if is_it { line } else { valid };
            text.push('\n');
        }
        if replaced {
            text
        } else {
            format!("{text}{line}\n")
        }
    }

    fn write(&self, text: &str) -> Result<PathBuf> {
        let path = self.bed.directory().join("agent.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    fn run(&self, config: &Path) -> Result<Finished> {
        let agent = command(None)?.arg("--config").arg(config);
        agent.args(["--instance", &self.instance()]).run(LIMIT)
    }

    fn instance(&self) -> String {
        format!("{}-bad", self.bed.id())
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf/sealwire").join(self.instance())
    }

    /// The agent ends with code 2, says each of `words`, and has left nothing.
    fn assert_refused(&self, text: &str, words: &[&str]) -> Result<()> {
        let finished = self
            .run(&self.write(text)?)
            .with_context(|| text.to_owned())?;
        assert_refusal(&finished, 2, words);
        self.assert_nothing_is_left()
    }

    /// No pin, and nothing steered: the host talks as it did.
    fn assert_nothing_is_left(&self) -> Result<()> {
        assert!(!self.pins().exists(), "{} is left", self.pins().display());
        let address = self.bed.host("server").at(PORT);
        let _serving = Server::start(self.bed.host("server"), &[address], "--echo")?;
        Client::run(self.bed.host("client"), address, "--send 5000")?.assert_exact(5000, 5000);
        Ok(())
    }
}

#[track_caller]
fn assert_refusal(finished: &Finished, code: i32, words: &[&str]) {
    let said = finished.stderr_text();
    assert_eq!(finished.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "it does not say {word:?}: {said}");
    }
}

const LIMIT: Duration = Duration::from_secs(5);
const NOBODY: u32 = 65534;
