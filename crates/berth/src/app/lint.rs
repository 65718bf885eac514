//! Whether a file is a right App, without asking anybody: by the schema that is published, and by
//! what no schema can say.

use std::collections::BTreeSet;
use std::fmt;

use berth_api::Quantity;
use serde_json::{Value, json};

use super::document::{self, Node, Place, What};

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    at: Place,
    message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.at.line, self.at.column, self.message)
    }
}

/// The JSON schema of an App's file.
pub fn schema() -> Value {
    let definition = serde_json::to_value(berth_api::app::definition()).unwrap_or_default();
    let whole = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "App",
        "description": whole["description"],
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "type": "string", "enum": ["berth.dev/v1"] },
            "kind": { "type": "string", "enum": ["App"] },
            "metadata": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": { "type": "string", "minLength": 1, "maxLength": 63 },
                    "namespace": { "type": "string" },
                    "labels": { "type": "object", "additionalProperties": { "type": "string" } },
                    "annotations": {
                        "type": "object", "additionalProperties": { "type": "string" } },
                },
            },
            "spec": whole["properties"]["spec"],
        },
    })
}

/// All that is wrong with a file, in its order.
pub fn check(text: &str) -> Vec<Fault> {
    let root = match document::read(text) {
        Ok(root) => root,
        Err(error) => return vec![unreadable(&error)],
    };
    let mut faults = Vec::new();
    against(&schema(), &root, "", &mut faults);
    if faults.is_empty() {
        sense(&root, &mut faults);
    }
    faults.sort();
    faults
}

fn unreadable(error: &serde_saphyr::Error) -> Fault {
    let at = error
        .location()
        .map(|at| Place { line: at.line(), column: at.column() })
        .unwrap_or(Place { line: 1, column: 1 });
    let message = error.to_string();
    let first = message.lines().next().unwrap_or("cannot be read").to_owned();
    Fault { at, message: first }
}

fn against(schema: &Value, node: &Node, path: &str, faults: &mut Vec<Fault>) {
    let mut tell = |at: Place, message: String| faults.push(Fault { at, message });
    let name = if path.is_empty() { "the file" } else { path };
    if schema["x-kubernetes-int-or-string"] == true {
        if !matches!(node.what, What::Number(_) | What::Text(_)) {
            tell(
                node.at,
                format!("{name} is {}; a number or per cent is wanted", node.what.noun()),
            );
        }
        return;
    }
    if matches!(node.what, What::Null) && schema["nullable"] == true {
        return;
    }
    let fits = match schema["type"].as_str() {
        Some("object") => matches!(node.what, What::Map(_)),
        Some("array") => matches!(node.what, What::List(_)),
        Some("string") => matches!(node.what, What::Text(_)),
        Some("boolean") => matches!(node.what, What::Bool),
        Some("number") => matches!(node.what, What::Number(_)),
        Some("integer") => {
            matches!(node.what, What::Number(number) if number.fract().abs() < f64::EPSILON)
        }
        _ => true,
    };
    if !fits {
        let wanted = match schema["type"].as_str().unwrap_or_default() {
            "object" => "keys with values",
            "array" => "a list",
            "string" => "text",
            "boolean" => "true or false",
            "integer" => "a whole number",
            _ => "a number",
        };
        let hint = match &node.what {
            What::Number(_) | What::Bool if wanted == "text" => " (in quotes)",
            _ => "",
        };
        tell(node.at, format!("{name} is {}; {wanted} is wanted{hint}", node.what.noun()));
        return;
    }
    match &node.what {
        What::Map(entries) => fields(schema, node, entries, path, faults),
        What::List(items) => {
            for (index, item) in items.iter().enumerate() {
                against(&schema["items"], item, &format!("{path}[{index}]"), faults);
            }
        }
        What::Text(text) => {
            if let Some(words) = schema["enum"].as_array()
                && !words.iter().any(|word| word == text)
            {
                let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
                tell(node.at, format!("{name} is `{text}`; {} is wanted", words.join(", ")));
            }
            let length = text.chars().count() as u64;
            if schema["minLength"].as_u64().is_some_and(|least| length < least) {
                tell(node.at, format!("{name} is empty"));
            }
            if let Some(most) = schema["maxLength"].as_u64().filter(|most| length > *most) {
                tell(node.at, format!("{name} has {length} characters; at most {most} are wanted"));
            }
        }
        What::Number(number) => {
            if let Some(least) = schema["minimum"].as_f64().filter(|least| number < least) {
                tell(node.at, format!("{name} is {number}; at least {least} is wanted"));
            }
            if let Some(most) = schema["maximum"].as_f64().filter(|most| number > most) {
                tell(node.at, format!("{name} is {number}; at most {most} is wanted"));
            }
        }
        What::Null | What::Bool => {}
    }
}

