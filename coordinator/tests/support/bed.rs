//! One deployment: its machine, its store, and the Coordinators that come and go.

use std::path::PathBuf;
use std::sync::Arc;

use attestation::SimulatedTee;
use coordinator::core::{Settings, StartError};
use coordinator::store::Store;
use serde_json::Value;
use tempfile::TempDir;

use super::manifest::ManifestBuilder;
use super::platform::Platform;
use super::running::{Running, Start};
use super::store::TestStore;
use super::until;

pub(crate) struct Bed {
    pub(crate) platform: Platform,
    pub(crate) store: Arc<TestStore>,
    pub(crate) settings: Settings,
    pub(crate) dir: TempDir,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self {
            platform: Platform::new(),
            store: Arc::default(),
            settings: Settings {
                simulated: SimulatedTee::Allowed,
                ..Settings::default()
            },
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A manifest of this deployment, to be changed at will.
    pub(crate) fn manifest(&self) -> ManifestBuilder {
        ManifestBuilder::new(&self.platform)
    }

    /// A Coordinator that has just started.
    pub(crate) async fn start(&self) -> Running {
        self.try_start().await.unwrap()
    }

    pub(crate) async fn try_start(&self) -> Result<Running, StartError> {
        Running::start(self.how_to_start(self.store.clone(), vec![])).await
    }

    /// One beside others.
    pub(crate) async fn start_beside(&self, others: &[&Running]) -> Running {
        let peers = others.iter().map(|it| it.mesh_api.clone()).collect();
        Running::start(self.how_to_start(self.store.clone(), peers))
            .await
            .unwrap()
    }

    pub(crate) fn how_to_start(&self, store: Arc<dyn Store>, peers: Vec<String>) -> Start {
        Start {
            platform: self.platform.clone(),
            store,
            settings: self.settings.clone(),
            audit_log: Some(self.audit_log()),
            peers,
        }
    }

    /// A Coordinator with its first manifest.
    pub(crate) async fn ready(&self, manifest: &ManifestBuilder) -> Running {
        let running = self.start().await;
        running.set_first(manifest).await.unwrap();
        running
    }

    /// What the Coordinators have written down.
    pub(crate) fn audit(&self) -> Vec<Value> {
        std::fs::read_to_string(self.audit_log())
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The reason that is written down under an id, once it is.
    pub(crate) async fn reason(&self, id: &str) -> String {
        assert_eq!(id.len(), 16, "{id:?} is no id");
        until(&format!("the reason of {id}"), async || {
            let lines = self.audit();
            let line = lines.iter().find(|it| it["id"] == id)?;
            Some(line["reason"].as_str()?.to_owned())
        })
        .await
    }

    fn audit_log(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }
}
