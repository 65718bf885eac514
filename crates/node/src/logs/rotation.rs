//! Keeps logs small: 10 MiB a file, five files an attempt, two attempts a container.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_daemon::Tasks;

use super::files;
use crate::cri::Cri;
use crate::pod::{ContainerRef, PodTable};

/// Kubernetes' own default.
const LIMIT_BYTES: u64 = 10 << 20;
/// The one in use and four older ones.
const FILES: usize = 5;
/// A container that writes 100 MB/s is 1 GB over at the worst.
const LOOK: Duration = Duration::from_secs(10);

/// Rotates the logs of every pod in `pods` until `tasks` stop.
pub fn start_rotating(cri: Cri, pods: PodTable, tasks: &Tasks) {
    tasks.spawn_until_stop("log rotation", async move {
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            for entry in pods.all() {
                for container in entry.containers.values() {
                    let Some(current) = &container.current else { continue };
                    if current.running
                        && let Err(error) = rotate(&cri, current).await
                    {
                        let log = current.log_path.display();
                        tracing::warn!(%log, %error, "cannot rotate");
                    }
                    let oldest = container.previous.as_ref().map_or(current.attempt, |p| p.attempt);
                    remove_before(&current.log_path, oldest);
                }
            }
        }
    });
}

async fn rotate(cri: &Cri, container: &ContainerRef) -> io::Result<()> {
    let path = &container.log_path;
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() >= LIMIT_BYTES => {}
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let aside = files::rotated_name(path, jiff::Timestamp::now());
    std::fs::rename(path, &aside)?;
    if let Err(error) = cri.reopen_container_log(&container.id).await {
        // The container goes on writing to the renamed file: give it its name back.
        if !path.exists() {
            std::fs::rename(&aside, path)?;
        }
        return Err(io::Error::other(error));
    }
    for old in surplus(files::rotated(path)) {
        std::fs::remove_file(old)?;
    }
    Ok(())
}

/// The oldest of the rotated files, so many that `FILES` remain with the one in use.
fn surplus(mut rotated: Vec<PathBuf>) -> Vec<PathBuf> {
    let kept = FILES - 1;
    rotated.truncate(rotated.len().saturating_sub(kept));
    rotated
}

/// Removes the logs of attempts before `oldest`.
fn remove_before(log: &Path, oldest: u32) {
    let entries = log.parent().and_then(|dir| std::fs::read_dir(dir).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let name = entry.file_name();
        if files::attempt(&name.to_string_lossy()).is_some_and(|attempt| attempt < oldest) {
            // It is tried again at the next look.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_rotated_files_stay() {
        let names = |count: usize| (0..count).map(|n| PathBuf::from(n.to_string())).collect();
        assert!(surplus(names(4)).is_empty());
        assert_eq!(surplus(names(6)), [PathBuf::from("0"), PathBuf::from("1")]);
    }

    #[test]
    fn attempts_that_nobody_can_ask_for_are_removed() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["0.log", "1.log", "1.log.000001", "2.log", "10.log", "other"] {
            std::fs::write(dir.path().join(name), "").expect("a file");
        }
        remove_before(&dir.path().join("10.log"), 2);
        let mut left: Vec<String> = std::fs::read_dir(dir.path())
            .expect("a directory")
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        left.sort();
        assert_eq!(left, ["10.log", "2.log", "other"]);
    }
}
