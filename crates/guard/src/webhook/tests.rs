//! Who is asked, and which answers count.

use super::*;

fn hook(more: &Value) -> Webhook {
    let mut given = json!({"name": "a.example.com", "sideEffects": "None", "clientConfig": {},
        "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        given[key] = value.clone();
    }
    let all = json!({"metadata": {"name": "c"}, "webhooks": [given]});
    Webhook::read_all(&all).remove(0)
}

struct Nothing;

impl Authorize for Nothing {
    fn allows(&self, _: &Question) -> bool {
        false
    }
}

#[test]
fn it_is_asked_or_not() {
    let check = |more: Value, dry_run: bool, expected: &str| {
        let request = Attributes {
            dry_run,
            namespaced: true,
            object: json!({"metadata": {"name": "x"}, "data": {"a": "b"}}),
            ..Attributes::default()
        };
        let authorize: Arc<dyn Authorize> = Arc::new(Nothing);
        let found = match hook(&more).call(&request, &[], &authorize, Instant::now()) {
            Call::Ask(_) => "ask".to_owned(),
            Call::Skip => "skip".to_owned(),
            Call::Refuse(why) => why,
        };
        assert!(found.starts_with(expected), "{more}: {found}");
    };
    let when = |expression: &str, policy: &str| json!({"failurePolicy": policy, "matchConditions": [{"name": "n", "expression": expression}]});
    check(json!({}), false, "ask");
    check(json!({}), true, "ask");
    check(
        json!({"sideEffects": "Some"}),
        true,
        "admission webhook \"a.example.com\" does not support dry run",
    );
    check(when("object.data.a == 'b'", "Fail"), false, "ask");
    check(when("object.data.a == 'c'", "Fail"), false, "skip");
    check(
        when("object.data.z == 'c'", "Fail"),
        false,
        "failed to evaluate match conditions: n: no such key",
    );
    check(when("object.data.z == 'c'", "Ignore"), false, "skip");
    check(
        when("authorizer.group('').resource('pods').check('get').allowed()", "Fail"),
        false,
        "skip",
    );
}

#[test]
fn answers_are_taken_at_their_word_or_not_at_all() {
    let check = |mutating: bool, response: Value, expected: Result<&str, &str>| {
        let body = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
            "response": response});
        let found = hook(&json!({})).judge("u1", mutating, body.to_string().as_bytes());
        let found = found.map(|answer| match answer {
            Answer::Allowed { patch, .. } => format!("allowed {}", patch.unwrap_or_default()),
            Answer::Denied { code, message, .. } => format!("{code} {message}"),
        });
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            _ => panic!("{body}: {found:?}"),
        }
    };
    let patch = "W3sib3AiOiJyZW1vdmUiLCJwYXRoIjoiL2EifV0=";
    check(false, json!({"uid": "u1", "allowed": true}), Ok("allowed null"));
    check(false, json!({"uid": "u2", "allowed": true}), Err("expected response.uid"));
    check(false, json!({"uid": "u1"}), Err("response.allowed"));
    check(false, Value::Null, Err("webhook response was absent"));
    check(
        false,
        json!({"uid": "u1", "allowed": true, "patch": patch, "patchType": "JSONPatch"}),
        Err("expected no response.patch"),
    );
    check(
        true,
        json!({"uid": "u1", "allowed": true, "patch": patch, "patchType": "JSONPatch"}),
        Ok("allowed [{\"op\":\"remove\",\"path\":\"/a\"}]"),
    );
    check(
        true,
        json!({"uid": "u1", "allowed": true, "patch": patch}),
        Err("not response.patchType"),
    );
    check(
        true,
        json!({"uid": "u1", "allowed": true, "patch": "!", "patchType": "JSONPatch"}),
        Err("base64"),
    );
    let start = "admission webhook \"a.example.com\" denied the request";
    check(
        false,
        json!({"uid": "u1", "allowed": false}),
        Ok(&format!("403 {start} without explanation")),
    );
    check(
        false,
        json!({"uid": "u1", "allowed": false, "status": {"code": 409, "message": "no"}}),
        Ok(&format!("409 {start}: no")),
    );
    let wrong = hook(&json!({})).judge("u1", false, b"<html>").unwrap_err();
    assert!(wrong.contains("json parse error"), "{wrong}");
    let wrong = hook(&json!({})).judge("u1", false, b"{\"kind\": \"Status\"}").unwrap_err();
    assert!(wrong.contains("expected webhook response"), "{wrong}");
}