fn fields(
    schema: &Value,
    node: &Node,
    entries: &[(String, Place, Node)],
    path: &str,
    faults: &mut Vec<Fault>,
) {
    let empty = serde_json::Map::new();
    let known = schema["properties"].as_object().unwrap_or(&empty);
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    let mut seen = BTreeSet::new();
    for (key, at, value) in entries {
        if !seen.insert(key) {
            faults.push(Fault { at: *at, message: format!("{} is there twice", join(key)) });
        }
        if let Some(schema) = known.get(key) {
            against(schema, value, &join(key), faults);
        } else if schema["additionalProperties"].is_object() {
            against(&schema["additionalProperties"], value, &join(key), faults);
        } else {
            let near = known.keys().min_by_key(|other| distance(key, other));
            let near = near.filter(|other| distance(key, other) <= 2 + key.len() / 4);
            let hint = near.map(|name| format!("; {name} is meant?")).unwrap_or_default();
            faults.push(Fault { at: *at, message: format!("{} is not known{hint}", join(key)) });
        }
    }
    for wanted in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if node.get(wanted).is_none() {
            faults.push(Fault { at: node.at, message: format!("{} is missing", join(wanted)) });
        }
    }
}

/// How many letters have to change (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.chars().enumerate() {
        let mut corner = i;
        row[0] = i + 1;
        for (j, right) in b.iter().enumerate() {
            let changed = corner + usize::from(left != *right);
            corner = row[j + 1];
            row[j + 1] = changed.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// What no schema can say.
fn sense(root: &Node, faults: &mut Vec<Fault>) {
    let name = root.get("metadata").and_then(|meta| meta.get("name"));
    if let Some(node) = name
        && let Some(text) = node.text()
        && berth_api::names::dns1035_label(text).is_err()
    {
        let message = format!(
            "metadata.name is `{text}`; 1 to 63 lower-case letters, digits and - are wanted, \
             a letter first"
        );
        faults.push(Fault { at: node.at, message });
    }
    let Some(spec) = root.get("spec") else { return };
    ports(spec, faults);
    amounts(spec, faults);
    names(spec, faults);
    strategy(spec, faults);
    files(spec, faults);
    log_directories(spec, faults);
    scratch(spec, faults);
    let bound = |key| spec.get("scale").and_then(|scale| scale.get(key)).map(|node| &node.what);
    if let (Some(What::Number(min)), Some(What::Number(max))) = (bound("min"), bound("max"))
        && min > max
    {
        let at = spec.get("scale").map(|node| node.at).unwrap_or_default();
        let message = format!("spec.scale.min is {min}, above spec.scale.max, which is {max}");
        faults.push(Fault { at, message });
    }
}

fn list<'a>(spec: &'a Node, key: &str) -> &'a [Node] {
    spec.get(key).map(Node::items).unwrap_or_default()
}

/// Ports that are named have to be there.
fn ports(spec: &Node, faults: &mut Vec<Fault>) {
    let mut known: Vec<&str> =
        list(spec, "ports").iter().filter_map(|port| port.get("name")?.text()).collect();
    if spec.get("port").is_some() {
        known.push("http");
    }
    let probes = ["startup", "readiness", "liveness"]
        .into_iter()
        .filter_map(|kind| spec.get("probes")?.get(kind));
    let users = list(spec, "routes").iter().chain(list(spec, "tcp")).chain(probes);
    for node in users.filter_map(|user| user.get("port")) {
        let Some(text) = node.text().filter(|text| !known.contains(text)) else { continue };
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let message = format!("there is no port `{text}`; there are: {known}");
        faults.push(Fault { at: node.at, message });
    }
    if let Some(health) = spec.get("health").filter(|_| spec.get("port").is_none()) {
        let message = "spec.health asks spec.port, which is missing".to_owned();
        faults.push(Fault { at: health.at, message });
    }
}

