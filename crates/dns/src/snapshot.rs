//! What was known, on disk: so that a restart without an API server still answers.

use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::facts::Facts;

/// Raised when the form changes; another one is not read.
const VERSION: u32 = 1;
/// A file larger than this is none of ours.
const MOST_BYTES: u64 = 256 << 20;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    facts: Facts,
}

/// What the file holds; `None` where there is none or it cannot be used, which is logged.
pub(crate) async fn load(path: &Path) -> Option<Facts> {
    match read(path).await {
        Ok(facts) => {
            let (services, slices) = (facts.services.len(), facts.slices.len());
            tracing::info!(
                services,
                slices,
                "answering from the snapshot until the API server does"
            );
            Some(facts)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "snapshot not used");
            None
        }
    }
}

/// Replaces the file as a whole. Blocks.
///
/// # Errors
/// Whatever writing or renaming says.
pub(crate) fn store(path: &Path, facts: Facts) -> io::Result<()> {
    let bytes = serde_json::to_vec(&File { version: VERSION, facts })?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&bytes)?;
    // Else a name could lead to nothing after a loss of power.
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

async fn read(path: &Path) -> io::Result<Facts> {
    if tokio::fs::metadata(path).await?.len() > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
    }
    let file: File = serde_json::from_slice(&tokio::fs::read(path).await?)?;
    if file.version != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "of another version"));
    }
    Ok(file.facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::{Addressing, ServiceFacts};

    #[tokio::test]
    async fn what_is_stored_is_loaded_and_damage_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("zone.json");
        assert_eq!(load(&path).await, None);
        let mut facts = Facts::default();
        let service = ServiceFacts {
            namespace: "default".into(),
            name: "web".into(),
            kind: Addressing::Headless,
            ports: vec![],
            policy: None,
        };
        facts.services.insert("default/web".into(), service);
        store(&path, facts.clone()).expect("it is written");
        assert_eq!(load(&path).await, Some(facts));
        std::fs::write(&path, b"{\"version\":2").expect("it is written");
        assert_eq!(load(&path).await, None);
    }
}
