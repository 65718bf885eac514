//! One battery for every implementation of the trait.

#[path = "battery/contract.rs"]
mod contract;
#[path = "battery/model.rs"]
mod model;
#[path = "battery/server.rs"]
mod server;

use std::sync::Arc;
use std::time::Duration;

use berth_store::{
    Change, Embedded, Etcd, Expect, Options, ReadError, Revision, Store, Watch, WatchEvent,
    WriteError,
};
use bytes::Bytes;
use contract::*;

/// How long a watcher may take to hear of something before the test gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// A store under test; whatever it stands on lives as long as this.
struct Subject {
    store: Arc<dyn Store>,
    _ground: Box<dyn std::any::Any + Send>,
}

async fn embedded() -> Option<Subject> {
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let store = Embedded::open(dir.path(), Options::default()).await.expect("it opens");
    Some(Subject { store: Arc::new(store), _ground: Box::new(dir) })
}

/// One server each: a property may count revisions.
async fn etcd() -> Option<Subject> {
    let server = tokio::task::block_in_place(|| server::Server::start(&[]))?;
    let target = server.url().parse().expect("it is a URL");
    let store = Etcd::open(&target, &Options::default()).await.expect("it opens");
    Some(Subject { store: Arc::new(store), _ground: Box::new(server) })
}

macro_rules! battery {
    ($($property:ident),+ $(,)?) => {
        battery!(embedded_store embedded $($property)+);
        battery!(etcd_store etcd $($property)+);
    };
    ($name:ident $open:ident $($property:ident)+) => {
        mod $name {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $property() {
                let Some(subject) = super::$open().await else { return };
                super::$property(subject.store.clone()).await;
            })+
        }
    };
}

battery! {
    first_write_follows_the_first_revision,
    put_keeps_created_and_moves_modified,
    expectations_guard_writes,
    of_many_racing_writers_one_wins,
    list_pages_in_order,
    list_at_an_older_revision,
    watch_replays_and_follows,
    watch_is_confined_to_its_prefix,
    watch_from_the_future_is_refused,
    compacted_history_is_refused,
    watchers_registered_under_load_miss_nothing,
    thousand_watchers_hear_of_each_write,
    random_operations_agree_with_the_model,
    what_is_there_cannot_be_created,
    a_get_says_how_far_it_has_seen,
    deletes_hold_to_their_condition,
    updates_that_try_again_lose_nothing,
    a_list_is_of_its_prefix_alone,
    a_list_sees_what_was_answered_before,
    pages_show_one_moment,
    a_page_whose_moment_is_forgotten_goes_on_from_now,
    a_watch_goes_on_where_a_list_ended,
    a_key_that_comes_again_is_new_to_a_watcher,
    a_watcher_that_reads_late_hears_all,
    one_watcher_that_leaves_takes_nobody_along,
}

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn put(store: &Arc<dyn Store>, at: &str, value: &str) -> Revision {
    store.put(key(at), key(value), Expect::Anything).await.expect("it is written").modified
}

async fn next_changes(watch: &mut Watch) -> Vec<Arc<Change>> {
    loop {
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event comes");
        match event.expect("the watcher is not dropped") {
            WatchEvent::Changes(changes) => return changes,
            WatchEvent::Progress(_) => {}
        }
    }
}

/// Reads changes until one has revision `last`.
async fn changes_until(watch: &mut Watch, last: Revision) -> Vec<Arc<Change>> {
    let mut seen: Vec<Arc<Change>> = Vec::new();
    while seen.last().is_none_or(|change| change.revision() < last) {
        seen.extend(next_changes(watch).await);
    }
    seen
}

fn revisions(changes: &[Arc<Change>]) -> Vec<u64> {
    changes.iter().map(|change| change.revision().0).collect()
}

async fn first_write_follows_the_first_revision(store: Arc<dyn Store>) {
    let start = store.revision().await.expect("it reads");
    assert!(start >= Revision::FIRST);
    assert_eq!(store.get(b"a").await.expect("it reads"), (None, start));
    assert_eq!(put(&store, "a", "1").await, start.next());
    assert_eq!(store.revision().await.expect("it reads"), start.next());
}

