//! Addresses that stay: the next pod of an App comes into the address of the one before.
//!
//! ```text
//!  leaving pod ──▶ its line in host-local's book becomes ours ──▶ the plugin's DEL finds nothing
//!                                                                 of its own and frees nothing
//!  next pod of the App ──▶ waits for such an address ──▶ the book is opened at it ──▶ ADD takes it
//! ```
//!
//! Which pod keeps its address says its annotation `berth.dev/keep-address`; who may come into it is
//! any pod of the same App (of the same name, where instances have names). The book is
//! host-local's own: a file an address, and one with the address that was given out last. Nobody
//! else gives addresses out meanwhile, because sandboxes are made through [`Addresses::make`].
//!
//! An address that nobody came into within ten minutes is free again. Refused: to reach over nodes;
//! an address belongs to the node whose range it is of.

use std::collections::HashSet;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use berth_api::{labels, release};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, RwLock};

use crate::Config;
use crate::pod::PodTable;
use crate::tool;

/// What a file of an address that is kept begins with; containers' ids are hexadecimal.
const KEPT: &str = "berth-kept";
/// The file with the address that host-local gave out last.
const LAST: &str = "last_reserved_ip.0";
/// How long an address waits for somebody to come into it.
const HELD: Duration = Duration::from_secs(600);
/// The next pod is often here before the one that it follows has been told to leave: both are
/// written by others at once.
const ABOUT_TO_LEAVE: Duration = Duration::from_secs(2);
/// Pods that are leaving are looked at again after so long, should nothing have been told.
const LOOK: Duration = Duration::from_secs(1);

/// The node's book of addresses.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// Where host-local keeps it.
    book: PathBuf,
    bridge: String,
    /// Shared by all who take any address, alone for who takes a certain one.
    gate: RwLock<()>,
    changed: Notify,
    /// Somebody is about to come into these.
    claimed: Mutex<HashSet<Ipv4Addr>>,
}

/// One address that waits.
struct Kept {
    address: Ipv4Addr,
    /// `NS/APP`.
    app: String,
    pod: String,
}

/// Whose instance a pod is: `NS/APP`.
fn app_of(pod: &Pod) -> Option<String> {
    let meta = &pod.metadata;
    let all = meta.labels.as_ref()?;
    let is_app = all.get(labels::MANAGED_BY).is_some_and(|by| by == labels::BERTH);
    let app = all.get(labels::INSTANCE).filter(|_| is_app)?;
    Some(format!("{}/{app}", meta.namespace.as_deref().unwrap_or("default")))
}

fn release_of(pod: &Pod) -> Option<&String> {
    pod.metadata.labels.as_ref()?.get(release::LABEL)
}

fn keeps(pod: &Pod) -> bool {
    let notes = pod.metadata.annotations.as_ref();
    notes.is_some_and(|notes| notes.get(release::KEEP_ADDRESS).is_some_and(|value| value == "true"))
}

/// Whether only a pod of this very name is the next of its kind.
fn is_named(pod: &Pod) -> bool {
    let owners = pod.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|owner| owner.kind == "StatefulSet")
}

impl Addresses {
    pub fn new(config: &Config) -> Self {
        Self {
            book: config.cni_dir().join("ipam").join(&config.instance),
            bridge: config.instance.clone(),
            gate: RwLock::new(()),
            changed: Notify::new(),
            claimed: Mutex::default(),
        }
    }

    /// Keeps the address of a sandbox whose network is about to be taken away, if its pod says so.
    ///
    /// # Errors
    /// When the book cannot be written.
    pub fn keep(&self, pod: &Pod, sandbox: &str) -> io::Result<()> {
        let Some(app) = app_of(pod).filter(|_| keeps(pod)) else { return Ok(()) };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        for (address, text) in self.entries()? {
            if text.starts_with(sandbox) {
                self.write(address, &app, name)?;
                self.changed.notify_waiters();
            }
        }
        Ok(())
    }

