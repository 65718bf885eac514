//! Why a container ended, in its own words: the termination message.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::api::core::v1::Container;

use super::runtime::ContainerRecord;

/// Kubernetes' bounds: 4096 bytes of message, of the log 2048 bytes or 80 lines.
const MESSAGE_MOST: u64 = 4096;
const LOG_MOST: u64 = 2048;
const LOG_LINES: usize = 80;

/// The message that an ended container left, or the end of its log where it wants that.
pub(crate) fn message(record: &ContainerRecord, container: &Container) -> Option<String> {
    let left = record.termination_file.as_ref().map(|file| head(Path::new(file)));
    let left = left.filter(|text| !text.is_empty());
    let from_log = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
        && record.exit_code != 0;
    let own = match left {
        None if from_log => Some(log_tail(Path::new(&record.log_path))),
        left => left,
    };
    own.or_else(|| Some(record.message.clone())).filter(|text| !text.is_empty())
}

fn head(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MESSAGE_MOST).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last lines of a log in CRI's format, without time and stream.
fn log_tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        // Each line carries some 45 bytes of its own; twice the wanted text is enough to look at.
        file.seek(SeekFrom::Start(length.saturating_sub(4 * LOG_MOST)))?;
        file.read_to_end(&mut bytes)
    });
    if read.is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let content = |line: &str| line.splitn(4, ' ').nth(3).map(str::to_owned);
    let lines: Vec<String> = text.lines().filter_map(content).collect();
    let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    let most = usize::try_from(LOG_MOST).unwrap_or(usize::MAX);
    let mut start = tail.len().saturating_sub(most);
    while !tail.is_char_boundary(start) {
        start += 1;
    }
    let mut tail = tail[start..].to_owned();
    if !tail.is_empty() {
        tail.push('\n');
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_stands_in_for_a_message_after_a_failure() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("0.log");
        let lines = "2026-01-01T00:00:00.0Z stdout F one\n2026-01-01T00:00:00.1Z stderr F two\n";
        std::fs::write(&log, lines).expect("written");
        let record = ContainerRecord {
            exit_code: 1,
            log_path: log.display().to_string(),
            ..ContainerRecord::default()
        };
        let policy = |name: &str| Container {
            termination_message_policy: Some(name.to_owned()),
            ..Container::default()
        };
        let told = message(&record, &policy("FallbackToLogsOnError"));
        assert_eq!(told.as_deref(), Some("one\ntwo\n"));
        assert_eq!(message(&record, &policy("File")), None);
    }
}
