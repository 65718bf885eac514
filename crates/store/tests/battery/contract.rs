//! What Kubernetes asks of the storage below its API server, as far as it is the store's part:
//! writes with and without conditions, lists in pages while objects come and go, watches from
//! every point of history.
//!
//! Selectors, bookmarks, initial events and the tokens of pages are the API server's part, and
//! are tested there. There are no leases: nothing that is stored expires by itself.

use super::*;

async fn keys_of(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    let page = store.list(prefix.as_bytes(), None, 0, None).await.expect("it lists");
    page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.key).into_owned()).collect()
}

/// What happened to which key, for a glance: `+` came, `~` changed, `-` went.
fn story(changes: &[Arc<Change>]) -> Vec<String> {
    let word = |change: &Arc<Change>| {
        let sign = match &**change {
            Change::Put { previous: None, .. } => '+',
            Change::Put { .. } => '~',
            Change::Delete { .. } => '-',
        };
        format!("{sign}{}", String::from_utf8_lossy(change.key()))
    };
    changes.iter().map(word).collect()
}

pub async fn what_is_there_cannot_be_created(store: Arc<dyn Store>) {
    let first = store.put(key("p/a"), key("1"), Expect::Absent).await.expect("it is absent");
    let again = store.put(key("p/a"), key("2"), Expect::Absent).await;
    assert!(matches!(again, Err(WriteError::Conflict { current: Some(it) }) if it == first));
    let (found, _) = store.get(b"p/a").await.expect("it reads");
    assert_eq!(found.expect("it is there"), first, "a refused write leaves no trace");
    store.delete(b"p/a", Expect::Anything).await.expect("it is removed");
    let anew = store.put(key("p/a"), key("3"), Expect::Absent).await.expect("it is absent");
    assert_eq!(anew.created, anew.modified);
    assert!(anew.created > first.created);
}

pub async fn a_get_says_how_far_it_has_seen(store: Arc<dyn Store>) {
    let at = put(&store, "p/a", "1").await;
    assert!(matches!(store.get(b"p/b").await, Ok((None, seen)) if seen == at));
    let last = put(&store, "q", "1").await;
    let (found, seen) = store.get(b"p/a").await.expect("it reads");
    assert_eq!((found.expect("it is there").modified, seen), (at, last));
    assert!(matches!(store.get(b"p/").await, Ok((None, _))), "a prefix is no key");
}

pub async fn deletes_hold_to_their_condition(store: Arc<dyn Store>) {
    let old = put(&store, "p/a", "1").await;
    let new = put(&store, "p/a", "2").await;
    // Who deletes what he has seen learns what is there now, and may try with that.
    let stale = store.delete(b"p/a", Expect::Modified(old)).await;
    let Err(WriteError::Conflict { current: Some(current) }) = stale else {
        unreachable!("expected a conflict, got {stale:?}");
    };
    assert_eq!((current.modified, &current.value[..]), (new, &b"2"[..]));
    let expect = Expect::Modified(current.modified);
    let (removed, at) = store.delete(b"p/a", expect).await.expect("it is as expected");
    assert_eq!((removed, at), (current, new.next()));
    let gone = store.delete(b"p/a", Expect::Anything).await;
    assert!(matches!(gone, Err(WriteError::NotFound)));
    // A new object under the name is not the one that was seen.
    let again = put(&store, "p/a", "3").await;
    assert!(store.delete(b"p/a", Expect::Modified(new)).await.is_err());
    assert!(matches!(store.get(b"p/a").await, Ok((Some(it), _)) if it.modified == again));
}

