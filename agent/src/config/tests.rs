use super::*;
use crate::policy::{EgressMode, IngressMode};

/// A table of files that are wrong, and what the operator reads. `WEB` and `DB` stand for the first
/// lines of a valid workload, which take four lines each.
const BAD: &[(&str, &str)] = &[];

const WEB: &str = "[[workload]]\nname = \"web\"\ncgroup = \"/sys/fs/cgroup/web\"\nnetns = \"/run/netns/web\"";
const DB: &str = "[[workload]]\nname = \"db\"\ncgroup = \"/sys/fs/cgroup/db\"\nnetns = \"/run/netns/db\"";

fn file(text: &str) -> Result<ConfigFile, ConfigError> {
    let text = text.replace("WEB", WEB).replace("DB", DB);
    ConfigFile::parse(Path::new("agent.toml"), &text)
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    effective(&Flags::default(), &Environment::default(), Some(file(text)?))
}

#[test]
fn dump() {
    for t in [
        "",
        "admin_prt = 1",
        "admin_port = 0\nWEB",
        "admin_port = -1\nWEB",
        "admin_port = 65536\nWEB",
        "admin_port = \"x\"\nWEB",
        "admin_port = 9464.0\nWEB",
        "log_format = \"xml\"\nWEB",
        "log_level = 3\nWEB",
        "log_level = \"loud\"\nWEB",
        "name = ",
        "WEB\nprt = 3",
        "[workload]\nname = \"web\"",
        "WEB\nname = \"web\"",
        "[[workload]]\ncgroup = \"/c\"",
        "[[workload]]\nname = \"web\"",
        "[[workload]]\nname = \"Web\"\ncgroup = \"/c\"",
        "[[workload]]\nname = \"any\"\ncgroup = \"/c\"",
        "[[workload]]\nname = \"web\"\ncgroup = \"c/../d\"",
        "[[workload]]\nname = \"web\"\ncgroup = \"/c/../d\"",
        "WEB\ntls_dir = \"\"",
        "WEB\nDB\nWEB",
        "WEB\n[[workload]]\nname = \"db\"\ncgroup = \"/sys/fs/cgroup/web/child\"",
        "WEB\n[[workload]]\nname = \"db\"\ncgroup = \"/sys/fs/cgroup\"",
        "[[workload]]\nname = \"a\"\ncgroup = \"/a\"\n[[workload]]\nname = \"b\"\ncgroup = \"/b\"",
        "WEB\ningress_default = \"deny\"",
        "WEB\negress_default = \"tls\"",
        "WEB\n[[workload.ingress]]\nport = 0",
        "WEB\n[[workload.ingress]]\nmode = \"tls\"",
        "WEB\n[[workload.ingress]]\nport = 80\n[[workload.ingress]]\nport = 80\nmode = \"tls\"",
        "WEB\n[[workload.ingress]]\nport = 80\nmode = \"mtsl\"",
        "WEB\n[[workload.ingress]]\nport = 80\nmode = \"tls\"\npeers = [\"client\"]",
        "WEB\n[[workload.egress]]\nport = 80",
        "WEB\n[[workload.egress]]\ncidr = \"10.0.0.1/8\"",
        "WEB\n[[workload.egress]]\ncidr = \"10.0.0.0/33\"",
        "WEB\n[[workload.egress]]\ncidr = \"example.com\"",
        "WEB\n[[workload.egress]]\ncidr = \"::/0\"\nport = \"90-80\"",
        "WEB\n[[workload.egress]]\ncidr = \"::/0\"\nport = [80]",
        "WEB\n[[workload.egress]]\ncidr = \"::/0\"\nport = \"80-70000\"",
        "WEB\n[[workload.egress]]\ncidr = \"10.0.0.0/8\"\n[[workload.egress]]\ncidr = \"10.0.0.0/8\"\nmode = \"deny\"",
        "WEB\n[[workload.egress]]\ncidr = \"10.0.0.0/8\"\nport = \"80-90\"\n[[workload.egress]]\ncidr = \"10.0.0.0/8\"\nport = \"85-95\"",
        "WEB\n[[workload.egress]]\ncidr = \"10.0.0.0/8\"\nmode = \"deny\"\npeers = [\"db\"]",
        "WEB\n[[workload.egress]]\ncidr = \"10.0.0.0/8\"\npeers = []",
        "WEB\negress_peers = []",
        "WEB\negress_peers = [\"any\", \"db\"]",
        "WEB\negress_peers = [\"db\", \"db\"]",
        "WEB\negress_peers = [\"spiffe://mesh.local\"]",
        "WEB\negress_peers = [\"http://mesh.local/ns/a/sa/b\"]",
        "WEB\negress_peers = [\"Db\"]",
        "WEB\negress_peers = \"db\"",
        "WEB\ningress_default = \"tls\"\ningress_peers = [\"db\"]",
        "admin_port = 0\nWEB\ntls_dir = \"x\"\n[[workload.ingress]]\nport = -1\nmode = \"x\"\n[[workload.egress]]\ncidr = \"z\"",
    ] {
        match parse(t) { Ok(_) => println!("{t:?} => OK"), Err(e) => println!("{t:?} =>\n{e}\n") }
    }
}
