//! Three etcd members.

use coordinator::store::{EtcdOptions, EtcdStore};
use etcd_client::Client;

use super::etcd::Etcd;

/// Members that are killed when the test ends.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) members: Vec<Etcd>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts three, and waits until each of them answers.
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut members = ["one", "two", "three"].map(|name| Etcd::new(dir.path(), name));
        let peers = members.each_ref().map(Etcd::peer).join(",");
        for member in &mut members {
            member.set_arguments(vec![format!("--initial-cluster={peers}")]);
            member.run();
        }
        for member in &members {
            drop(member.store().await);
        }
        Self {
            members: members.into(),
            _dir: dir,
        }
    }

    /// Options that name all members, `first` before the others.
    pub(crate) fn options(&self, first: usize) -> EtcdOptions {
        let mut endpoints: Vec<_> = self.members.iter().map(Etcd::endpoint).collect();
        endpoints.rotate_left(first);
        EtcdOptions {
            endpoints,
            ..self.members[first].options()
        }
    }

    /// A store that asks `first` before the others.
    pub(crate) async fn store(&self, first: usize) -> EtcdStore {
        EtcdStore::connect(self.options(first)).await.unwrap()
    }

    /// Which member leads.
    pub(crate) async fn leader(&self) -> usize {
        for (index, member) in self.members.iter().enumerate() {
            let mut client = Client::connect([member.endpoint()], None).await.unwrap();
            let status = client.status().await.unwrap();
            if status.header().unwrap().member_id() == status.leader() {
                return index;
            }
        }
        panic!("no member leads");
    }
}
