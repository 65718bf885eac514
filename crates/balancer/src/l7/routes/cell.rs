//! The endpoints behind a backend: the one thing of a table that changes in place.
//!
//! Endpoints come and go all the time, rules do not. A change of endpoints is put into the cells of
//! its Service and nothing else is made anew, however many routes there are. A table and the next
//! one share the cells that both need; in an older table endpoints are never older.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::NoEndpoints;
use crate::l7::World;
use crate::l7::clusters::Recipe;
use crate::l7::pick::{BackendSet, Policy};

type Found = Result<Arc<BackendSet>, NoEndpoints>;

/// A set of endpoints as it is now.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) recipe: Recipe,
    now: ArcSwap<Found>,
}

impl Cell {
    /// What `recipe` says of `world`; what is known of endpoints is taken over from `before`.
    pub(super) fn new(recipe: Recipe, world: &World, before: Option<&Self>) -> Self {
        let before = before.and_then(|cell| cell.get().ok());
        let now = made(&recipe, world, before.as_ref());
        Self { recipe, now: ArcSwap::from_pointee(now) }
    }

    /// The endpoints.
    pub(super) fn get(&self) -> Found {
        (**self.now.load()).clone()
    }

    /// Puts in what there is in `world`.
    pub(super) fn refresh(&self, world: &World) {
        let before = self.get();
        let now = made(&self.recipe, world, before.as_ref().ok());
        let is_same = match (&before, &now) {
            (Ok(before), Ok(now)) => Arc::ptr_eq(before, now),
            (Err(before), Err(now)) => before == now,
            _ => false,
        };
        if !is_same {
            self.now.store(Arc::new(now));
        }
    }
}

fn made(recipe: &Recipe, world: &World, before: Option<&Arc<BackendSet>>) -> Found {
    let policy: Arc<Policy> = recipe.policy.clone();
    Ok(BackendSet::following(before, recipe.members(world)?, policy))
}
