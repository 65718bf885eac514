//! How far each file of a pod was read; kept on disk, so that a restart goes on where it was.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "at.json";

/// Where one file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct At {
    /// Everything before this byte was collected.
    pub read: u64,
    /// How long the file was when it was looked at last.
    pub size: u64,
}

/// The files of one pod by their key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Positions(pub BTreeMap<String, At>);

impl Positions {
    /// What was noted; nothing where there is none, or none that can be read.
    pub fn load(dir: &Path) -> Self {
        let text = std::fs::read(dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let beside = dir.join("at.new");
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::rename(beside, dir.join(FILE))
    }
}
