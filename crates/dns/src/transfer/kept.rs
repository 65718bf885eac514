//! A secondary zone on disk: after a restart it is answered before, and without, its primary.
//!
//! The file's time of change says when a primary last confirmed the zone, so a zone that has expired
//! (RFC 1035 §3.3.13) does not come back to life by a restart.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::times_of;
use crate::zone::file::{self, Static};

/// The zone at `apex` that the file holds, and for how long nobody has confirmed it; `None` for one
/// that has expired. Blocks.
///
/// # Errors
/// When it cannot be read, or is not that zone.
pub(super) fn load(path: &Path, apex: &[u8]) -> io::Result<Option<(Static, Duration)>> {
    let confirmed = std::fs::metadata(path)?.modified()?;
    let age = SystemTime::now().duration_since(confirmed).unwrap_or_default();
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let (zone, _) = file::read(&std::fs::read(path)?, None).map_err(|problems| {
        wrong(problems.first().map_or_else(String::new, ToString::to_string))
    })?;
    if zone.apex != apex {
        return Err(wrong("it holds another zone".to_owned()));
    }
    let [_, _, expire] = times_of(&zone.soa);
    Ok((age <= Duration::from_secs(expire.into())).then_some((zone, age)))
}

/// Replaces the file as a whole. Blocks.
///
/// # Errors
/// Whatever writing or renaming says.
pub(super) fn store(path: &Path, zone: &Static) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(zone.text().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

/// Says that a primary has confirmed it now. Blocks.
///
/// # Errors
/// When the file is not there, or not to be written.
pub(super) fn confirm(path: &Path) -> io::Result<()> {
    std::fs::File::options().append(true).open(path)?.set_modified(SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_until_it_expires() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("kept.zone");
        let text = "$ORIGIN example.org.\n$TTL 300\n@ SOA ns admin 1 60 60 3600 60\n@ NS ns\n\
            ns A 192.0.2.53\n*.w TXT \"a b\" \"\\\"c\\\"\"\nm MX 5 ns\nsub NS ns.sub\nns.sub AAAA ::1\n";
        let (zone, _) = file::read(text.as_bytes(), None).expect("a zone");
        store(&path, &zone).expect("written");
        let apex = zone.apex.clone();
        let (again, age) = load(&path, &apex).expect("it is read").expect("it has not expired");
        assert_eq!(again.text(), zone.text());
        assert!(again.delegates && age < Duration::from_secs(60));
        assert!(load(&path, b"\x03org\0").is_err(), "another zone");
        let long_ago = SystemTime::now() - Duration::from_secs(3700);
        let file = std::fs::File::options().append(true).open(&path).expect("it is there");
        file.set_modified(long_ago).expect("it is set");
        assert!(load(&path, &apex).expect("it is read").is_none());
        confirm(&path).expect("it is there");
        assert!(load(&path, &apex).expect("it is read").is_some());
    }
}
