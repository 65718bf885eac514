//! Directories into which an App writes its logs, and what a pod says about them to its node.

pub mod collector;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The variable of an image or container that names log directories: absolute paths, between them
/// commas, semicolons, colons or spaces.
pub const VARIABLE: &str = "KUBERNETES_FILELOGS";
/// The annotation in which a pod tells its node what to collect: a [`Collected`] as JSON.
pub const ANNOTATION: &str = "berth.dev/logs";
/// Logs are kept so long when nobody says otherwise.
pub const KEEP_HOURS: i32 = 48;
/// An App's logs take so much of a node's disk when nobody says otherwise.
pub const QUOTA: &str = "1Gi";
/// How a node's own API begins to say that it keeps nothing of an App: there no collector has to be
/// asked besides.
pub const NONE_HERE: &str = "no log directory of app";
/// More directories of one container than this are left out.
pub const DIRECTORIES: usize = 16;

/// Files that the node collects under the App's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Logs {
    /// Absolute paths in the container; each becomes a volume. Those that the image names in
    /// `KUBERNETES_FILELOGS` are collected too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub directories: Vec<String>,
    /// For how long lines and files are kept.
    #[serde(default = "keep_hours")]
    #[schemars(range(min = 1))]
    pub keep_hours: i32,
    /// How much of a node's disk they take at most: one half the files, the other what was collected.
    #[serde(default = "quota")]
    pub quota: String,
}

impl Default for Logs {
    fn default() -> Self {
        Self { directories: Vec::new(), keep_hours: KEEP_HOURS, quota: QUOTA.to_owned() }
    }
}

impl Logs {
    /// The volumes' names and where each is mounted, in the App's order.
    pub fn volumes(&self) -> impl Iterator<Item = (String, &str)> {
        let paths = self.directories.iter().take(DIRECTORIES).enumerate();
        paths.map(|(number, path)| (format!("logs-{number}"), path.as_str()))
    }

    /// What the pods of `app` tell their node.
    pub fn collected(&self, app: &str) -> Collected {
        Collected {
            app: app.to_owned(),
            volumes: self.volumes().map(|(name, path)| (name, path.to_owned())).collect(),
            keep_hours: self.keep_hours,
            quota: self.quota.clone(),
        }
    }
}

/// What of a pod is collected, for whom, and within which bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// The App's name.
    pub app: String,
    /// Volumes with logs, and where the containers see them.
    #[serde(default)]
    pub volumes: BTreeMap<String, String>,
    /// See [`Logs::keep_hours`].
    #[serde(default = "keep_hours")]
    pub keep_hours: i32,
    /// See [`Logs::quota`].
    #[serde(default = "quota")]
    pub quota: String,
}

/// The directories that a [`VARIABLE`] names: those that are absolute, without `..`, and not `/`.
pub fn named(value: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for word in value.split(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | ':')) {
        let path = word.trim_end_matches('/');
        let steps = path.split('/').skip(1);
        let plain = steps.clone().all(|step| !matches!(step, "" | "." | ".."));
        if path.starts_with('/') && plain && found.iter().all(|other| other != path) {
            found.push(path.to_owned());
        }
    }
    found.truncate(DIRECTORIES);
    found
}

fn keep_hours() -> i32 {
    KEEP_HOURS
}

fn quota() -> String {
    QUOTA.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_names_directories() {
        assert_eq!(named("/export/Logs"), ["/export/Logs"]);
        assert_eq!(named("/a/, /b;/c:/d  /a"), ["/a", "/b", "/c", "/d"]);
        assert!(named("/ relative /a/../etc // /a//b /.").is_empty());
        let many: String = (0..40).map(|n| format!("/l{n},")).collect();
        assert_eq!(named(&many).len(), DIRECTORIES);
    }

    #[test]
    fn a_pod_says_what_its_app_does() {
        let logs = Logs { directories: vec!["/var/log/a".to_owned()], ..Logs::default() };
        let said = serde_json::to_string(&logs.collected("shop")).expect("serialises");
        let read: Collected = serde_json::from_str(&said).expect("parses");
        assert_eq!(read.app, "shop");
        assert_eq!(read.volumes["logs-0"], "/var/log/a");
        assert_eq!((read.keep_hours, read.quota.as_str()), (48, "1Gi"));
    }
}
