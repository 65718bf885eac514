//! Kernel parameters that pods need, and how they are put back.
//!
//! What we change is noted in `node/sysctls.json` before it is changed. Instances know each other
//! through `/run/berth/instances/NAME`, which ends with the boot as kernel parameters do: whoever
//! leaves while others stay hands them the earlier values instead of restoring them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::Config;

/// Forwarding between pods and the world; bridged frames through nftables, so that a pod's answer
/// comes back from the service address it asked; listeners handed over without lost connections.
const WANTED: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/bridge/bridge-nf-call-iptables", "1"),
    ("net/ipv4/tcp_migrate_req", "1"),
];

const PROC: &str = "/proc/sys";
const INSTANCES: &str = "/run/berth/instances";

/// A kernel parameter, or our note of it, that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}")]
pub struct SysctlError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// Parameter → value before us.
type Previous = BTreeMap<String, String>;

fn note_path(data_dir: &Path) -> PathBuf {
    data_dir.join("node/sysctls.json")
}

fn read_note(data_dir: &Path) -> Previous {
    std::fs::read(note_path(data_dir))
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default()
}

fn write_note(data_dir: &Path, previous: &Previous) -> Result<(), SysctlError> {
    let text = serde_json::to_string_pretty(previous).expect("a map of strings is JSON");
    write(&note_path(data_dir), &text)
}

fn write(path: &Path, text: &str) -> Result<(), SysctlError> {
    let error = |source| SysctlError { path: path.to_owned(), source };
    if !path.starts_with(PROC)
        && let Some(dir) = path.parent()
    {
        std::fs::create_dir_all(dir).map_err(error)?;
    }
    std::fs::write(path, text).map_err(error)
}

/// Sets what pods need. A parameter that this kernel does not have is left out.
pub(super) async fn set(config: &Config) -> Result<(), SysctlError> {
    let announced = Path::new(INSTANCES).join(&config.instance);
    write(&announced, &config.data_dir.to_string_lossy())?;
    let mut previous = read_note(&config.data_dir);
    for (name, wanted) in WANTED {
        let path = Path::new(PROC).join(name);
        let Ok(now) = std::fs::read_to_string(&path) else { continue };
        if now.trim() == wanted {
            continue;
        }
        previous.entry(name.to_owned()).or_insert_with(|| now.trim().to_owned());
        write_note(&config.data_dir, &previous)?;
        write(&path, wanted)?;
    }
    // Node ports on 127.0.0.1 are routed to the bridge; the parameter goes with the bridge.
    let localnet = format!("{PROC}/net/ipv4/conf/{}/route_localnet", config.instance);
    write(Path::new(&localnet), "1")
}

/// Puts back what `instance` changed, unless another instance of this machine relies on it.
///
/// # Errors
/// When a value cannot be written.
pub fn restore(data_dir: &Path, instance: &str) -> Result<(), SysctlError> {
    let previous = read_note(data_dir);
    // A directory that is gone already has nothing left to announce.
    let _ = std::fs::remove_file(Path::new(INSTANCES).join(instance));
    match others(Path::new(INSTANCES)).first() {
        Some(heir) => {
            let mut theirs = read_note(heir);
            for (name, value) in &previous {
                theirs.entry(name.clone()).or_insert_with(|| value.clone());
            }
            write_note(heir, &theirs)?;
        }
        None => {
            for (name, value) in &previous {
                let path = Path::new(PROC).join(name);
                let ours = WANTED.iter().find(|(wanted, _)| wanted == name);
                let now = std::fs::read_to_string(&path).unwrap_or_default();
                // Somebody else's later value stays.
                if ours.is_some_and(|(_, wanted)| now.trim() == *wanted) {
                    write(&path, value)?;
                }
            }
        }
    }
    // Nothing is left to put back; without a note there was nothing.
    let _ = std::fs::remove_file(note_path(data_dir));
    Ok(())
}

/// Data directories of the instances that still have their bridge.
fn others(announced: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(announced) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| Path::new("/sys/class/net").join(entry.file_name()).exists())
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .map(PathBuf::from)
        .collect()
}