    /// The address that a new pod comes into, once it is free; none where there is nobody to take
    /// over from. It has to be given to [`Addresses::make`].
    ///
    /// # Errors
    /// When the book cannot be read.
    pub async fn inherit(&self, pod: &Pod, table: &PodTable) -> io::Result<Option<Claim<'_>>> {
        let Some(app) = app_of(pod) else { return Ok(None) };
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            return Ok(None);
        }
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let begun = tokio::time::Instant::now();
        loop {
            // Before the look, so that nothing is missed between the two.
            let changed = self.changed.notified();
            // Looked at before the book: who has left meanwhile is in it.
            let all = table.all();
            let mut before = all.iter().filter(|entry| {
                let other = &entry.pod;
                other.metadata.uid != pod.metadata.uid
                    && entry.pod_ip.is_some()
                    && keeps(other)
                    && app_of(other).as_ref() == Some(&app)
                    && (!is_named(pod) || other.metadata.name.as_deref() == Some(name))
            });
            let waited = begun.elapsed();
            let somebody_leaves = before.any(|entry| {
                entry.pod.metadata.deletion_timestamp.is_some()
                    || (waited < ABOUT_TO_LEAVE && release_of(&entry.pod) != release_of(pod))
            });
            if let Some(claim) = self.claim(&app, name, is_named(pod))? {
                return Ok(Some(claim));
            }
            let own = pod.metadata.uid.as_deref().and_then(|uid| table.by_uid(uid));
            let leaves_too = own.is_some_and(|own| own.pod.metadata.deletion_timestamp.is_some());
            if leaves_too || !somebody_leaves || waited > HELD {
                return Ok(None);
            }
            // Told of or not: it is looked at again.
            let _ = tokio::time::timeout(LOOK, changed).await;
        }
    }

    /// Makes the sandbox of `pod` by `run`: in the address that was claimed, or in any.
    pub async fn make<T, E>(
        &self,
        claim: Option<Claim<'_>>,
        pod: &Pod,
        run: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(claim) = claim else {
            let _any = self.gate.read().await;
            return run.await;
        };
        let address = claim.address;
        let _alone = self.gate.write().await;
        let last = std::fs::read(self.book.join(LAST)).ok();
        let before = Ipv4Addr::from(u32::from(address).wrapping_sub(1));
        let opened = std::fs::write(self.book.join(LAST), before.to_string())
            .and_then(|()| std::fs::remove_file(self.book.join(address.to_string())));
        if let Err(error) = opened {
            tracing::warn!(%address, %error, "cannot give an address that was kept");
        }
        let made = run.await;
        if made.is_err() {
            // Tried again, and still into this one.
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            if let Some(app) = app_of(pod)
                && !self.book.join(address.to_string()).exists()
            {
                let _ = self.write(address, &app, name);
            }
        }
        if let Some(last) = last {
            let _ = std::fs::write(self.book.join(LAST), last);
        }
        drop(claim);
        // Who spoke with the one before knows another card under this address.
        let flush = ["neigh", "flush", "to", &address.to_string(), "dev", &self.bridge];
        if let Err(error) = tool::run("ip", &flush).await {
            tracing::debug!(%address, %error, "cannot flush what is known of an address");
        }
        made
    }

    fn claim(&self, app: &str, name: &str, named: bool) -> io::Result<Option<Claim<'_>>> {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept = self.kept(&claimed)?;
        kept.retain(|one| one.app == app && (!named || one.pod == name));
        let own = kept.iter().find(|one| one.pod == name).or(kept.first());
        let address = own.map(|one| one.address);
        claimed.extend(address);
        Ok(address.map(|address| Claim { all: &self.claimed, address }))
    }

    /// The addresses that wait for somebody; those that waited too long are free after it.
    fn kept(&self, claimed: &HashSet<Ipv4Addr>) -> io::Result<Vec<Kept>> {
        let mut found = Vec::new();
        for (address, text) in self.entries()? {
            let mut lines = text.lines();
            if lines.next() != Some(KEPT) || claimed.contains(&address) {
                continue;
            }
            let path = self.book.join(address.to_string());
            let age = std::fs::metadata(&path)?.modified()?.elapsed().unwrap_or_default();
            if age > HELD {
                std::fs::remove_file(&path)?;
                continue;
            }
            let mut line = || lines.next().unwrap_or_default().to_owned();
            found.push(Kept { address, app: line(), pod: line() });
        }
        found.sort_by_key(|one| one.address);
        Ok(found)
    }

    fn write(&self, address: Ipv4Addr, app: &str, pod: &str) -> io::Result<()> {
        std::fs::write(self.book.join(address.to_string()), format!("{KEPT}\n{app}\n{pod}\n"))
    }

    /// All that are given out, and to whom.
    fn entries(&self) -> io::Result<Vec<(Ipv4Addr, String)>> {
        let listed = match std::fs::read_dir(&self.book) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            listed => listed?,
        };
        let mut found = Vec::new();
        for entry in listed {
            let entry = entry?;
            let Ok(address) = entry.file_name().to_string_lossy().parse() else { continue };
            // Given back between the listing and now.
            let Ok(text) = std::fs::read_to_string(entry.path()) else { continue };
            found.push((address, text));
        }
        Ok(found)
    }
}

