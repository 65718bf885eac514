//! Logging: one line an event, to standard error or a file, filtered by `BERTH_LOG`.

use std::fs::File;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;

/// Sends events to `file`, or to standard error when there is none.
///
/// The filter is `BERTH_LOG` (tracing's directive syntax), `info` when unset. A second call in one
/// process changes nothing.
///
/// # Errors
/// When `file` cannot be opened for appending.
pub fn init(file: Option<&Path>) -> std::io::Result<()> {
    let filter = EnvFilter::try_from_env("BERTH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let events = tracing_subscriber::fmt().with_env_filter(filter).with_target(true);
    let installed = match file {
        Some(path) => {
            let file = File::options().create(true).append(true).open(path)?;
            events.with_ansi(false).with_writer(Arc::new(file)).try_init()
        }
        None => events
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .try_init(),
    };
    drop(installed); // an earlier subscriber stays
    Ok(())
}
