//! Programs of this machine that look into other containers, with what they need to start.
//!
//! Which libraries a program loads, its own loader says (`--list`, as ldd asks it); they keep their
//! places, so that the loader finds them in the image as it does here.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::SystemError;
use crate::elf::Elf;
use crate::layer::{Layer, LayerError};

/// What such an image is for.
pub const NEEDED: [&str; 4] = ["strace", "lsof", "ss", "tcpdump"];
/// What people expect beside them and is small; what is not here is left out.
const WELCOME: &str = "
    sh bash busybox env id uname date sleep timeout echo tee xargs
    ls cat cp ln rm mkdir find stat readlink du df mount chroot nsenter
    grep sed awk cut sort uniq wc head tail less hexdump base64 dd
    ps pstree top kill ip ping nc traceroute";
/// One is enough to type into.
const SHELLS: [&str; 2] = ["bash", "sh"];
const PLACES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Where all of them are in the image; `/bin` leads there.
const FOLDER: &str = "/usr/bin";
/// How programs learn what the terminal can do, on Debian and elsewhere.
const TERMINALS: [&str; 6] = [
    "/lib/terminfo/x/xterm-256color",
    "/lib/terminfo/x/xterm",
    "/lib/terminfo/d/dumb",
    "/usr/share/terminfo/x/xterm-256color",
    "/usr/share/terminfo/x/xterm",
    "/usr/share/terminfo/d/dumb",
];

/// The programs, and what they stand on.
#[derive(Debug)]
pub(super) struct Tools {
    programs: Vec<(String, PathBuf)>,
    /// Loaders and libraries, under the names by which they are asked for.
    libraries: BTreeSet<PathBuf>,
}