async fn put_keeps_created_and_moves_modified(store: Arc<dyn Store>) {
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    let (entry, _) = store.get(b"a").await.expect("it reads");
    let entry = entry.expect("it is there");
    assert_eq!((entry.created, entry.modified, &entry.value[..]), (first, second, &b"2"[..]));
    let (removed, at) = store.delete(b"a", Expect::Anything).await.expect("it is removed");
    assert_eq!((removed, at), (entry, second.next()));
    let again = put(&store, "a", "3").await;
    let (entry, _) = store.get(b"a").await.expect("it reads");
    assert_eq!(entry.expect("it is there").created, again);
}

async fn expectations_guard_writes(store: Arc<dyn Store>) {
    let modified = Expect::Modified;
    let nothing = store.put(key("a"), key("1"), modified(Revision(1))).await;
    assert!(matches!(nothing, Err(WriteError::Conflict { current: None })));
    let absent = store.delete(b"a", Expect::Anything).await;
    assert!(matches!(absent, Err(WriteError::NotFound)));
    let entry = store.put(key("a"), key("1"), Expect::Absent).await.expect("it is absent");
    for refused in [
        store.put(key("a"), key("2"), Expect::Absent).await.map(|_| ()),
        store.put(key("a"), key("2"), modified(entry.modified.next())).await.map(|_| ()),
        store.delete(b"a", modified(entry.modified.next())).await.map(|_| ()),
        store.delete(b"a", Expect::Absent).await.map(|_| ()),
    ] {
        match refused {
            Err(WriteError::Conflict { current }) => assert_eq!(current, Some(entry.clone())),
            other => unreachable!("expected a conflict, got {other:?}"),
        }
    }
    assert_eq!(store.revision().await.expect("it reads"), entry.modified, "a refusal is no write");
    store.delete(b"a", modified(entry.modified)).await.expect("it is as expected");
    let empty = store.put(Bytes::new(), key("1"), Expect::Anything).await;
    assert!(matches!(empty, Err(WriteError::Io(_))));
}