pub async fn updates_that_try_again_lose_nothing(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 25;
    put(&store, "p/count", "0").await;
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..EACH {
                let (found, _) = store.get(b"p/count").await.expect("it reads");
                let mut entry = found.expect("it is there");
                loop {
                    let text = std::str::from_utf8(&entry.value).expect("it is text");
                    let next = text.parse::<u64>().expect("it is a number") + 1;
                    let expect = Expect::Modified(entry.modified);
                    match store.put(entry.key.clone(), key(&next.to_string()), expect).await {
                        Ok(_) => break,
                        Err(WriteError::Conflict { current: Some(current) }) => entry = current,
                        Err(other) => unreachable!("{other}"),
                    }
                }
            }
        });
    }
    writers.join_all().await;
    let (found, _) = store.get(b"p/count").await.expect("it reads");
    assert_eq!(&found.expect("it is there").value[..], (WRITERS * EACH).to_string().as_bytes());
}

pub async fn a_list_is_of_its_prefix_alone(store: Arc<dyn Store>) {
    for name in ["p/one/b", "p/one-more/a", "p/one/a", "p/two/a", "p/on", "pp/one/a", "p/one"] {
        put(&store, name, "x").await;
    }
    assert_eq!(keys_of(&store, "p/one/").await, ["p/one/a", "p/one/b"]);
    assert_eq!(keys_of(&store, "p/one").await, ["p/one", "p/one-more/a", "p/one/a", "p/one/b"]);
    assert_eq!(keys_of(&store, "p/").await.len(), 6);
    assert!(keys_of(&store, "p/three/").await.is_empty());
    let none = store.list(b"p/three/", None, 5, None).await.expect("it lists");
    let now = store.revision().await.expect("it reads");
    assert_eq!((none.revision, none.remaining), (now, 0), "an empty list has a revision");
}

pub async fn a_list_sees_what_was_answered_before(store: Arc<dyn Store>) {
    for turn in 0..50 {
        let at = put(&store, &format!("p/{turn:03}"), "x").await;
        let page = store.list(b"p/", None, 0, None).await.expect("it lists");
        assert!(page.revision >= at);
        assert_eq!(page.entries.len(), turn + 1);
    }
}

pub async fn pages_show_one_moment(store: Arc<dyn Store>) {
    for name in ["a", "b", "c", "d", "e"] {
        put(&store, &format!("p/{name}"), "old").await;
    }
    let first = store.list(b"p/", None, 2, None).await.expect("it lists");
    assert_eq!((first.entries.len(), first.remaining), (2, 3));
    let at = Some(first.revision);
    // What the last page ended with goes, so does one to come; one changes, one comes between.
    store.delete(b"p/b", Expect::Anything).await.expect("it is removed");
    store.delete(b"p/d", Expect::Anything).await.expect("it is removed");
    put(&store, "p/c", "new").await;
    put(&store, "p/bb", "new").await;
    let second = store.list(b"p/", Some(b"p/b"), 2, at).await.expect("it lists");
    let shown: Vec<_> = second.entries.iter().map(|one| (&one.key[..], &one.value[..])).collect();
    assert_eq!(shown, [(&b"p/c"[..], &b"old"[..]), (b"p/d", b"old")]);
    assert_eq!((second.revision, second.remaining), (first.revision, 1));
    let last = store.list(b"p/", Some(b"p/d"), 2, at).await.expect("it lists");
    assert_eq!((last.entries.len(), last.remaining), (1, 0));
    let beyond = store.list(b"p/", Some(b"p/e"), 2, at).await.expect("it lists");
    assert_eq!((beyond.entries.len(), beyond.remaining), (0, 0));
    // Without a moment, the same place shows what is there now.
    let now = store.list(b"p/", Some(b"p/b"), 2, None).await.expect("it lists");
    let keys: Vec<_> = now.entries.iter().map(|one| &one.key[..]).collect();
    assert_eq!(keys, [b"p/bb".as_slice(), b"p/c"]);
    assert_eq!(now.remaining, 1);
}

