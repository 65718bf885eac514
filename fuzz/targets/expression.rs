//! CEL from any text, as a rule over an object: never a panic that gets out, and an end in time
//! whatever it says.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use berth_guard::cel::{self, Authorize, Budget, Expression, Question, Scope, Session};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

/// Far above a second, which an evaluation may take: the machine may be busy.
const LONGEST: Duration = Duration::from_secs(6);

struct InProd;

impl Authorize for InProd {
    fn allows(&self, question: &Question) -> bool {
        question.namespace == "prod"
    }
}

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    json!({"type": "object", "properties": {
        "name": {"type": "string"},
        "replicas": {"type": "integer"},
        "share": {"type": "number"},
        "size": {"x-kubernetes-int-or-string": true},
        "at": {"type": "string", "format": "date-time"},
        "names": {"type": "array", "items": {"type": "string"}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "ports": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["port"],
            "items": {"type": "object", "properties": {"port": {"type": "integer"}}}},
    }})
});

static OBJECT: LazyLock<Value> = LazyLock::new(|| {
    json!({"name": "web", "replicas": 3, "share": 0.5, "size": "10Mi",
        "at": "2026-01-02T03:04:05Z", "names": ["a", "b", "c"], "labels": {"a-b": "c"},
        "ports": [{"port": 80}, {"port": 443}]})
});

fuzz_target!(
    // The evaluator's own panics are caught where it is called; the fuzzer's hook would end the
    // process before. One that gets out still does, by the fuzzer's own guard.
    init: std::panic::set_hook(Box::new(|_| {})),
    |text: &str| {
        let scope = Scope::of(&["authorizer"]).with("self", Some(&SCHEMA)).with("object", None);
        let started = Instant::now();
        let compiled = Expression::any(text, &scope);
        drop(Expression::rule(text, &scope));
        drop(Expression::message(text, &scope));
        let Ok(expression) = compiled else {
            assert!(started.elapsed() < LONGEST, "compiled for {:?}", started.elapsed());
            return;
        };
        let session = Session::new(Budget::for_request(Instant::now()));
        let bound = [
            ("self", cel::typed(&OBJECT, &SCHEMA)),
            ("object", cel::plain(&OBJECT)),
            ("authorizer", cel::authorizer(Arc::new(InProd))),
        ];
        if let Ok(value) = session.eval(&expression, &bound) {
            drop(cel::to_json(&value));
            drop(cel::shown(&value));
        }
        assert!(started.elapsed() < LONGEST, "took {:?}", started.elapsed());
    }
);