async fn of_many_racing_writers_one_wins(store: Arc<dyn Store>) {
    let entry = store.put(key("a"), key("0"), Expect::Absent).await.expect("it is absent");
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..64 {
        let store = store.clone();
        racers.spawn(async move {
            let expect = Expect::Modified(entry.modified);
            store.put(key("a"), key(&racer.to_string()), expect).await
        });
    }
    let outcomes = racers.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

async fn list_pages_in_order(store: Arc<dyn Store>) {
    for name in ["b/3", "b/1", "a/1", "b/2", "c", "b"] {
        put(&store, name, name).await;
    }
    let all = store.list(b"b/", None, 0, None).await.expect("it lists");
    let keys: Vec<_> = all.entries.iter().map(|entry| &entry.key[..]).collect();
    assert_eq!(keys, [b"b/1", b"b/2", b"b/3"]);
    assert_eq!(all.remaining, 0);
    let first = store.list(b"b/", None, 2, None).await.expect("it lists");
    assert_eq!((first.entries.len(), first.remaining), (2, 1));
    put(&store, "b/0", "new").await;
    let rest = store.list(b"b/", Some(b"b/2"), 2, Some(first.revision)).await.expect("it lists");
    assert_eq!((&rest.entries[0].key[..], rest.entries.len()), (&b"b/3"[..], 1));
    assert_eq!((rest.revision, rest.remaining), (first.revision, 0));
    let everything = store.list(b"", None, 0, None).await.expect("it lists");
    assert_eq!(everything.entries.len(), 7);
}

async fn list_at_an_older_revision(store: Arc<dyn Store>) {
    let first = put(&store, "a", "1").await;
    put(&store, "a", "2").await;
    store.delete(b"a", Expect::Anything).await.expect("it is removed");
    let then = store.list(b"a", None, 0, Some(first)).await.expect("it is kept");
    assert_eq!((&then.entries[0].value[..], then.revision), (&b"1"[..], first));
    let now = store.revision().await.expect("it reads");
    let future = store.list(b"", None, 0, Some(now.next())).await;
    assert!(matches!(future, Err(ReadError::Future { current }) if current == now));
}

async fn watch_replays_and_follows(store: Arc<dyn Store>) {
    let start = store.revision().await.expect("it reads");
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    let mut watch = store.watch(key("a"), start).await.expect("it watches");
    let mut later = store.watch(key("a"), second).await.expect("it watches");
    let third = store.delete(b"a", Expect::Anything).await.expect("it is removed").1;
    let seen = changes_until(&mut watch, third).await;
    assert_eq!(revisions(&seen), [first.0, second.0, third.0]);
    assert!(matches!(&*seen[0], Change::Put { previous: None, .. }));
    assert!(matches!(&*seen[1], Change::Put { previous: Some(p), .. } if p.modified == first));
    assert!(matches!(&*seen[2], Change::Delete { previous, .. } if previous.modified == second));
    assert_eq!(revisions(&changes_until(&mut later, third).await), [third.0]);
}

async fn watch_is_confined_to_its_prefix(store: Arc<dyn Store>) {
    let start = store.revision().await.expect("it reads");
    let mut watch = store.watch(key("pods/"), start).await.expect("it watches");
    let mut all = store.watch(Bytes::new(), start).await.expect("it watches");
    put(&store, "pods", "x").await;
    let wanted = put(&store, "pods/1", "x").await;
    put(&store, "podsecurity/1", "x").await;
    let last = put(&store, "pods/2", "x").await;
    assert_eq!(revisions(&changes_until(&mut watch, last).await), [wanted.0, last.0]);
    assert_eq!(changes_until(&mut all, last).await.len(), 4);
}

async fn watch_from_the_future_is_refused(store: Arc<dyn Store>) {
    let now = store.revision().await.expect("it reads");
    let refused = store.watch(key("a"), now.next()).await;
    assert!(matches!(refused, Err(ReadError::Future { current }) if current == now));
}

async fn compacted_history_is_refused(store: Arc<dyn Store>) {
    let first = put(&store, "a", "1").await;
    let second = put(&store, "a", "2").await;
    let third = put(&store, "a", "3").await;
    store.compact(second).await.expect("it has happened");
    let listed = store.list(b"", None, 0, Some(first)).await;
    assert!(matches!(listed, Err(ReadError::Compacted { floor }) if floor == second));
    let watched = store.watch(key(""), first).await;
    assert!(matches!(watched, Err(ReadError::Compacted { floor }) if floor == second));
    let kept = store.list(b"", None, 0, Some(second)).await.expect("the floor itself is kept");
    assert_eq!(&kept.entries[0].value[..], b"2");
    let mut watch = store.watch(key(""), second).await.expect("the floor itself is kept");
    assert_eq!(revisions(&changes_until(&mut watch, third).await), [third.0]);
    assert!(matches!(store.compact(third.next()).await, Err(ReadError::Future { .. })));
}

async fn watchers_registered_under_load_miss_nothing(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 60;
    let start = store.revision().await.expect("it reads");
    let last = Revision(start.0 + WRITERS * WRITES);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for write in 0..WRITES {
                put(&store, &format!("load/{writer}"), &write.to_string()).await;
            }
        });
    }
    let mut watchers = tokio::task::JoinSet::new();
    while writers.try_join_next().is_none() {
        let after = store.revision().await.expect("it reads");
        let mut watch = store.watch(key("load/"), after).await.expect("it watches");
        watchers.spawn(async move {
            if after < last {
                let seen = revisions(&changes_until(&mut watch, last).await);
                assert_eq!(seen, (after.0 + 1..=last.0).collect::<Vec<_>>());
            }
        });
        tokio::task::yield_now().await;
        if watchers.len() > 300 {
            break;
        }
    }
    writers.join_all().await;
    watchers.join_all().await;
}

async fn thousand_watchers_hear_of_each_write(store: Arc<dyn Store>) {
    let start = store.revision().await.expect("it reads");
    let last = Revision(start.0 + 200);
    let mut watchers = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let mut watch = store.watch(key("many/"), start).await.expect("it watches");
        watchers.spawn(async move { changes_until(&mut watch, last).await.len() });
    }
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..20 {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..10 {
                put(&store, &format!("many/{writer}"), "x").await;
            }
        });
    }
    writers.join_all().await;
    assert!(watchers.join_all().await.into_iter().all(|seen| seen == 200));
}

async fn random_operations_agree_with_the_model(store: Arc<dyn Store>) {
    model::check(store).await;
}
