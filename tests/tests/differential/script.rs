//! Requests as they stand in a file, and sending them with curl.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::answer::Answer;

/// One request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Method and path.
    #[serde(rename = "do")]
    what: String,
    /// Sent as JSON.
    #[serde(default)]
    body: Option<Value>,
    /// Sent as it stands.
    #[serde(default)]
    raw: Option<String>,
    /// The body's media type, without `application/`.
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    accept: Option<String>,
    /// Impersonated.
    #[serde(default, rename = "as")]
    user: Option<String>,
    /// Kept from the answer: name → JSON pointer; `${NAME}` stands for it in later requests.
    #[serde(default)]
    keep: BTreeMap<String, String>,
    /// JSON pointers (`*` for any one step) that are not compared, or `code`.
    #[serde(default)]
    pub except: Vec<String>,
    /// Why not; must be there with `except`.
    #[serde(default)]
    why: Option<String>,
}

impl Request {
    /// What the answer is filed under.
    pub fn line(&self) -> &str {
        &self.what
    }
}

/// The scripts of a directory, in order of their names.
pub fn read(directory: &Path) -> Vec<(String, Vec<Request>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "yaml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let requests: Vec<Request> =
            serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        for request in &requests {
            let explained = request.except.is_empty() || request.why.is_some();
            assert!(explained, "{name}: {}: `except` without `why`", request.what);
        }
        files.push((name, requests));
    }
    files.sort_by(|one, two| one.0.cmp(&two.0));
    files
}

/// Where requests are sent, and what curl is told to be let in.
pub struct Target {
    pub url: String,
    pub words: Vec<String>,
}

impl Target {
    /// Sends a request; keeps what it says is to be kept.
    pub fn send(&self, request: &Request, kept: &mut BTreeMap<String, String>) -> Answer {
        let fill = |text: &str| {
            kept.iter().fold(text.to_owned(), |text, (name, value)| {
                text.replace(&format!("${{{name}}}"), value)
            })
        };
        let what = fill(&request.what);
        let (method, path) = what.split_once(' ').expect("a method, a space, a path");
        let mut words =
            vec!["-sS".to_owned(), "-g".to_owned(), "--max-time".to_owned(), "20".to_owned()];
        words.extend(self.words.iter().cloned());
        words.extend([
            "-X".to_owned(),
            method.to_owned(),
            "-w".to_owned(),
            "\n%{http_code}".to_owned(),
        ]);
        let mut header = |text: String| words.extend(["-H".to_owned(), text]);
        header(format!("Accept: {}", request.accept.as_deref().unwrap_or("application/json")));
        header("User-Agent: differential/1".to_owned());
        if let Some(user) = &request.user {
            header(format!("Impersonate-User: {user}"));
        }
        let body = request.body.as_ref().map(Value::to_string).or_else(|| request.raw.clone());
        if body.is_some() {
            let kind = request.kind.as_deref().unwrap_or("json");
            header(format!("Content-Type: application/{kind}"));
            words.extend(["--data-binary".to_owned(), "@-".to_owned()]);
        }
        words.push(format!("{}{path}", self.url));
        let mut curl = Command::new("curl")
            .args(&words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = curl.stdin.take().unwrap();
        input.write_all(fill(&body.unwrap_or_default()).as_bytes()).unwrap();
        drop(input);
        let ran = curl.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let (text, code) = text.rsplit_once('\n').expect("curl was told to add a line");
        let body = serde_json::from_str(text).unwrap_or_else(|_| lines(text));
        for (name, pointer) in &request.keep {
            let value =
                body.pointer(pointer).unwrap_or_else(|| panic!("{what}: no {pointer}: {body}"));
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            kept.insert(name.clone(), text);
        }
        Answer::new(code.parse().unwrap(), body)
    }
}

/// A watch's events, one a line; text that is none stays text.
fn lines(text: &str) -> Value {
    let events: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    match events {
        Ok(events) if events.len() > 1 => Value::Array(events),
        _ => Value::String(text.to_owned()),
    }
}
