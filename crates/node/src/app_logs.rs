//! Log directories of Apps: files that containers write, collected under the App's name without a
//! sidecar.
//!
//! ```text
//!  DIR/node/app-logs/NS_APP/log, log.TIME        what was collected, one record a line (CRI format),
//!                                                its text `POD PATH TEXT`
//!  DIR/node/app-logs/NS_APP/dirs/UID/about.json  whose directories these are, and the bounds
//!  DIR/node/app-logs/NS_APP/dirs/UID/at.json     how far each file was read
//!  DIR/node/app-logs/NS_APP/dirs/UID/v/VOLUME/   the directory itself, mounted in the container
//! ```
//!
//! A pod names its log volumes in the annotation `berth.dev/logs`; what an App's image names in
//! `KUBERNETES_FILELOGS` is mounted when the container is made. The directory outlives container
//! and pod: it goes when its files are older than the App keeps them, or the quota needs the room.
//!
//! Guarantees: each whole line once, after a crash of ours perhaps twice (those of the last look).
//! Nothing outside the directory is opened, whatever links stand in it. Refused: what is no regular
//! file, what is packed (`.gz` …). A container that writes faster than is read, or more than the
//! quota between two looks, loses the oldest lines, and the log says how many bytes.
//!
//! Source: the place of sidecars and DaemonSets that tail files, as Kubernetes' logging
//! architecture describes them.

mod collect;
mod limits;
mod place;
mod positions;
mod store;
#[cfg(test)]
mod tests;
mod walk;

use std::time::Duration;

use berth_daemon::Tasks;

use crate::Config;

pub(crate) use collect::{Collector, Directories};
pub(crate) use place::{
    About, app_dir, collected, image_mounts, is_collected, log_path, root, volume,
};
pub(crate) use walk::Volume;

/// Between two looks at the directories.
const LOOK: Duration = Duration::from_millis(500);
/// The same while something begins or ends.
const SOON: Duration = Duration::from_millis(50);
/// The same while there is more than one look reads.
const BUSY: Duration = Duration::from_millis(20);

/// Collects from the directories that this node made, until `tasks` stop.
pub fn start_collecting(config: &Config, tasks: &Tasks) {
    run(Collector::own(config), tasks);
}

/// Collects until `tasks` stop.
pub(crate) fn run(mut collector: Collector, tasks: &Tasks) {
    tasks.spawn_until_stop("logs of apps", async move {
        loop {
            let looked = tokio::task::spawn_blocking(move || {
                let busy = collector.look();
                (collector, busy)
            });
            let Ok((back, busy)) = looked.await else { return };
            collector = back;
            let pause = match (busy, collector.is_hurried()) {
                (true, _) => BUSY,
                (false, true) => SOON,
                (false, false) => LOOK,
            };
            tokio::time::sleep(pause).await;
        }
    });
}
