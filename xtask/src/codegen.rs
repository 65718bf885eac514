//! Writes the schema crate's tables of facts from what a real API server publishes.
//!
//! The input is a folder with `definitions.json`, `discovery-*.json`, `tables/` and
//! `bootstrap-*.json`; the output are text files, a line a fact, so that a change of version reads
//! as a diff. Refuses a schema whose shape it does not know rather than leaving it out.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

mod bootstrap;
mod resources;
mod types;

/// Reads the published documents in `data` and writes the facts into `out`.
///
/// # Errors
/// When a document is missing, is not JSON, or holds a schema of an unknown shape.
pub fn run(data: &Path, out: &Path) -> Result<()> {
    fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let definitions = read(&data.join("definitions.json"))?;
    let types = types::Types::new(&definitions)?;
    write(&out.join("types.txt"), &types.facts()?)?;
    let tables = tables(&data.join("tables"))?;
    let documents =
        [read(&data.join("discovery-api.json"))?, read(&data.join("discovery-apis.json"))?];
    write(&out.join("resources.txt"), &resources::facts(&documents, &tables, &types)?)?;
    write(&out.join("bootstrap.txt"), &bootstrap::facts(data)?)
}

fn tables(folder: &Path) -> Result<BTreeMap<String, Value>> {
    let mut tables = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        let name = path.file_stem().context("a table's file has a name")?;
        tables.insert(name.to_string_lossy().into_owned(), read(&path)?);
    }
    Ok(tables)
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parsing {}", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The text below `key`, or nothing.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The texts of the list below `key`, joined by `by`.
fn texts(value: &Value, key: &str, by: &str) -> String {
    let list = value[key].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(by)
}
