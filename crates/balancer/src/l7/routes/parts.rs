//! What one object puts into a table, and what it looked at for that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::DoorName;
use super::actions::Route;
use super::build::Age;
use super::cell::Cell;
use super::conditions::RouteReport;
use super::matching::Rule;
use crate::kept::Key;

/// The kinds of objects that rules come from, in the order of those of one age and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Ingress,
    Http,
    Grpc,
}

/// An object that rules come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PartKey {
    pub(super) kind: Kind,
    pub(super) key: Key,
}

/// An object that was looked at, whether it was there or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Used {
    Service(Key),
    Secret(Key),
}

/// A rule, and who it is from.
#[derive(Clone, Debug)]
pub(super) struct Ruled {
    pub(super) from: Arc<(Age, PartKey)>,
    pub(super) rule: Rule,
}

/// A rule and where it belongs.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) door: DoorName,
    pub(super) host: String,
    pub(super) rule: Rule,
}

/// What an object puts into a table.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub(super) age: Age,
    pub(super) placed: Vec<Placed>,
    /// Hosts that certificates are asked for.
    pub(super) certified: Vec<String>,
    /// For requests that no rule fits.
    pub(super) default: Option<Arc<Route>>,
    /// The listeners that a route is attached to.
    pub(super) attached: Vec<usize>,
    pub(super) report: Option<RouteReport>,
    pub(super) used: BTreeSet<Used>,
    /// By the key of their recipe.
    pub(super) cells: BTreeMap<String, Arc<Cell>>,
}

/// Who looked at an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Users {
    pub(super) parts: BTreeSet<PartKey>,
    /// Of a Service: its cells, and how many parts have each.
    pub(super) cells: BTreeMap<String, (Arc<Cell>, usize)>,
}
