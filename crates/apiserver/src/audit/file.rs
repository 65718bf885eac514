//! A file of lines that is set aside when it is large, for its owner alone.

use std::fs::{File, OpenOptions};
use std::io::{Error, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Options;

/// `FILE`, and `FILE.1` (the youngest) up to `FILE.KEPT`.
pub(super) struct Rotated {
    options: Options,
    /// None after it could not be opened anew; tried again with the next line.
    file: Option<File>,
    bytes: u64,
}

impl Rotated {
    pub(super) fn open(options: Options) -> Result<Self, Error> {
        if let Some(dir) = options.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = append(&options.path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { options, file: Some(file), bytes })
    }

    /// Writes a line, whole or not at all as far as the disk lets it.
    pub(super) fn write(&mut self, line: &str) -> Result<(), Error> {
        let length = line.len() as u64 + 1;
        if self.bytes > 0 && self.bytes + length > self.options.max_bytes {
            self.rotate()?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(append(&self.options.path)?),
        };
        let mut whole = String::with_capacity(line.len() + 1);
        whole.push_str(line);
        whole.push('\n');
        if let Err(error) = file.write_all(whole.as_bytes()) {
            // Half a line must not spoil the next one.
            drop(file.set_len(self.bytes));
            return Err(error);
        }
        self.bytes += length;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), Error> {
        self.file = None;
        let at = |index: usize| numbered(&self.options.path, index);
        if self.options.kept == 0 {
            std::fs::remove_file(&self.options.path)?;
        }
        for index in (0..self.options.kept).rev() {
            let from = if index == 0 { self.options.path.clone() } else { at(index) };
            match std::fs::rename(from, at(index + 1)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        self.bytes = 0;
        self.file = Some(append(&self.options.path)?);
        Ok(())
    }
}

fn append(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn numbered(path: &Path, index: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{index}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_are_set_aside_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/audit.log");
        let options = Options { path: path.clone(), max_bytes: 10, kept: 2 };
        let mut file = Rotated::open(options.clone()).unwrap();
        for line in ["aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "gggg"] {
            file.write(line).unwrap();
        }
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&path), "gggg\n");
        assert_eq!(read(&numbered(&path, 1)), "eeee\nffff\n");
        assert_eq!(read(&numbered(&path, 2)), "cccc\ndddd\n");
        assert!(!numbered(&path, 3).exists());
        drop(file);
        Rotated::open(options).unwrap().write("hhhh").unwrap();
        assert_eq!(read(&path), "gggg\nhhhh\n", "a new start goes on");
    }
}
