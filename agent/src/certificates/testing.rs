//! Certificates for tests, made by OpenSSL when they are needed.

use std::{collections::BTreeSet, fs, path::Path, process::Command, sync::Arc};

use attestation::identity::SpiffeId;
use tempfile::TempDir;
use userspace_tls::{Credentials, MeshTls};

use super::Issued;
use crate::policy::{Membership, PeerSet};

/// A mesh CA.
pub(crate) struct TestMesh(TempDir);

impl TestMesh {
    pub(crate) fn new() -> Self {
        let mesh = Self(tempfile::tempdir().unwrap());
        let extensions = "basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\n";
        mesh.openssl("ca", extensions, &[]);
        mesh
    }

    /// A certificate for [`id`] of this name, under this CA.
    pub(crate) fn issue(&self, name: &str) -> Arc<MeshTls> {
        let extensions = format!(
            "basicConstraints = critical,CA:FALSE\nextendedKeyUsage = serverAuth,clientAuth\n\
             subjectAltName = URI:{}\n",
            id(name)
        );
        self.openssl(name, &extensions, &["-CA", "ca.pem", "-CAkey", "ca.key"]);
        let read = |file: String| fs::read(self.0.path().join(file)).unwrap();
        let credentials = Credentials::from_pem(
            &read(format!("{name}.pem")),
            &read(format!("{name}.key")),
            &read("ca.pem".to_owned()),
        );
        Arc::new(MeshTls::new(credentials.unwrap()).unwrap())
    }

    fn openssl(&self, name: &str, extensions: &str, issuer: &[&str]) {
        let directory: &Path = self.0.path();
        let config = format!("[req]\ndistinguished_name = dn\n[dn]\n[extensions]\n{extensions}");
        fs::write(directory.join(format!("{name}.cnf")), config).unwrap();
        let output = Command::new("openssl")
            .current_dir(directory)
            .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
            .args(["-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-extensions", "extensions", "-subj", &format!("/CN={name}")])
            .args(["-config", &format!("{name}.cnf")])
            .args(["-keyout", &format!("{name}.key")])
            .args(["-out", &format!("{name}.pem")])
            .args(issuer)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

/// A certificate in a mesh of these members, of whom the workload may meet those allowed.
pub(crate) fn issued(tls: &Arc<MeshTls>, members: &[&str], allowed: &[&str]) -> Issued {
    let members: BTreeSet<_> = members.iter().map(|name| id(name)).collect();
    let allowed_peers: PeerSet = allowed.iter().map(|peer| peer.parse().unwrap()).collect();
    Issued {
        tls: Arc::clone(tls),
        membership: Membership {
            members: Some(Arc::new(members)),
            allowed_peers,
        },
    }
}

/// The identity of a workload of any [`TestMesh`].
pub(crate) fn id(name: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/default/sa/{name}")
        .parse()
        .unwrap()
}