impl Tools {
    /// [`NEEDED`], `more`, and what else is here. Runs each program's loader; blocks.
    ///
    /// # Errors
    /// When one of those that must be there is not, is no program, or its loader does not find what
    /// it needs.
    pub(super) fn find(more: &[String]) -> Result<Self, SystemError> {
        let needed = NEEDED.iter().copied().chain(more.iter().map(String::as_str));
        let needed: BTreeSet<&str> = needed.collect();
        let missing: Vec<&str> =
            needed.iter().copied().filter(|name| found(name).is_none()).collect();
        if !missing.is_empty() {
            return Err(SystemError::NotHere { programs: missing.join(", ") });
        }
        let mut tools = Self { programs: Vec::new(), libraries: BTreeSet::new() };
        for name in needed.iter().copied() {
            tools.take(name)?;
        }
        for name in WELCOME.split_whitespace().filter(|name| !needed.contains(name)) {
            // A script needs what nobody knows; nobody asked for it.
            match tools.take(name) {
                Ok(()) | Err(SystemError::NoProgram { .. } | SystemError::NotHere { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(tools)
    }

    /// The best shell there is; none where the image is to have none.
    pub(super) fn shell(&self) -> Option<String> {
        let has = |shell: &&&str| self.programs.iter().any(|(name, _)| name == **shell);
        SHELLS.iter().find(has).map(|shell| format!("{FOLDER}/{shell}"))
    }

    /// What is in it, by name.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.programs.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    pub(super) fn layer(&self) -> Result<Layer, LayerError> {
        let mut layer = Layer::default();
        for (name, path) in &self.programs {
            layer.add(path, &format!("{FOLDER}/{name}"), Some(0o755))?;
        }
        for library in &self.libraries {
            layer.add(library, &library.to_string_lossy(), Some(0o755))?;
        }
        for terminal in TERMINALS.iter().map(Path::new).filter(|path| path.is_file()) {
            layer.add(terminal, &terminal.to_string_lossy(), Some(0o644))?;
        }
        layer.add_symlink("/bin", Path::new("usr/bin"))?;
        // tcpdump lays root down for the user that it was built for.
        let users = "root:x:0:0:root:/root:/bin/sh\ntcpdump:x:100:100::/:/bin/sh\n\
                     nobody:x:65534:65534::/:/bin/sh\n";
        layer.add_bytes(users, "/etc/passwd", 0o644)?;
        layer.add_bytes("root:x:0:\ntcpdump:x:100:\nnogroup:x:65534:\n", "/etc/group", 0o644)?;
        layer.add_bytes("hosts: files dns\n", "/etc/nsswitch.conf", 0o644)?;
        layer.add_empty("/root", 0o700)?;
        layer.add_empty("/tmp", 0o1777)?;
        layer.share_content();
        Ok(layer)
    }

    /// `LD_LIBRARY_PATH` for the image: folders that a loader does not look into by itself.
    pub(super) fn library_path(&self) -> Option<String> {
        let own = |folder: &&Path| {
            let last = folder.file_name().unwrap_or_default().to_string_lossy();
            let base = if last.ends_with("-linux-gnu") { folder.parent() } else { Some(*folder) };
            let plain = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
            !base.is_some_and(|base| plain.iter().any(|one| Path::new(one) == base))
        };
        let folders = self.libraries.iter().filter_map(|path| path.parent()).filter(own);
        let folders: BTreeSet<_> = folders.map(Path::to_string_lossy).collect();
        let folders: Vec<_> = folders.iter().map(AsRef::as_ref).collect();
        (!folders.is_empty()).then(|| folders.join(":"))
    }

    fn take(&mut self, name: &str) -> Result<(), SystemError> {
        let not_here = || SystemError::NotHere { programs: name.to_owned() };
        let path = found(name).ok_or_else(not_here)?;
        let content = std::fs::read(&path).map_err(|error| unreadable(&path, error))?;
        let no_program = || SystemError::NoProgram { path: path.clone() };
        let elf = Elf::parse(&content).ok_or_else(no_program)?;
        if let Some(interpreter) = elf.interpreter() {
            self.libraries.insert(PathBuf::from(interpreter));
            self.libraries.extend(loaded(interpreter, &path)?);
        }
        let own = Path::new(name).file_name().map(|name| name.to_string_lossy().into_owned());
        self.programs.push((own.unwrap_or_else(|| name.to_owned()), path));
        Ok(())
    }
}

/// Where the program is: a name is looked up, a path is taken.
fn found(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    PLACES.iter().map(|place| Path::new(place).join(name)).find(|path| path.is_file())
}

/// The libraries that `interpreter` would load for `program`.
fn loaded(interpreter: &str, program: &Path) -> Result<Vec<PathBuf>, SystemError> {
    let asked = Command::new(interpreter).arg("--list").arg(program).env_clear().output();
    let asked = asked.map_err(|error| unreadable(Path::new(interpreter), error))?;
    let failed = |said: &str| SystemError::Libraries {
        path: program.to_owned(),
        said: said.trim().to_owned(),
    };
    if !asked.status.success() {
        return Err(failed(&String::from_utf8_lossy(&asked.stderr)));
    }
    listed(&String::from_utf8_lossy(&asked.stdout)).map_err(|line| failed(&line))
}

fn unreadable(path: &Path, source: io::Error) -> SystemError {
    LayerError::Unreadable { path: path.to_owned(), source }.into()
}

/// Of lines `NAME => PATH (ADDRESS)` the paths; the line of a library that is not found.
fn listed(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        let Some((_, place)) = line.split_once(" => ") else { continue };
        let path = place.rsplit_once(" (").map_or(place, |(path, _)| path);
        match path.starts_with('/') {
            true => paths.push(PathBuf::from(path)),
            false => return Err(line.to_owned()),
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaders_list_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f3f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f40)\n";
        assert_eq!(listed(text), Ok(vec![PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6")]));
        let missing = "libx.so.1 => not found\n";
        assert_eq!(listed(missing), Err(missing.trim().to_owned()));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Tools::find(&["no-such-program".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        let mut tools = Tools { programs: Vec::new(), libraries: BTreeSet::new() };
        let error = tools.take(&script.to_string_lossy()).unwrap_err();
        assert!(matches!(error, SystemError::NoProgram { .. }), "{error}");
    }

    #[test]
    fn folders_that_loaders_know_are_not_named() {
        let libraries = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld.so", "/opt/x/lib/libx.so"];
        let libraries = libraries.map(PathBuf::from).into_iter().collect();
        let tools = Tools { programs: Vec::new(), libraries };
        assert_eq!(tools.library_path().as_deref(), Some("/opt/x/lib"));
    }
}
