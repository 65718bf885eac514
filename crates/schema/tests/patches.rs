//! The three kinds of patch against the cases of Kubernetes' strategic merge patch, of RFC 7386 and
//! of RFC 6902, as tables in `cases/`.

#![allow(clippy::unwrap_used)] // clippy.toml lets only test functions, not what they call

use berth_schema::Catalog;
use berth_schema::patch::{PatchError, json, merge, strategic};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: Option<String>,
    object: Value,
    patch: Value,
    /// What comes out.
    #[serde(default)]
    result: Value,
    /// Part of why it is refused, in place of a result.
    refused: Option<String>,
}

fn check(text: &str, apply: impl Fn(&Value, &Value) -> Result<Value, PatchError>) {
    let cases: Vec<Case> = serde_saphyr::from_str(text).unwrap();
    let mut wrong = Vec::new();
    for (at, case) in cases.iter().enumerate() {
        let done = apply(&case.object, &case.patch);
        let is_right = match (&done, &case.refused) {
            (Ok(found), None) => *found == case.result,
            (Err(why), Some(part)) => why.to_string().contains(part.as_str()),
            _ => false,
        };
        if !is_right {
            let name = case.name.clone().unwrap_or_else(|| case.patch.to_string());
            let shown = match done {
                Ok(found) => found.to_string(),
                Err(why) => format!("refused: {why}"),
            };
            wrong.push(format!("{} ({name}): {shown}", at + 1));
        }
    }
    assert!(wrong.is_empty(), "{} of {} failed\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn strategic_merge_patches() {
    let catalog = Catalog::builtin();
    let pods = catalog.resource("apps", "v1", "deployments").unwrap();
    check(include_str!("cases/patch-strategic.yaml"), |object, patch| {
        strategic(pods, object, patch)
    });
}

#[test]
fn merge_patches() {
    check(include_str!("cases/patch-merge.yaml"), |object, patch| {
        merge(object, patch.to_string().as_bytes())
    });
}

#[test]
fn json_patches() {
    check(include_str!("cases/patch-json.yaml"), |object, patch| {
        json(object, patch.to_string().as_bytes())
    });
}
