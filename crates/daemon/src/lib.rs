//! What every Berth process has: a task group, readiness, telemetry, an orderly end.
//!
//! Knows nothing of Kubernetes. A part gets a [`Tasks`] and spawns into it; the process ends by
//! [`Tasks::stop`]: tell all, wait until a deadline, abort the rest.

mod backoff;
mod shares;
mod signals;
mod tasks;
mod telemetry;

pub use backoff::Backoff;
pub use shares::{Share, Shares};
pub use signals::wait_for_end;
pub use tasks::{Ready, Stopped, Tasks};
pub use telemetry::init as init_telemetry;
