//! Turns the house's rules into a test: which crate may use which, how long a file may be, and that
//! docs/ARCHITECTURE.md names exactly the crates there are. The idea is rust-analyzer's.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Past this many lines a file holds more than one idea (docs/STYLE: 60–300 is home).
const MOST_LINES: usize = 600;
/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 6] =
    ["mod.rs", "common.rs", "utils.rs", "util.rs", "helpers.rs", "misc.rs"];

/// All that is against the rules below `root`, a line each; empty when tidy.
///
/// # Errors
/// When a file or manifest cannot be read.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut faults = Vec::new();
    let page = fs::read_to_string(root.join("docs/ARCHITECTURE.md"))
        .context("reading docs/ARCHITECTURE.md")?;
    let allowed = crates_table(&page);
    let found = manifests(root)?;
    faults.extend(arrows(&allowed, &found));
    for place in ["crates", "tests", "benches", "xtask"] {
        for file in rust_files(&root.join(place))? {
            let text = fs::read_to_string(&file)?;
            let shown = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            faults.extend(file_faults(&shown, &text));
        }
    }
    Ok(faults)
}

/// The rows of the page's table of crates: name → what it may use.
fn crates_table(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let rows = page.lines().skip_while(|line| !line.starts_with("| crate | may use |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .filter_map(|line| {
            let mut cells = line.split('|').map(str::trim).skip(1);
            let name = cells.next()?.to_owned();
            let uses = cells.next()?.split(", ").filter(|word| *word != "–").map(str::to_owned);
            Some((name, uses.collect()))
        })
        .collect()
}

/// Each crate's own dependencies among ours (those for tests excepted).
fn manifests(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(root.join("crates"))? {
        let folder = entry?.path();
        let manifest = folder.join("Cargo.toml");
        let text = fs::read_to_string(&manifest)
            .with_context(|| format!("reading {}", manifest.display()))?;
        let name = folder.file_name().context("a crate's folder has a name")?.to_string_lossy();
        let uses = text
            .lines()
            .skip_while(|line| *line != "[dependencies]")
            .skip(1)
            .take_while(|line| !line.starts_with('['))
            .filter_map(|line| line.strip_prefix("berth-"))
            .filter_map(|rest| rest.split(['.', ' ', '=']).next().map(str::to_owned));
        found.insert(name.into_owned(), uses.collect());
    }
    Ok(found)
}

fn arrows(
    allowed: &BTreeMap<String, BTreeSet<String>>,
    found: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let mut faults = Vec::new();
    for name in found.keys().filter(|name| !allowed.contains_key(*name)) {
        faults.push(format!("docs/ARCHITECTURE.md: its table of crates lacks `{name}`"));
    }
    for (name, may_use) in allowed {
        let Some(uses) = found.get(name) else {
            faults.push(format!("docs/ARCHITECTURE.md: names `{name}`, which does not exist"));
            continue;
        };
        if may_use.contains("all") {
            continue;
        }
        for arrow in uses.difference(may_use) {
            faults.push(format!("crates/{name}/Cargo.toml: `{name}` may not use `{arrow}`"));
        }
    }
    faults
}

fn rust_files(place: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(place)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn file_faults(shown: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        faults.push(format!("{shown}: {lines} lines, {MOST_LINES} is the most"));
    }
    if EMPTY_NAMES.iter().any(|name| shown.ends_with(&format!("/{name}"))) {
        faults.push(format!("{shown}: the name says nothing about what is inside"));
    }
    if !text.starts_with("//!") {
        faults.push(format!("{shown}: has no `//!` that says what it is"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A\n\n| crate | may use | what |\n| --- | --- | --- |\n\
                        | api | – | words |\n| top | api, mid | all of it |\n\nmore | text |\n";

    fn set(words: &[&str]) -> BTreeSet<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_checkout_is_tidy() {
        let faults = check(&crate::root()).unwrap();
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn the_table_of_crates_is_read_from_the_page() {
        let table = crates_table(PAGE);
        assert_eq!(table.get("api"), Some(&set(&[])));
        assert_eq!(table.get("top"), Some(&set(&["api", "mid"])));
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn an_arrow_up_and_a_crate_off_the_map_are_faults() {
        let allowed = crates_table(PAGE);
        let found = BTreeMap::from([
            ("api".to_owned(), set(&["top"])),
            ("top".to_owned(), set(&["api"])),
            ("stray".to_owned(), set(&[])),
        ]);
        let faults = arrows(&allowed, &found);
        assert_eq!(faults.len(), 2, "{faults:?}");
    }

    #[test]
    fn a_long_file_an_empty_name_and_a_missing_doc_are_faults() {
        let long = "//! x\n".repeat(MOST_LINES + 1);
        for (name, text, faults) in [
            ("a/b.rs", "//! x\n", 0),
            ("a/b.rs", long.as_str(), 1),
            ("a/mod.rs", "//! x\n", 1),
            ("a/b.rs", "fn f() {}\n", 1),
        ] {
            assert_eq!(file_faults(name, text).len(), faults, "{name}");
        }
    }
}
