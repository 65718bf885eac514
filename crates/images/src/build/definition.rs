//! `berth.toml`: what a directory says about its image.
//!
//! ```toml
//! base = "default/base:1"           # an image in the registry; "scratch" when absent
//! build = ["cargo", "build"]        # run in the directory first
//! entrypoint = ["/bin/hello"]
//! args = ["--verbose"]
//! port = 8080
//! user = "1000"
//! workdir = "/srv"
//! health = "/healthz"               # the HTTP path that probes ask
//! logs = ["/var/log/hello"]         # directories that the program writes logs to
//!
//! [files]                           # from, in this directory or absolute = to, in the image
//! "target/hello" = "/bin/hello"
//! "static" = { to = "/srv", mode = "0644" }
//! "/bin/busybox" = ["/bin/busybox", "/bin/sh"]
//!
//! [env]
//! GREETING = "hello"
//! ```
//!
//! `files` may also be a list of `{ from, to, mode }`. An unknown key is an error, and every error
//! names the key, what it says and what it should say.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::Deserialize;
use toml::Value;

/// The name of the file.
pub const FILE: &str = "berth.toml";

/// Why a `berth.toml` is refused.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// It cannot be read as what it should be.
    #[error("{FILE}: {0}")]
    Syntax(#[from] toml::de::Error),
    /// A key says something wrong.
    #[error("{FILE}: `{key}` is {value}: {wanted}")]
    Wrong {
        /// Which key.
        key: String,
        /// What it says.
        value: String,
        /// What would be right.
        wanted: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    base: Option<String>,
    #[serde(default)]
    build: Vec<String>,
    files: Option<Value>,
    #[serde(default)]
    entrypoint: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    port: Option<Value>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    user: Option<String>,
    workdir: Option<String>,
    health: Option<String>,
    #[serde(default)]
    logs: Vec<String>,
}

/// One thing that goes into the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// In the directory, or an absolute path on this machine.
    pub from: String,
    /// An absolute path in the image.
    pub to: String,
    /// Permission bits for the files.
    pub mode: Option<u32>,
}

/// A checked `berth.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// An image in the registry to stand on.
    pub base: Option<String>,
    /// Run in the directory first, when not empty.
    pub build: Vec<String>,
    /// What goes into the image.
    pub files: Vec<Copied>,
    /// The program; empty when the base's is used.
    pub entrypoint: Vec<String>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where it listens.
    pub port: Option<u16>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// A name or number, with a group perhaps.
    pub user: Option<String>,
    /// Where it starts.
    pub workdir: Option<String>,
    /// The HTTP path that says whether it is well.
    pub health: Option<String>,
    /// Directories that it writes logs to.
    pub logs: Vec<String>,
}

impl Definition {
    /// Reads and checks `text`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str) -> Result<Definition, DefinitionError> {
        let raw: Raw = toml::from_str(text)?;
        let base = raw.base.filter(|base| base != "scratch");
        if let Some(base) = &base {
            check("base", base, !base.is_empty(), "an image in the registry, such as NAME:TAG")?;
        }
        if base.is_none() {
            let entrypoint = raw.entrypoint.join(" ");
            let wanted = "without a base the program must be named, such as [\"/bin/hello\"]";
            check("entrypoint", &entrypoint, !entrypoint.is_empty(), wanted)?;
        }
        for (name, value) in &raw.env {
            let fits = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
            let wanted = "a variable's name is not empty and holds no =";
            check(&format!("env.{name}"), value, fits, wanted)?;
        }
        if let Some(workdir) = &raw.workdir {
            check("workdir", workdir, is_place(workdir), "an absolute path without ..")?;
        }
        if let Some(health) = &raw.health {
            check("health", health, health.starts_with('/'), "an HTTP path, such as /healthz")?;
        }
        for log in &raw.logs {
            check("logs", log, is_place(log), "absolute paths of directories")?;
        }
        let port = raw.port.map(port).transpose()?;
        if let (Some(health), None) = (&raw.health, port) {
            let wanted = "a health path is asked on `port`, which is missing";
            check("health", health, false, wanted)?;
        }
        Ok(Definition {
            base,
            build: raw.build,
            files: raw.files.map_or(Ok(Vec::new()), files)?,
            entrypoint: raw.entrypoint,
            args: raw.args,
            port,
            env: raw.env,
            user: raw.user,
            workdir: raw.workdir,
            health: raw.health,
            logs: raw.logs,
        })
    }
}

fn check(key: &str, value: &str, fits: bool, wanted: &'static str) -> Result<(), DefinitionError> {
    if fits { Ok(()) } else { Err(wrong(key, value, wanted)) }
}

fn wrong(
    key: impl Into<String>,
    value: impl serde::Serialize,
    wanted: &'static str,
) -> DefinitionError {
    // As JSON, which for what people write here reads like TOML.
    let value = serde_json::to_string(&value).unwrap_or_else(|_| "no value".to_owned());
    DefinitionError::Wrong { key: key.into(), value, wanted }
}

fn port(value: Value) -> Result<u16, DefinitionError> {
    let number = value.as_integer().and_then(|number| u16::try_from(number).ok());
    match number {
        Some(port) if port != 0 => Ok(port),
        _ => Err(wrong("port", value, "a number from 1 to 65535")),
    }
}

/// An absolute path that stays where it says.
fn is_place(path: &str) -> bool {
    path.starts_with('/')
        && Path::new(path).components().all(|part| !matches!(part, Component::ParentDir))
}