pub async fn a_page_whose_moment_is_forgotten_goes_on_from_now(store: Arc<dyn Store>) {
    for name in ["a", "b", "c"] {
        put(&store, &format!("p/{name}"), "old").await;
    }
    let first = store.list(b"p/", None, 1, None).await.expect("it lists");
    let last = put(&store, "p/c", "new").await;
    store.compact(last).await.expect("it has happened");
    let gone = store.list(b"p/", Some(b"p/a"), 1, Some(first.revision)).await;
    assert!(matches!(gone, Err(ReadError::Compacted { floor }) if floor == last));
    let next = store.list(b"p/", Some(b"p/a"), 1, None).await.expect("it lists");
    assert_eq!((&next.entries[0].key[..], next.remaining), (&b"p/b"[..], 1));
    let at = Some(next.revision);
    let rest = store.list(b"p/", Some(b"p/b"), 1, at).await.expect("it lists");
    assert_eq!((&rest.entries[0].value[..], rest.remaining), (&b"new"[..], 0));
    // An older floor changes nothing.
    store.compact(first.revision).await.expect("it is below the floor");
    assert!(store.list(b"p/", None, 0, Some(last)).await.is_ok());
}

pub async fn a_watch_goes_on_where_a_list_ended(store: Arc<dyn Store>) {
    put(&store, "p/a", "1").await;
    let page = store.list(b"p/", None, 0, None).await.expect("it lists");
    put(&store, "p/b", "1").await;
    let mut watch = store.watch(key("p/"), page.revision).await.expect("it watches");
    put(&store, "p/a", "2").await;
    put(&store, "q", "1").await;
    let (_, last) = store.delete(b"p/b", Expect::Anything).await.expect("it is removed");
    let seen = changes_until(&mut watch, last).await;
    assert_eq!(story(&seen), ["+p/b", "~p/a", "-p/b"]);
    let Change::Delete { previous, revision } = &*seen[2] else { unreachable!("{seen:?}") };
    assert!(*revision > previous.modified, "a removal has a revision of its own");
    assert_eq!(&previous.value[..], b"1");
}

pub async fn a_key_that_comes_again_is_new_to_a_watcher(store: Arc<dyn Store>) {
    let start = store.revision().await.expect("it reads");
    let mut watch = store.watch(key("p/"), start).await.expect("it watches");
    put(&store, "p/a", "1").await;
    // The same value again is a write like any other.
    put(&store, "p/a", "1").await;
    store.delete(b"p/a", Expect::Anything).await.expect("it is removed");
    let last = put(&store, "p/a", "1").await;
    let seen = changes_until(&mut watch, last).await;
    assert_eq!(story(&seen), ["+p/a", "~p/a", "-p/a", "+p/a"]);
    let now = store.watch(key("p/"), last).await.expect("it watches");
    drop(now);
    let refused = store.put(key("p/a"), key("2"), Expect::Absent).await;
    assert!(refused.is_err());
    let later = put(&store, "p/b", "1").await;
    assert_eq!(story(&changes_until(&mut watch, later).await), ["+p/b"], "a refusal is no event");
}

pub async fn a_watcher_that_reads_late_hears_all(store: Arc<dyn Store>) {
    let start = store.revision().await.expect("it reads");
    let mut watch = store.watch(key("p/"), start).await.expect("it watches");
    let mut last = start;
    for turn in 0..300 {
        last = put(&store, &format!("p/{}", turn % 7), "x").await;
    }
    // History may be forgotten meanwhile: what a watcher is owed it has.
    store.compact(last).await.expect("it has happened");
    let seen = changes_until(&mut watch, last).await;
    assert_eq!(revisions(&seen), (start.0 + 1..=last.0).collect::<Vec<_>>());
    let refused = store.watch(key("p/"), start).await;
    assert!(matches!(refused, Err(ReadError::Compacted { .. })));
}

pub async fn one_watcher_that_leaves_takes_nobody_along(store: Arc<dyn Store>) {
    let start = store.revision().await.expect("it reads");
    let mut stays = store.watch(key("p/"), start).await.expect("it watches");
    let leaves = store.watch(key("p/"), start).await.expect("it watches");
    put(&store, "p/a", "1").await;
    drop(leaves);
    let last = put(&store, "p/b", "1").await;
    assert_eq!(story(&changes_until(&mut stays, last).await), ["+p/a", "+p/b"]);
}
