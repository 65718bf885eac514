//! Keys and certificates as files of mode 0600.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::PkiError;

/// Makes the directory, mode 0700, unless it is there.
pub(super) fn private_dir(dir: &Path) -> Result<(), PkiError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| PkiError::File { path: dir.to_owned(), source })
}

/// The file's text; none when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path: path.to_owned(), source }),
    }
}

/// Replaces the file in one step, so that a crash leaves the old one or the new one.
pub(super) fn write(path: &Path, text: &str) -> Result<(), PkiError> {
    let failed = |source| PkiError::File { path: path.to_owned(), source };
    let beside = path.with_extension("new");
    let mut file = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&beside, path).map_err(failed)
}

/// The P-256 key of a file, made when absent; PEM.
pub(super) fn key(path: &Path) -> Result<String, PkiError> {
    if let Some(pem) = read(path)? {
        rcgen::KeyPair::from_pem(&pem).map_err(|_| PkiError::Unreadable {
            path: path.to_owned(),
            wanted: "P-256 key in PEM form",
        })?;
        return Ok(pem);
    }
    let pem = rcgen::KeyPair::generate()
        .map_err(|source| PkiError::Issue { name: "a key".to_owned(), source })?
        .serialize_pem();
    write(path, &pem)?;
    Ok(pem)
}