fn files(value: Value) -> Result<Vec<Copied>, DefinitionError> {
    const SHAPE: &str = "a table of FROM = TO, or a list of { from, to, mode }";
    let mut copied = Vec::new();
    match value {
        Value::Table(table) => {
            for (from, to) in table {
                let key = format!("files.\"{from}\"");
                targets(&key, &from, to, &mut copied)?;
            }
        }
        Value::Array(list) => {
            for (index, item) in list.into_iter().enumerate() {
                let key = format!("files[{index}]");
                let Value::Table(mut table) = item else { return Err(wrong(key, item, SHAPE)) };
                let from = match table.remove("from") {
                    Some(Value::String(from)) => from,
                    Some(other) => return Err(wrong(format!("{key}.from"), other, "a path")),
                    None => return Err(wrong(key, Value::Table(table), "`from` is missing")),
                };
                targets(&key, &from, Value::Table(table), &mut copied)?;
            }
        }
        other => return Err(wrong("files", other, SHAPE)),
    }
    Ok(copied)
}

/// What follows a `from`: a place, a list of places, or `{ to, mode }`.
fn targets(
    key: &str,
    from: &str,
    value: Value,
    copied: &mut Vec<Copied>,
) -> Result<(), DefinitionError> {
    let relative = Path::new(from).components().all(|part| !matches!(part, Component::ParentDir));
    check(key, from, !from.is_empty() && relative, "the path to copy may not hold ..")?;
    let (to, mode) = match value {
        Value::Table(mut table) => {
            let mode = table.remove("mode").map(|value| mode(key, value)).transpose()?;
            let Some(to) = table.remove("to") else {
                return Err(wrong(key, Value::Table(table), "`to` is missing"));
            };
            if let Some((unknown, value)) = table.into_iter().next() {
                let known = "the keys here are from, to and mode";
                return Err(wrong(format!("{key}.{unknown}"), value, known));
            }
            (to, mode)
        }
        other => (other, None),
    };
    let places = match to {
        Value::Array(places) => places,
        place => vec![place],
    };
    for place in places {
        match place {
            Value::String(to) if is_place(&to) => {
                copied.push(Copied { from: from.to_owned(), to, mode });
            }
            other => return Err(wrong(key, other, "an absolute path in the image, without ..")),
        }
    }
    Ok(())
}

fn mode(key: &str, value: Value) -> Result<u32, DefinitionError> {
    let parsed = value.as_str().and_then(|text| u32::from_str_radix(text, 8).ok());
    match parsed {
        Some(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err(wrong(format!("{key}.mode"), value, "octal digits in quotes, such as \"0755\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(from: &str, to: &str, mode: Option<u32>) -> Copied {
        Copied { from: from.to_owned(), to: to.to_owned(), mode }
    }

    #[test]
    fn every_shape_of_files_is_read() {
        let table = r#"
            entrypoint = ["/a"]
            [files]
            "x" = "/a"
            "y" = { to = "/b", mode = "0600" }
            "z" = ["/c", "/d"]
        "#;
        let expected = [
            copied("x", "/a", None),
            copied("y", "/b", Some(0o600)),
            copied("z", "/c", None),
            copied("z", "/d", None),
        ];
        assert_eq!(Definition::parse(table).expect("it is right").files, expected);
        let list = r#"
            base = "b:1"
            files = [{ from = "x", to = "/a", mode = "755" }, { from = "y", to = ["/b", "/c"] }]
        "#;
        let expected =
            [copied("x", "/a", Some(0o755)), copied("y", "/b", None), copied("y", "/c", None)];
        assert_eq!(Definition::parse(list).expect("it is right").files, expected);
    }

    #[test]
    fn scratch_is_no_base() {
        let scratch = Definition::parse("base = \"scratch\"\nentrypoint = [\"/a\"]");
        assert_eq!(scratch.expect("it is right").base, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("", "`entrypoint`"),
            ("entrypoint = [\"/a\"]\nport = 0", "`port` is 0"),
            ("entrypoint = [\"/a\"]\nport = 70000", "`port` is 70000"),
            ("entrypoint = [\"/a\"]\nport = \"80\"", "`port` is \"80\""),
            ("entrypoint = [\"/a\"]\nprot = 80", "prot"),
            ("entrypoint = \"/a\"", "entrypoint"),
            ("entrypoint = [\"/a\"]\nworkdir = \"srv\"", "`workdir` is \"srv\""),
            ("entrypoint = [\"/a\"]\nhealth = \"ok\"\nport = 1", "`health` is \"ok\""),
            ("entrypoint = [\"/a\"]\nhealth = \"/ok\"", "`port`, which is missing"),
            ("entrypoint = [\"/a\"]\n[env]\n\"A=B\" = \"c\"", "`env.A=B`"),
            ("entrypoint = [\"/a\"]\n[env]\nA = 1", "A = 1"),
            ("entrypoint = [\"/a\"]\n[files]\nx = \"a\"", "`files.\"x\"` is \"a\""),
            ("entrypoint = [\"/a\"]\n[files]\nx = \"/../a\"", "`files.\"x\"`"),
            ("entrypoint = [\"/a\"]\n[files]\n\"../x\" = \"/a\"", "may not hold .."),
            ("entrypoint = [\"/a\"]\n[files]\nx = { to = \"/a\", mode = 755 }", "mode` is 755"),
            ("entrypoint = [\"/a\"]\n[files]\nx = { to = \"/a\", own = 1 }", "own` is 1"),
            ("entrypoint = [\"/a\"]\nfiles = [{ to = \"/a\" }]", "`from` is missing"),
            ("entrypoint = [\"/a\"]\nfiles = 3", "`files` is 3"),
        ] {
            let error = Definition::parse(text).expect_err(text).to_string();
            assert!(error.contains(named), "{text:?} said: {error}");
        }
    }
}
