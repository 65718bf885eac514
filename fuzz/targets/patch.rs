//! Patches of every kind on a Deployment: never a panic, and a merge patch that was taken twice has
//! the effect of one.
#![no_main]

use std::sync::{Arc, LazyLock};

use berth_schema::{Catalog, FieldValidation, Resource, patch, retype};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

static DEPLOYMENT: LazyLock<Arc<Resource>> = LazyLock::new(|| {
    let catalog = Catalog::builtin();
    catalog.resource("apps", "v1", "deployments").expect("it is built in").clone()
});

static LIVE: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "labels": {"app": "web"}, "finalizers": ["a/b", "c/d"]},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "containers": [
                        {"name": "a", "image": "a:1", "ports": [{"containerPort": 80, "protocol": "TCP"}],
                         "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
                        {"name": "b", "image": "b:1"}
                    ],
                    "tolerations": [{"key": "k", "operator": "Exists"}],
                    "volumes": [{"name": "v", "emptyDir": {}}]
                }
            }
        }
    })
});

fuzz_target!(|input: &[u8]| {
    let [kind, body @ ..] = input else { return };
    let once = |live: &Value| match kind % 3 {
        0 => patch::json(live, body).ok(),
        1 => patch::merge(live, body).ok(),
        _ => {
            let patch: Value = serde_json::from_slice(body).ok()?;
            patch::strategic(&DEPLOYMENT, live, &patch).ok()
        }
    };
    let Some(patched) = once(&LIVE) else { return };
    if kind % 3 == 1 {
        assert_eq!(once(&patched).as_ref(), Some(&patched));
    }
    drop(retype(&DEPLOYMENT, patched, FieldValidation::Warn));
});
