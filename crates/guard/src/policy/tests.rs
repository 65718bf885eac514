//! Verdicts of small policies.

use super::*;
use crate::cel::Question;
use crate::{Kind, Place};

struct Nothing;

impl Authorize for Nothing {
    fn allows(&self, question: &Question) -> bool {
        question.verb == "special" && question.resource == "deployments"
    }
}

fn judge(spec: Value, actions: &[&str], replicas: i64, params: Value) -> Verdict {
    let mut spec = spec;
    spec["matchConstraints"] = json!({"resourceRules": [{"operations": ["*"], "apiGroups": ["apps"],
        "apiVersions": ["*"], "resources": ["deployments"]}]});
    let policy = Policy::read(&json!({"metadata": {"name": "p"}, "spec": spec}));
    let binding = Binding::read(&json!({"metadata": {"name": "b"},
        "spec": {"policyName": "p", "validationActions": actions}}));
    let request = Attributes {
        place: Place { group: "apps".into(), version: "v1".into(), resource: "deployments".into() },
        kind: Kind { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() },
        namespaced: true,
        namespace: "prod".into(),
        object: json!({"spec": {"replicas": replicas}}),
        namespace_object: json!({"metadata": {"name": "prod", "labels": {"env": "prod"}}}),
        ..Attributes::default()
    };
    let as_what = policy.wants(&binding, &request, &[]).unwrap();
    let authorize: Arc<dyn Authorize> = Arc::new(Nothing);
    policy.judge(&binding, &request, &as_what, &[params], &authorize, Instant::now())
}

fn denied(spec: Value, replicas: i64, params: Value) -> Option<(u16, String)> {
    let verdict = judge(spec, &["Deny"], replicas, params);
    verdict.denial.map(|denial| (denial.code, denial.message))
}

const WHO: &str = "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";

#[test]
fn validations_deny_with_their_message() {
    let spec = json!({"validations": [{"expression": "object.spec.replicas <= 5"}]});
    assert_eq!(denied(spec.clone(), 5, Value::Null), None);
    let said = format!("{WHO}failed expression: object.spec.replicas <= 5");
    assert_eq!(denied(spec, 6, Value::Null), Some((422, said)));
    let spec = json!({
        "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "variables": [
            {"name": "most", "expression": "int(params.data.most)"},
            {"name": "over", "expression": "object.spec.replicas - variables.most"}],
        "validations": [{"expression": "variables.over <= 0", "reason": "Forbidden",
            "messageExpression": "'%d too many in %s'.format([variables.over, namespaceObject.metadata.name])"}],
    });
    assert_eq!(denied(spec.clone(), 3, json!({"data": {"most": "3"}})), None);
    let said = format!("{WHO}4 too many in prod");
    assert_eq!(denied(spec.clone(), 7, json!({"data": {"most": "3"}})), Some((403, said)));
    let (code, said) = denied(spec, 7, json!({"data": {}})).unwrap();
    assert!(code == 422 && said.contains("composited variable"), "{said}");
}

#[test]
fn conditions_and_the_authorizer_exempt() {
    let spec = |condition: &str| {
        json!({"matchConditions": [{"name": "c", "expression": condition}],
            "validations": [{"expression": "false", "message": "never"}]})
    };
    assert!(denied(spec("object.spec.replicas > 5"), 6, Value::Null).is_some());
    assert_eq!(denied(spec("object.spec.replicas > 5"), 5, Value::Null), None);
    let may = "!authorizer.requestResource.check('special').allowed()";
    assert_eq!(denied(spec(may), 6, Value::Null), None);
    let may = "!authorizer.requestResource.check('other').allowed()";
    assert!(denied(spec(may), 6, Value::Null).is_some());
}

#[test]
fn failures_follow_the_failure_policy() {
    let spec = |policy: &str| json!({"failurePolicy": policy, "validations": [{"expression": "object.spec.nope == 1"}]});
    let (_, said) = denied(spec("Fail"), 1, Value::Null).unwrap();
    assert!(
        said.ends_with("expression 'object.spec.nope == 1' resulted in error: no such key: nope"),
        "{said}"
    );
    assert_eq!(denied(spec("Ignore"), 1, Value::Null), None);
}

#[test]
fn warn_and_audit_let_pass() {
    let spec = json!({"validations": [{"expression": "false", "message": "no"}],
        "auditAnnotations": [{"key": "size", "valueExpression": "string(object.spec.replicas)"}]});
    let verdict = judge(spec, &["Warn", "Audit"], 2, Value::Null);
    assert_eq!(verdict.denial, None);
    let warning = "Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': no";
    assert_eq!(verdict.warnings, [warning]);
    assert_eq!(verdict.annotations.len(), 2);
    assert_eq!(verdict.annotations[1], ("p/size".to_owned(), "2".to_owned()));
}
