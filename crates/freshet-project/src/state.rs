//! What a project was at its last run, and how two projects differ.

use std::collections::BTreeMap;

use freshet_core::{ModelId, SourceId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::{NodeKind, Project, SourceTable};

/// Checksums of all nodes and sources: kept after each run, for `state:` selectors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectState {
    /// Version of this shape.
    #[serde(default)]
    pub version: u32,
    /// Nodes by name.
    pub nodes: BTreeMap<ModelId, NodeState>,
    /// Checksums of source tables by id.
    #[serde(default)]
    pub sources: BTreeMap<SourceId, String>,
}

/// A node as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Model or seed.
    pub kind: NodeKind,
    /// Hash of everything that decides its result.
    pub checksum: String,
}

/// How two projects differ, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProjectDiff {
    /// Nodes that only the newer one has.
    pub added: Vec<ModelId>,
    /// Nodes that only the older one has.
    pub removed: Vec<ModelId>,
    /// Nodes that both have, with another checksum.
    pub modified: Vec<ModelId>,
    /// Sources that are new or declared otherwise than before.
    pub sources: Vec<SourceId>,
}

/// The version that is written.
const VERSION: u32 = 1;

impl ProjectState {
    /// How `newer` differs from `self`.
    pub fn diff(&self, newer: &ProjectState) -> ProjectDiff {
        let mut diff = ProjectDiff::default();
        for (id, node) in &newer.nodes {
            match self.nodes.get(id) {
                None => diff.added.push(id.clone()),
                Some(before) if before != node => diff.modified.push(id.clone()),
                Some(_) => {}
            }
        }
        diff.removed =
            self.nodes.keys().filter(|id| !newer.nodes.contains_key(*id)).cloned().collect();
        diff.sources = newer
            .sources
            .iter()
            .filter(|(id, checksum)| self.sources.get(*id) != Some(*checksum))
            .map(|(id, _)| id.clone())
            .collect();
        diff
    }
}

impl Project {
    /// What is kept of the project after a run.
    pub fn state(&self) -> ProjectState {
        ProjectState {
            version: VERSION,
            nodes: self
                .nodes
                .iter()
                .map(|(id, node)| {
                    (id.clone(), NodeState { kind: node.kind, checksum: node.checksum.clone() })
                })
                .collect(),
            sources: self
                .sources
                .iter()
                .map(|(id, source)| (id.clone(), source_checksum(source)))
                .collect(),
        }
    }
}

/// Hash of what decides a source's rows. Options may hold secrets: only their hash is kept.
fn source_checksum(source: &SourceTable) -> String {
    let mut hasher = Sha256::new();
    for part in [
        source.connector.clone().unwrap_or_default(),
        source.options.to_string(),
        source.connection.clone().unwrap_or_default(),
        serde_json::to_string(&source.contract).unwrap_or_default(),
        source.max_bad.to_string(),
        source.event_time.clone().unwrap_or_default(),
        serde_json::to_string(&source.watermark).unwrap_or_default(),
        source.primary_key.join(","),
    ] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