fn amounts(spec: &Node, faults: &mut Vec<Fault>) {
    let resources = ["limits", "requests"]
        .into_iter()
        .filter_map(|kind| spec.get("resources")?.get(kind))
        .flat_map(|part| ["cpu", "memory"].into_iter().filter_map(|key| part.get(key)));
    let disks = list(spec, "storage").iter().chain(list(spec, "scratch"));
    let sizes = disks.filter_map(|disk| disk.get("size"));
    let quota = spec.get("logs").and_then(|logs| logs.get("quota"));
    for node in resources.chain(sizes).chain(quota) {
        if let Some(text) = node.text()
            && text.parse::<Quantity>().is_err()
        {
            let message = format!("`{text}` is no amount; such as 500m, 2, 512Mi, 1Gi is wanted");
            faults.push(Fault { at: node.at, message });
        }
    }
}

/// What is named in a list is named once.
fn names(spec: &Node, faults: &mut Vec<Fault>) {
    for key in ["ports", "init", "cron", "storage", "scratch"] {
        let mut seen = BTreeSet::new();
        for node in list(spec, key).iter().filter_map(|item| item.get("name")) {
            let Some(text) = node.text() else { continue };
            if !seen.insert(text) {
                let message = format!("spec.{key} has `{text}` twice");
                faults.push(Fault { at: node.at, message });
            }
            if berth_api::names::dns_label(text).is_err() {
                let message =
                    format!("spec.{key} has `{text}`; lower-case letters, digits and - are wanted");
                faults.push(Fault { at: node.at, message });
            }
        }
    }
}

/// A directory of logs is a volume, so it can neither be the root nor be there twice.
fn log_directories(spec: &Node, faults: &mut Vec<Fault>) {
    let Some(logs) = spec.get("logs") else { return };
    let mut seen = BTreeSet::new();
    for node in list(logs, "directories") {
        let Some(text) = node.text() else { continue };
        if berth_api::app::logs::named(text) != [text] {
            let message =
                format!("`{text}` is no absolute path below /, without .. and / at its end");
            faults.push(Fault { at: node.at, message });
        } else if !seen.insert(text) {
            let message = format!("spec.logs.directories has `{text}` twice");
            faults.push(Fault { at: node.at, message });
        }
    }
}

/// A scratch directory is a volume: where another one is, or under another one's name, it cannot be.
fn scratch(spec: &Node, faults: &mut Vec<Fault>) {
    let mut names: BTreeSet<String> = BTreeSet::new();
    let mut paths: BTreeSet<&str> = list(spec, "storage")
        .iter()
        .filter_map(|disk| disk.get("path"))
        .chain(spec.get("logs").into_iter().flat_map(|logs| list(logs, "directories")))
        .filter_map(Node::text)
        .collect();
    for (number, item) in list(spec, "scratch").iter().enumerate() {
        let name = item.get("name").and_then(Node::text);
        if !names.insert(name.map_or_else(|| number.to_string(), str::to_owned)) && name.is_none() {
            let message =
                format!("spec.scratch has `{number}` as a name; this one, without name, is it too");
            faults.push(Fault { at: item.at, message });
        }
        let Some(node) = item.get("path") else { continue };
        let Some(text) = node.text() else { continue };
        if berth_api::app::logs::named(text) != [text] {
            let message =
                format!("`{text}` is no absolute path below /, without .. and / at its end");
            faults.push(Fault { at: node.at, message });
        } else if !paths.insert(text) {
            let message = format!("spec.scratch has `{text}`, where another volume is");
            faults.push(Fault { at: node.at, message });
        }
    }
}

fn strategy(spec: &Node, faults: &mut Vec<Fault>) {
    let Some(strategy) = spec.get("strategy") else { return };
    let kind = strategy.get("type").and_then(Node::text).unwrap_or("rolling");
    if let Some(steps) = strategy.get("steps").filter(|_| kind != "canary") {
        let message = format!("spec.strategy.steps are a canary's; the type is {kind}");
        faults.push(Fault { at: steps.at, message });
    }
    if let Some(header) = strategy.get("header").filter(|_| kind != "canary") {
        let message = format!("spec.strategy.header is a canary's; the type is {kind}");
        faults.push(Fault { at: header.at, message });
    }
    let mut last = 0.0;
    for node in list(strategy, "steps").iter().filter_map(|step| step.get("weight")) {
        if let What::Number(weight) = node.what {
            if weight <= last {
                let message = format!("weight {weight} does not come after {last}");
                faults.push(Fault { at: node.at, message });
            }
            last = weight;
        }
    }
    if kind == "blueGreen" && !list(spec, "storage").is_empty() {
        let at = strategy.get("type").map_or(strategy.at, |node| node.at);
        let message = "blueGreen is not possible with storage: each colour would have disks of its \
             own, and what the one that goes had written would go with it; rolling, canary or \
             inPlace is wanted";
        faults.push(Fault { at, message: message.to_owned() });
    }
    for check in list(strategy, "checks") {
        if check.get("min").is_none() && check.get("max").is_none() {
            let message = "a check needs min, max or both: else every answer is right";
            faults.push(Fault { at: check.at, message: message.to_owned() });
        }
        if check.get("query").is_some() == check.get("balancer").is_some() {
            let message = "a check asks Prometheus by `query` or the balancer, one of both";
            faults.push(Fault { at: check.at, message: message.to_owned() });
        }
    }
}

