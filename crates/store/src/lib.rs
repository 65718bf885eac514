//! A revisioned, watchable map from key to bytes. Knows no kinds.
//!
//! - [`contract`]: the [`Store`] trait and the words it speaks
//! - [`watch`]: what a watcher holds, and the fan-out to all of them
//! - [`embedded`]: the store of one machine, on fjall
//! - [`etcd`]: the store in an etcd
//! - [`backup`]: everything at one revision in one file
//!
//! The model is etcd's key space without leases and transactions: one revision counter for the
//! whole store, every write takes the next one, and history is kept down to a floor.

pub mod backup;
pub mod contract;
pub mod embedded;
pub mod etcd;
mod memory;
pub mod watch;

pub use contract::{
    Change, Entry, Expect, Index, OpenError, Page, ReadError, Revision, Store, WriteError,
};
pub use embedded::{Embedded, Options};
pub use etcd::Etcd;
pub use watch::{Watch, WatchEvent};
