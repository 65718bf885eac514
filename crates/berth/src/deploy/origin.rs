//! Where a directory's files come from, as far as git knows.

use std::path::Path;
use std::process::{Command, Stdio};

use berth_api::app::Source;

/// The commit that the directory is at; none where git does not know it, or is not there.
pub fn commit(directory: &Path) -> Option<String> {
    git(directory, &["describe", "--always", "--dirty", "--abbrev=12"])
}

/// Where the directory's files come from; `commit` is theirs.
pub fn of(directory: &Path, commit: Option<String>) -> Source {
    let whole = || directory.canonicalize().ok().map(|path| path.display().to_string());
    match git(directory, &["rev-parse", "--show-toplevel"]) {
        Some(_) => Source {
            repository: git(directory, &["config", "--get", "remote.origin.url"])
                .map(|address| without_password(&address)),
            commit,
            // Nothing is printed for the repository's own directory.
            directory: git(directory, &["rev-parse", "--show-prefix"])
                .map(|path| path.trim_end_matches('/').to_owned())
                .or_else(|| Some(".".to_owned())),
        },
        None => Source { repository: None, commit, directory: whole() },
    }
}

fn git(directory: &Path, words: &[&str]) -> Option<String> {
    let asked =
        Command::new("git").arg("-C").arg(directory).args(words).stderr(Stdio::null()).output();
    let said = asked.ok()?;
    let text = String::from_utf8(said.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| said.status.success() && !text.is_empty())
}

/// `https://NAME:TOKEN@HOST/…` without name and token, which would be shown to whoever sees the App.
fn without_password(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else { return address.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((who, _)) if scheme != "ssh" || who.contains(':') => {
            format!("{scheme}://{}", &rest[who.len() + 1..])
        }
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repositorys_address_is_told_without_its_password() {
        for (address, told) in [
            ("https://me:t0ken@git.test/a/b.git", "https://git.test/a/b.git"),
            ("https://t0ken@git.test/a@b", "https://git.test/a@b"),
            ("https://git.test/a@b", "https://git.test/a@b"),
            ("ssh://git@git.test/a", "ssh://git@git.test/a"),
            ("git@git.test:a/b.git", "git@git.test:a/b.git"),
        ] {
            assert_eq!(without_password(address), told);
        }
    }

    #[test]
    fn a_directory_of_a_repository_is_told_by_its_place_there() {
        let scratch = tempfile::tempdir().unwrap();
        let inner = scratch.path().join("service");
        std::fs::create_dir(&inner).unwrap();
        let outside = of(&inner, None);
        assert!(outside.directory.is_some_and(|path| path.ends_with("/service")));
        let made = |words: &[&str]| git(scratch.path(), words);
        if made(&["init"]).is_none() {
            eprintln!("skipped: there is no git");
            return;
        }
        made(&["remote", "add", "origin", "https://a:b@git.test/shop"]);
        let inside = of(&inner, commit(&inner));
        assert_eq!(inside.repository.as_deref(), Some("https://git.test/shop"));
        assert_eq!(inside.directory.as_deref(), Some("service"));
        assert_eq!(inside.commit, None, "nothing is committed");
        assert_eq!(of(scratch.path(), None).directory.as_deref(), Some("."));
    }
}
