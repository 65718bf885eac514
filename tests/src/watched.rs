//! How many pods an App ever has at the same time, by the order in which the API tells of them.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

use crate::place::Place;

/// A watch of an App's pods that are to stay; ended when dropped.
#[derive(Debug)]
pub struct Watched {
    kubectl: Child,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    pods: BTreeSet<String>,
    most: usize,
}

impl Watched {
    /// Begins.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub fn start(place: &impl Place, app: &str) -> Result<Self> {
        let selector = format!("app.kubernetes.io/instance={app}");
        let path = "jsonpath={.type} {.object.metadata.name} {.object.status.phase} \
                    {.object.metadata.deletionTimestamp}{\"\\n\"}";
        let words =
            ["get", "pods", "-l", &selector, "--watch", "--output-watch-events", "-o", path];
        let mut kubectl = place
            .kubectl_command()
            .args(words)
            .stdout(Stdio::piped())
            .spawn()
            .context("running kubectl")?;
        let told = BufReader::new(kubectl.stdout.take().context("its output")?);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = seen.clone();
        let reader = std::thread::spawn(move || {
            for line in told.lines().map_while(Result::ok) {
                shared.lock().expect("nobody panics with it").take(&line);
            }
        });
        Ok(Self { kubectl, seen, reader: Some(reader) })
    }

    /// The most pods that there were at a time until now.
    pub fn most(&self) -> usize {
        self.seen.lock().expect("nobody panics with it").most
    }
}

impl Seen {
    /// `ADDED web-1 Running [TIME]`: one with a time is on its way out, one that has ended is gone.
    fn take(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let [kind, name, phase, leaves @ ..] = words.as_slice() else { return };
        let leaves = leaves.iter().any(|word| !word.is_empty());
        if *kind == "DELETED" || leaves || ["Failed", "Succeeded"].contains(phase) {
            self.pods.remove(*name);
        } else {
            self.pods.insert((*name).to_owned());
        }
        self.most = self.most.max(self.pods.len());
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        drop(self.kubectl.kill());
        drop(self.kubectl.wait());
        drop(self.reader.take().map(JoinHandle::join));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_count_from_their_first_word_until_they_are_told_to_go() {
        let mut seen = Seen::default();
        let told = [
            ("ADDED a Running ", 1),
            ("ADDED b Pending ", 2),
            ("MODIFIED b Running ", 2),
            ("MODIFIED a Running 2026-01-01T00:00:00Z", 1),
            ("ADDED c Pending ", 2),
            ("DELETED a Running 2026-01-01T00:00:00Z", 2),
            ("MODIFIED c Failed ", 1),
            ("", 1),
        ];
        for (line, count) in told {
            seen.take(line);
            assert_eq!(seen.pods.len(), count, "{line}");
        }
        assert_eq!(seen.most, 2);
    }
}
