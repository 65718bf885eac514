//! What the running binary needs to start in a container of its own.
//!
//! The program, its loader, and the libraries that it has loaded are read from `/proc/self`; the
//! libraries keep their directories, which `LD_LIBRARY_PATH` names because the image has no
//! loader cache, and get a link where the name they are asked for is not their file's.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::elf::Elf;
use crate::layer::{Layer, LayerError};
use crate::reference::Hasher;

/// Where the program is in the image.
pub(super) const PROGRAM: &str = "/berth";
const EXE: &str = "/proc/self/exe";
/// Enough of a program to hold its headers.
const START_BYTES: u64 = 64 << 10;

/// The running program and what it stands on.
#[derive(Debug)]
pub(super) struct Own {
    /// Where PT_INTERP says the loader is.
    interpreter: Option<PathBuf>,
    libraries: BTreeSet<PathBuf>,
}

impl Own {
    pub(super) fn find() -> io::Result<Own> {
        let maps = std::fs::read_to_string("/proc/self/maps")?;
        let interpreter = interpreter()?;
        let loader = interpreter.as_deref().and_then(|path| path.canonicalize().ok());
        let exe = std::fs::read_link(EXE)?;
        let mut libraries = executable_files(&maps);
        libraries.retain(|path| *path != exe && Some(path) != loader.as_ref());
        if let Some(gone) = libraries.iter().find(|path| !path.exists()) {
            let message = format!("{} was replaced since the start", gone.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Ok(Own { interpreter, libraries })
    }

    /// Changes whenever one of the files does, and costs no reading of them.
    pub(super) fn fingerprint(&self) -> io::Result<String> {
        use std::os::unix::fs::MetadataExt;
        let mut hasher = Hasher::new();
        let files = [PathBuf::from(EXE)];
        for path in files.iter().chain(&self.interpreter).chain(&self.libraries) {
            let metadata = std::fs::metadata(path)?;
            let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime_nsec());
            let identity = (metadata.dev(), metadata.ino(), metadata.len());
            hasher.update(format!("{path:?} {identity:?} {times:?}\n").as_bytes());
        }
        Ok(hasher.finish().short().to_owned())
    }

    pub(super) fn layer(&self) -> Result<Layer, LayerError> {
        let mut layer = Layer::default();
        layer.add(Path::new(EXE), PROGRAM, Some(0o755))?;
        if let Some(interpreter) = &self.interpreter {
            layer.add(interpreter, &interpreter.to_string_lossy(), Some(0o755))?;
        }
        for library in &self.libraries {
            layer.add(library, &library.to_string_lossy(), Some(0o755))?;
            let content = std::fs::read(library)
                .map_err(|source| LayerError::Unreadable { path: library.clone(), source })?;
            let asked = Elf::parse(&content).and_then(|elf| elf.soname().map(str::to_owned));
            if let (Some(asked), Some(file)) = (asked, library.file_name())
                && Path::new(&asked).file_name() != Some(file)
            {
                let link = library.with_file_name(&asked);
                if !layer.contains(&link.to_string_lossy()) {
                    layer.add_symlink(&link.to_string_lossy(), Path::new(file))?;
                }
            }
        }
        layer.add_bytes("root:x:0:0:root:/:/berth\n", "/etc/passwd", 0o644)?;
        layer.add_bytes("root:x:0:\n", "/etc/group", 0o644)?;
        layer.add_bytes("hosts: files dns\n", "/etc/nsswitch.conf", 0o644)?;
        layer.add_empty("/tmp", 0o1777)?;
        Ok(layer)
    }

    /// `LD_LIBRARY_PATH` for the image.
    pub(super) fn library_path(&self) -> Option<String> {
        let folders: BTreeSet<_> = self.libraries.iter().filter_map(|path| path.parent()).collect();
        let folders: Vec<_> = folders.iter().map(|path| path.to_string_lossy()).collect();
        (!folders.is_empty()).then(|| folders.join(":"))
    }
}

/// What PT_INTERP of the running program says.
fn interpreter() -> io::Result<Option<PathBuf>> {
    let find =
        |content: &[u8]| Elf::parse(content).and_then(|elf| elf.interpreter().map(PathBuf::from));
    // Linkers put it on the first page; a program changed afterwards may have it anywhere.
    let mut start = Vec::new();
    File::open(EXE)?.take(START_BYTES).read_to_end(&mut start)?;
    match find(&start) {
        Some(interpreter) => Ok(Some(interpreter)),
        None => Ok(find(&std::fs::read(EXE)?)),
    }
}

/// The files of which code is mapped.
///
/// # Source
/// proc_pid_maps(5): address, permissions, offset, device, inode, path.
fn executable_files(maps: &str) -> BTreeSet<PathBuf> {
    let file = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let permissions = fields.nth(1)?;
        let path = fields.nth(3)?.trim_start();
        (permissions.contains('x') && path.starts_with('/')).then(|| PathBuf::from(path))
    };
    maps.lines().filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_code_count() {
        let maps = "\
5581 r--p 00000000 fd:01 42                         /usr/bin/berth
5582 r-xp 00001000 fd:01 42                         /usr/bin/berth
7f01 rw-p 00000000 00:00 0 
7f02 r--p 00000000 fd:01 43                         /usr/lib/locale/locale-archive
7f03 r-xp 00000000 fd:01 44                         /usr/lib/a b/libc.so.6
7fff r-xp 00000000 00:00 0                          [vdso]
";
        let found = executable_files(maps);
        let expected = ["/usr/bin/berth", "/usr/lib/a b/libc.so.6"].map(PathBuf::from);
        assert_eq!(found, BTreeSet::from(expected));
    }
}
