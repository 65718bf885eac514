//! Random operations, compared with a map of every revision that ever was.

use std::collections::BTreeMap;
use std::sync::Arc;

use berth_store::{Entry, Expect, ReadError, Revision, Store, WriteError};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

#[derive(Clone, Debug)]
enum Step {
    Put { key: String, value: Vec<u8>, guess: Guess },
    Delete { key: String, guess: Guess },
    List { prefix: String, after: Option<String>, limit: usize, back: u64 },
    Replay { prefix: String, back: u64 },
    Compact { back: u64 },
}

/// What a write expects, in terms of what is there.
#[derive(Clone, Copy, Debug)]
enum Guess {
    Anything,
    Absent,
    Right,
    Wrong,
}

fn keys() -> impl Strategy<Value = String> {
    "[ab]/[a-c]{0,2}"
}

fn prefixes() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), Just("a/".to_owned()), Just("b/a".to_owned())]
}

fn guesses() -> impl Strategy<Value = Guess> {
    prop_oneof![
        4 => Just(Guess::Anything),
        2 => Just(Guess::Absent),
        2 => Just(Guess::Right),
        1 => Just(Guess::Wrong),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = prop::collection::vec(any::<u8>(), 0..40);
    let step = prop_oneof![
        8 => (keys(), value, guesses())
            .prop_map(|(key, value, guess)| Step::Put { key, value, guess }),
        4 => (keys(), guesses()).prop_map(|(key, guess)| Step::Delete { key, guess }),
        4 => (prefixes(), prop::option::of(keys()), 0usize..4, 0u64..30).prop_map(
            |(prefix, after, limit, back)| Step::List { prefix, after, limit, back }
        ),
        2 => (prefixes(), 0u64..30).prop_map(|(prefix, back)| Step::Replay { prefix, back }),
        1 => (20u64..60).prop_map(|back| Step::Compact { back }),
    ];
    prop::collection::vec(step, 400)
}

type Entries = BTreeMap<String, Entry>;

struct Model {
    /// What every revision looked like.
    revisions: BTreeMap<Revision, Entries>,
    /// Which key each revision wrote.
    written: BTreeMap<Revision, String>,
    floor: Revision,
}

impl Model {
    fn now(&self) -> Revision {
        *self.revisions.keys().next_back().expect("there is always one")
    }

    fn current(&self) -> &Entries {
        &self.revisions[&self.now()]
    }

    fn expect(&self, key: &str, guess: Guess) -> Expect {
        let modified = self.current().get(key).map(|entry| entry.modified);
        match guess {
            Guess::Anything => Expect::Anything,
            Guess::Absent => Expect::Absent,
            Guess::Right => modified.map_or(Expect::Absent, Expect::Modified),
            Guess::Wrong => Expect::Modified(modified.map_or(self.now(), |m| Revision(m.0 - 1))),
        }
    }

    fn holds(&self, key: &str, expect: Expect) -> bool {
        let modified = self.current().get(key).map(|entry| entry.modified);
        match expect {
            Expect::Anything => true,
            Expect::Absent => modified.is_none(),
            Expect::Modified(at) => modified == Some(at),
        }
    }

    fn record(&mut self, key: &str, entry: Option<Entry>) -> Revision {
        let revision = self.now().next();
        let mut entries = self.current().clone();
        match entry {
            Some(entry) => entries.insert(key.to_owned(), entry),
            None => entries.remove(key),
        };
        self.revisions.insert(revision, entries);
        self.written.insert(revision, key.to_owned());
        revision
    }
}

/// Runs a few hundred random steps on an empty store.
pub async fn check(store: Arc<dyn Store>) {
    let mut runner = TestRunner::default();
    for _ in 0..4 {
        let steps = steps().new_tree(&mut runner).expect("steps can be made").current();
        clear(&store).await;
        let now = store.revision().await.expect("it reads");
        store.compact(now).await.expect("it has happened");
        let mut model = Model {
            revisions: BTreeMap::from([(now, Entries::new())]),
            written: BTreeMap::new(),
            floor: now,
        };
        for (number, step) in steps.iter().enumerate() {
            let taken = take(&store, &mut model, step).await;
            assert_eq!(taken, Ok(()), "step {number} {step:?} after {:?}", &steps[..number]);
        }
    }
}

async fn clear(store: &Arc<dyn Store>) {
    for entry in store.list(b"", None, 0, None).await.expect("it lists").entries {
        store.delete(&entry.key, Expect::Anything).await.expect("it is removed");
    }
}

async fn take(store: &Arc<dyn Store>, model: &mut Model, step: &Step) -> Result<(), String> {
    match step {
        Step::Put { key, value, guess } => {
            let expect = model.expect(key, *guess);
            let holds = model.holds(key, expect);
            let (key_bytes, value) = (Bytes::from(key.clone()), Bytes::from(value.clone()));
            let previous = model.current().get(key).cloned();
            match store.put(key_bytes.clone(), value.clone(), expect).await {
                Ok(entry) if holds => {
                    let modified = model.now().next();
                    let created = previous.map_or(modified, |previous| previous.created);
                    let wanted = Entry { key: key_bytes, value, created, modified };
                    model.record(key, Some(wanted.clone()));
                    same(&entry, &wanted)
                }
                Err(WriteError::Conflict { current }) if !holds => same(&current, &previous),
                other => Err(format!("{other:?}")),
            }
        }
        Step::Delete { key, guess } => {
            let expect = model.expect(key, *guess);
            let holds = model.holds(key, expect);
            let previous = model.current().get(key).cloned();
            match (store.delete(key.as_bytes(), expect).await, previous) {
                (Ok(removed), Some(previous)) if holds => {
                    let revision = model.record(key, None);
                    same(&removed, &(previous, revision))
                }
                (Err(WriteError::Conflict { current }), previous @ Some(_)) if !holds => {
                    same(&current, &previous)
                }
                (Err(WriteError::NotFound), None) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
        Step::List { prefix, after, limit, back } => {
            let at = Revision(model.now().0.saturating_sub(*back).max(1));
            let after_bytes = after.as_ref().map(|after| after.as_bytes());
            let got = store.list(prefix.as_bytes(), after_bytes, *limit, Some(at)).await;
            if at < model.floor {
                return compacted(got.map(drop), model.floor);
            }
            let got = got.map_err(|error| error.to_string())?;
            let mut wanted: Vec<Entry> = model.revisions[&at]
                .iter()
                .filter(|(key, _)| key.starts_with(prefix))
                .filter(|(key, _)| after.as_ref().is_none_or(|after| *key > after))
                .map(|(_, entry)| entry.clone())
                .collect();
            let remaining = if *limit == 0 { 0 } else { wanted.len().saturating_sub(*limit) };
            wanted.truncate(wanted.len() - remaining);
            same(&(got.entries, got.revision, got.remaining), &(wanted, at, remaining as u64))
        }
        Step::Replay { prefix, back } => {
            let after = Revision(model.now().0.saturating_sub(*back).max(1));
            let watch = store.watch(Bytes::from(prefix.clone()), after).await;
            if after < model.floor {
                return compacted(watch.map(drop), model.floor);
            }
            let mut watch = watch.map_err(|error| error.to_string())?;
            let wanted: Vec<Revision> = model
                .written
                .range(after.next()..)
                .filter(|(_, key)| key.starts_with(prefix))
                .map(|(revision, _)| *revision)
                .collect();
            let Some(last) = wanted.last() else { return Ok(()) };
            let seen = super::changes_until(&mut watch, *last).await;
            same(&seen.iter().map(|change| change.revision()).collect::<Vec<_>>(), &wanted)
        }
        Step::Compact { back } => {
            let floor = Revision(model.now().0.saturating_sub(*back).max(1));
            model.floor = model.floor.max(floor);
            store.compact(floor).await.map_err(|error| error.to_string())
        }
    }
}

fn compacted(got: Result<(), ReadError>, floor: Revision) -> Result<(), String> {
    match got {
        Err(ReadError::Compacted { floor: told }) => same(&told, &floor),
        other => Err(format!("expected a compaction error, got {other:?}")),
    }
}

fn same<T: PartialEq + std::fmt::Debug>(got: &T, wanted: &T) -> Result<(), String> {
    if got == wanted { Ok(()) } else { Err(format!("got {got:?}, wanted {wanted:?}")) }
}