fn files(spec: &Node, faults: &mut Vec<Fault>) {
    let files = spec.get("config").and_then(|config| config.get("files"));
    let Some(What::Map(entries)) = files.map(|node| &node.what) else { return };
    for (path, at, _) in entries {
        if !path.starts_with('/') || path.ends_with('/') || path.contains("..") {
            let message = format!("`{path}` is no file's absolute path");
            faults.push(Fault { at: *at, message });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: berth.dev/v1\nkind: App\nmetadata: {name: web}\n";

    fn faults(spec: &str) -> Vec<String> {
        check(&format!("{HEAD}{spec}")).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_fault_says_where_it_is_and_what_would_be_right() {
        let none: [&str; 0] = [];
        assert_eq!(faults("spec:\n  image: a\n  port: 80\n"), none);
        for (spec, expected) in [
            ("spec:\n  imag: a\n  image: b\n", "5:3: spec.imag is not known; image is meant?"),
            ("spec:\n  port: 80\n", "5:3: spec.image is missing"),
            (
                "spec:\n  image: a\n  port: eighty\n",
                "6:9: spec.port is text; a whole number is wanted",
            ),
            (
                "spec:\n  image: a\n  port: 70000\n",
                "6:9: spec.port is 70000; at most 65535 is wanted",
            ),
            (
                "spec:\n  image: a\n  env: {A: 1}\n",
                "6:12: spec.env.A is a number; text is wanted (in quotes)",
            ),
            (
                "spec:\n  image: a\n  drift: maybe\n",
                "6:10: spec.drift is `maybe`; repair, adopt is wanted",
            ),
            (
                "spec:\n  image: a\n  port: 80\n  routes:\n  - port: admin\n",
                "8:11: there is no port `admin`; there are: http",
            ),
            (
                "spec:\n  image: a\n  resources:\n    limits: {cpu: much}\n",
                "7:19: `much` is no amount; such as 500m, 2, 512Mi, 1Gi is wanted",
            ),
            (
                "spec:\n  image: a\n  strategy:\n    type: canary\n    steps: [{weight: 50}, {weight: 20}]\n",
                "8:36: weight 20 does not come after 50",
            ),
            (
                "spec:\n  image: a\n  storage: [{name: d, path: /d, size: 1Gi}]\n  strategy: {type: blueGreen}\n",
                "7:20: blueGreen is not possible with storage: each colour would have disks of its \
                 own, and what the one that goes had written would go with it; rolling, canary or \
                 inPlace is wanted",
            ),
            (
                "spec:\n  image: a\n  scale: {min: 5, max: 2}\n",
                "6:10: spec.scale.min is 5, above spec.scale.max, which is 2",
            ),
            (
                "spec:\n  image: a\n  scratch: [{path: models}]\n",
                "6:20: `models` is no absolute path below /, without .. and / at its end",
            ),
            (
                "spec:\n  image: a\n  scratch: [{path: /m, size: 8GB+}]\n",
                "6:30: `8GB+` is no amount; such as 500m, 2, 512Mi, 1Gi is wanted",
            ),
            (
                "spec:\n  image: a\n  logs: {directories: [/m]}\n  scratch: [{path: /m}]\n",
                "7:20: spec.scratch has `/m`, where another volume is",
            ),
            (
                "spec:\n  image: a\n  scratch: [{name: \"1\", path: /a}, {path: /b}]\n",
                "6:36: spec.scratch has `1` as a name; this one, without name, is it too",
            ),
        ] {
            assert_eq!(faults(spec), [expected], "{spec}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        let found = check("apiVersion: [\nkind");
        assert_eq!(found.len(), 1);
        assert!(found[0].at.line >= 1, "{found:?}");
        let missing = check("{}");
        assert_eq!(missing.len(), 4, "{missing:?}");
    }

    #[test]
    fn the_published_schema_is_the_one_that_is_used() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schemas/app.json");
        let published: Value =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(published, schema(), "write `berth app schema` to docs/schemas/app.json");
    }
}