/// An address that somebody is about to come into; nobody's any more when it is dropped.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    all: &'a Mutex<HashSet<Ipv4Addr>>,
    address: Ipv4Addr,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(app: &str, name: &str, kind: &str) -> Pod {
        serde_json::from_value(json!({ "metadata": {
            "name": name, "namespace": "shop", "uid": name,
            "annotations": { "berth.dev/keep-address": "true" },
            "labels": { "app.kubernetes.io/managed-by": "berth",
                        "app.kubernetes.io/instance": app },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "u" }],
        }}))
        .expect("a pod")
    }

    struct Ground {
        addresses: Addresses,
        _dir: tempfile::TempDir,
    }

    impl Ground {
        fn new(given: &[(&str, &str)]) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let addresses = Addresses::new(&crate::sample::config(dir.path()));
            std::fs::create_dir_all(&addresses.book).expect("a book");
            std::fs::write(addresses.book.join(LAST), "10.42.0.9").expect("written");
            std::fs::write(addresses.book.join("lock"), "").expect("written");
            for (address, sandbox) in given {
                let text = format!("{sandbox}\r\neth0");
                std::fs::write(addresses.book.join(address), text).expect("written");
            }
            Self { addresses, _dir: dir }
        }

        /// Where the pod would come, without coming there.
        async fn next(&self, pod: &Pod) -> Option<String> {
            let claim = self.addresses.inherit(pod, &PodTable::default()).await;
            claim.expect("an answer").map(|claim| claim.address.to_string())
        }

        fn text(&self, name: &str) -> String {
            std::fs::read_to_string(self.addresses.book.join(name)).unwrap_or_default()
        }
    }

    #[tokio::test]
    async fn the_next_pod_of_an_app_comes_into_the_address_of_the_one_before() {
        let ground = Ground::new(&[("10.42.0.5", "aa"), ("10.42.0.6", "bb")]);
        let book = &ground.addresses;
        book.keep(&pod("web", "web-1", "ReplicaSet"), "aa").expect("kept");
        assert!(ground.text("10.42.0.5").starts_with("berth-kept\nshop/web\nweb-1"));
        assert_eq!(ground.text("10.42.0.6"), "bb\r\neth0", "another's stays another's");
        assert_eq!(ground.next(&pod("mail", "mail-1", "ReplicaSet")).await, None);
        let next = pod("web", "web-2", "ReplicaSet");
        let claim = book.inherit(&next, &PodTable::default()).await.expect("an answer");
        assert_eq!(claim.as_ref().expect("an address").address.to_string(), "10.42.0.5");
        assert_eq!(ground.next(&pod("web", "web-3", "ReplicaSet")).await, None, "one into one");
        let made = book.make(claim, &next, async {
            assert_eq!(ground.text(LAST), "10.42.0.4", "the plugin goes on from there");
            assert!(!book.book.join("10.42.0.5").exists());
            Err::<(), ()>(())
        });
        assert!(made.await.is_err());
        assert_eq!(ground.text(LAST), "10.42.0.9");
        let again = ground.next(&next).await;
        assert_eq!(again.as_deref(), Some("10.42.0.5"), "what failed is tried in the same");
    }

    #[tokio::test]
    async fn named_instances_come_into_their_own() {
        let ground = Ground::new(&[("10.42.0.5", "aa"), ("10.42.0.6", "bb")]);
        ground.addresses.keep(&pod("db", "db-0", "StatefulSet"), "bb").expect("kept");
        assert_eq!(ground.next(&pod("db", "db-1", "StatefulSet")).await, None);
        let own = ground.next(&pod("db", "db-0", "StatefulSet")).await;
        assert_eq!(own.as_deref(), Some("10.42.0.6"));
    }

    #[tokio::test]
    async fn what_says_nothing_is_not_kept_and_nothing_is_kept_for_ever() {
        let ground = Ground::new(&[("10.42.0.5", "aa")]);
        let book = &ground.addresses;
        let mut silent = pod("web", "web-1", "ReplicaSet");
        silent.metadata.annotations = None;
        book.keep(&silent, "aa").expect("an answer");
        assert_eq!(ground.text("10.42.0.5"), "aa\r\neth0");
        book.keep(&pod("web", "web-1", "ReplicaSet"), "aa").expect("kept");
        let path = book.book.join("10.42.0.5");
        let then = std::time::SystemTime::now() - Duration::from_secs(700);
        let file = std::fs::File::options().write(true).open(&path).expect("a file");
        file.set_modified(then).expect("aged");
        assert_eq!(ground.next(&pod("web", "web-2", "ReplicaSet")).await, None);
        assert!(!path.exists(), "it is free again");
    }
}
