//! Webhook configurations, policies and bindings as people write them: what is wrong with one.
//!
//! # Source
//! The rules and sentences of Kubernetes' validation of `admissionregistration.k8s.io/v1`.

use berth_api::names;
use berth_api::selector::Selector;
use serde_json::{Value, json};

use crate::Fault;
use crate::condition::Condition;
use crate::policy;

/// Kubernetes' own limit.
const MOST_CONDITIONS: usize = 64;
const MOST_ANNOTATIONS: usize = 20;

/// All that is wrong with an object of `admissionregistration.k8s.io`, by its plural.
#[must_use]
pub fn check(plural: &str, object: &Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    match plural {
        "validatingwebhookconfigurations" | "mutatingwebhookconfigurations" => {
            webhooks(object, &mut faults);
        }
        "validatingadmissionpolicies" => policy_spec(&object["spec"], &mut faults),
        "validatingadmissionpolicybindings" => binding(&object["spec"], &mut faults),
        _ => {}
    }
    faults
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn webhooks(object: &Value, faults: &mut Vec<Fault>) {
    let mut seen: Vec<&str> = Vec::new();
    for (at, hook) in list(&object["webhooks"]).iter().enumerate() {
        let path = format!("webhooks[{at}]");
        let name = hook["name"].as_str().unwrap_or_default();
        if seen.contains(&name) {
            faults.push(Fault::duplicate(format!("{path}.name"), &hook["name"]));
        }
        seen.push(name);
        if let Err(wrong) = names::dns_subdomain(name) {
            faults.push(Fault::invalid(format!("{path}.name"), &hook["name"], &wrong));
        } else if name.split('.').count() < 3 {
            let wrong = "should be a domain with at least three segments separated by dots";
            faults.push(Fault::invalid(format!("{path}.name"), &hook["name"], wrong));
        }
        let versions = list(&hook["admissionReviewVersions"]);
        if versions.is_empty() {
            let wrong = "must specify one of v1, v1beta1";
            faults.push(Fault::required(format!("{path}.admissionReviewVersions"), wrong));
        } else if !versions.iter().any(|version| version == "v1") {
            // The beta form of reviews is not spoken here.
            let wrong = "must include at least one of v1";
            let field = format!("{path}.admissionReviewVersions");
            faults.push(Fault::invalid(field, &hook["admissionReviewVersions"], wrong));
        }
        for (at, rule) in list(&hook["rules"]).iter().enumerate() {
            rule_fields(rule, &format!("{path}.rules[{at}]"), true, faults);
        }
        one_of(hook, "failurePolicy", &["Fail", "Ignore"], &path, faults);
        one_of(hook, "matchPolicy", &["Equivalent", "Exact"], &path, faults);
        one_of(hook, "reinvocationPolicy", &["IfNeeded", "Never"], &path, faults);
        let effects = &hook["sideEffects"];
        if effects.is_null() {
            let wrong = "must specify one of None, NoneOnDryRun";
            faults.push(Fault::required(format!("{path}.sideEffects"), wrong));
        }
        one_of(hook, "sideEffects", &["None", "NoneOnDryRun"], &path, faults);
        if let Some(seconds) = hook["timeoutSeconds"].as_i64()
            && !(1..=30).contains(&seconds)
        {
            let wrong = "the timeout value must be between 1 and 30 seconds";
            faults.push(Fault::invalid(format!("{path}.timeoutSeconds"), &json!(seconds), wrong));
        }
        selector(&hook["namespaceSelector"], &format!("{path}.namespaceSelector"), faults);
        selector(&hook["objectSelector"], &format!("{path}.objectSelector"), faults);
        client(&hook["clientConfig"], &format!("{path}.clientConfig"), faults);
        conditions(&hook["matchConditions"], &path, faults);
        if let Err((at, error)) = Condition::compile(&hook["matchConditions"], &[]) {
            let field = format!("{path}.matchConditions[{at}].expression");
            let given = &hook["matchConditions"][at]["expression"];
            faults.push(Fault::invalid(field, given, &error.to_string()));
        }
    }
}

fn one_of(value: &Value, key: &str, allowed: &[&str], path: &str, faults: &mut Vec<Fault>) {
    if let Some(word) = value[key].as_str()
        && !allowed.contains(&word)
    {
        faults.push(Fault::not_supported(format!("{path}.{key}"), &value[key], allowed));
    }
}

fn selector(value: &Value, path: &str, faults: &mut Vec<Fault>) {
    if !value.is_null()
        && let Err(error) = Selector::from_json(value)
    {
        faults.push(Fault::invalid(path, value, &error.to_string()));
    }
}

fn client(config: &Value, path: &str, faults: &mut Vec<Fault>) {
    let (url, service) = (config["url"].as_str(), &config["service"]);
    match (url, service.is_object()) {
        (Some(url), false) => check_url(url, &format!("{path}.url"), faults),
        (None, true) => {
            for key in ["name", "namespace"] {
                if service[key].as_str().is_none_or(str::is_empty) {
                    faults.push(Fault::required(format!("{path}.service.{key}"), ""));
                }
            }
            if let Some(port) = service["port"].as_i64()
                && !(1..=65535).contains(&port)
            {
                let wrong = "port is not valid: must be between 1 and 65535, inclusive";
                faults.push(Fault::invalid(format!("{path}.service.port"), &json!(port), wrong));
            }
            if let Some(given) = service["path"].as_str()
                && !given.starts_with('/')
            {
                let wrong = "must start with a '/'";
                faults.push(Fault::invalid(format!("{path}.service.path"), &json!(given), wrong));
            }
        }
        _ => {
            let wrong = "exactly one of url or service is required";
            faults.push(Fault::required(path, wrong));
        }
    }
}

fn check_url(url: &str, path: &str, faults: &mut Vec<Fault>) {
    let rest = url.strip_prefix("https://");
    let wrong = match rest {
        None => "'https' is the only allowed URL scheme; desired format: https://host[/path]",
        Some(rest) if rest.is_empty() || rest.starts_with('/') => "host must be specified",
        Some(rest) if rest.contains('@') => "user information is not permitted in the URL",
        Some(rest) if rest.contains('?') => "query parameters are not permitted in the URL",
        Some(rest) if rest.contains('#') => "fragments are not permitted in the URL",
        Some(_) => return,
    };
    faults.push(Fault::invalid(path, &json!(url), wrong));
}

fn rule_fields(rule: &Value, path: &str, connect: bool, faults: &mut Vec<Fault>) {
    for key in ["operations", "apiGroups", "apiVersions", "resources"] {
        let words = list(&rule[key]);
        if words.is_empty() {
            faults.push(Fault::required(format!("{path}.{key}"), ""));
        }
        if words.len() > 1 && words.iter().any(|word| word == "*") && key != "resources" {
            let wrong = "if '*' is present, must not specify other values";
            faults.push(Fault::invalid(format!("{path}.{key}"), &rule[key], wrong));
        }
    }
    for (at, word) in list(&rule["operations"]).iter().enumerate() {
        let allowed = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        let known = word.as_str().is_some_and(|word| allowed.contains(&word));
        if !known || (!connect && word == "CONNECT") {
            faults.push(Fault::not_supported(format!("{path}.operations[{at}]"), word, &allowed));
        }
    }
    one_of(rule, "scope", &["*", "Cluster", "Namespaced"], path, faults);
}

fn conditions(given: &Value, path: &str, faults: &mut Vec<Fault>) {
    let all = list(given);
    if all.len() > MOST_CONDITIONS {
        faults.push(Fault::too_many(format!("{path}.matchConditions"), all.len(), MOST_CONDITIONS));
    }
    let mut seen: Vec<&Value> = Vec::new();
    for (at, one) in all.iter().enumerate() {
        let path = format!("{path}.matchConditions[{at}]");
        let name = one["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            faults.push(Fault::required(format!("{path}.name"), ""));
        } else if let Err(wrong) = names::qualified_name(name) {
            faults.push(Fault::invalid(format!("{path}.name"), &one["name"], &wrong));
        }
        if seen.contains(&&one["name"]) {
            faults.push(Fault::duplicate(format!("{path}.name"), &one["name"]));
        }
        seen.push(&one["name"]);
        if one["expression"].as_str().is_none_or(|text| text.trim().is_empty()) {
            faults.push(Fault::required(format!("{path}.expression"), ""));
        }
    }
}

fn policy_spec(spec: &Value, faults: &mut Vec<Fault>) {
    one_of(spec, "failurePolicy", &["Fail", "Ignore"], "spec", faults);
    let rules = list(&spec["matchConstraints"]["resourceRules"]);
    if !spec["matchConstraints"].is_object() {
        faults.push(Fault::required("spec.matchConstraints", ""));
    } else if rules.is_empty() {
        faults.push(Fault::required("spec.matchConstraints.resourceRules", ""));
    }
    matches(&spec["matchConstraints"], "spec.matchConstraints", faults);
    if spec["paramKind"].is_object() {
        for key in ["apiVersion", "kind"] {
            if spec["paramKind"][key].as_str().is_none_or(str::is_empty) {
                faults.push(Fault::required(format!("spec.paramKind.{key}"), ""));
            }
        }
    }
    let (validations, notes) = (list(&spec["validations"]), list(&spec["auditAnnotations"]));
    if validations.is_empty() && notes.is_empty() {
        let wrong = "validations or auditAnnotations must contain at least one item";
        faults.push(Fault::required("spec.validations", wrong));
    }
    if notes.len() > MOST_ANNOTATIONS {
        faults.push(Fault::too_many("spec.auditAnnotations", notes.len(), MOST_ANNOTATIONS));
    }
    let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
    for (at, one) in validations.iter().enumerate() {
        one_of(one, "reason", &reasons, &format!("spec.validations[{at}]"), faults);
    }
    let mut seen: Vec<&Value> = Vec::new();
    for (at, one) in list(&spec["variables"]).iter().enumerate() {
        let name = one["name"].as_str().unwrap_or_default();
        let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
        let field = format!("spec.variables[{at}].name");
        if name.is_empty() {
            faults.push(Fault::required(field, "name is not specified"));
        } else if !name.chars().all(word) || name.starts_with(|c: char| c.is_ascii_digit()) {
            faults.push(Fault::invalid(field, &one["name"], "name is not a valid CEL identifier"));
        } else if seen.contains(&&one["name"]) {
            faults.push(Fault::duplicate(field, &one["name"]));
        }
        seen.push(&one["name"]);
    }
    conditions(&spec["matchConditions"], "spec", faults);
    let _ = policy::compile_all(spec, "spec", faults);
}

fn matches(given: &Value, path: &str, faults: &mut Vec<Fault>) {
    for key in ["resourceRules", "excludeResourceRules"] {
        for (at, rule) in list(&given[key]).iter().enumerate() {
            rule_fields(rule, &format!("{path}.{key}[{at}]"), true, faults);
        }
    }
    one_of(given, "matchPolicy", &["Equivalent", "Exact"], path, faults);
    selector(&given["namespaceSelector"], &format!("{path}.namespaceSelector"), faults);
    selector(&given["objectSelector"], &format!("{path}.objectSelector"), faults);
}

fn binding(spec: &Value, faults: &mut Vec<Fault>) {
    if spec["policyName"].as_str().is_none_or(str::is_empty) {
        faults.push(Fault::required("spec.policyName", ""));
    }
    let actions = list(&spec["validationActions"]);
    if actions.is_empty() {
        faults.push(Fault::required("spec.validationActions", ""));
    }
    let mut seen: Vec<&Value> = Vec::new();
    for (at, action) in actions.iter().enumerate() {
        let field = format!("spec.validationActions[{at}]");
        let allowed = ["Audit", "Deny", "Warn"];
        if !action.as_str().is_some_and(|word| allowed.contains(&word)) {
            faults.push(Fault::not_supported(field, action, &allowed));
        } else if seen.contains(&action) {
            faults.push(Fault::duplicate(field, action));
        }
        seen.push(action);
    }
    if actions.contains(&json!("Deny")) && actions.contains(&json!("Warn")) {
        let wrong = "must not contain both Deny and Warn (repeating the same validation failure \
                     information in the API response and headers serves no purpose)";
        faults.push(Fault::invalid("spec.validationActions", &spec["validationActions"], wrong));
    }
    let params = &spec["paramRef"];
    if params.is_object() {
        let (name, selects) = (params["name"].as_str(), params["selector"].is_object());
        match (name.filter(|name| !name.is_empty()), selects) {
            (None, false) => {
                let wrong = "one of name or selector must be specified";
                faults.push(Fault::required("spec.paramRef", wrong));
            }
            (Some(_), true) => {
                let wrong = "name and selector are mutually exclusive";
                faults.push(Fault::forbidden("spec.paramRef.name", wrong));
            }
            _ => {}
        }
        if params["parameterNotFoundAction"].is_null() {
            faults.push(Fault::required("spec.paramRef.parameterNotFoundAction", ""));
        }
        one_of(params, "parameterNotFoundAction", &["Allow", "Deny"], "spec.paramRef", faults);
    }
    matches(&spec["matchResources"], "spec.matchResources", faults);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_fields(plural: &str, object: Value, expected: &[&str]) {
        let found = check(plural, &object);
        let fields: Vec<&str> = found.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, expected, "{found:?}");
    }

    #[test]
    fn webhooks_are_checked() {
        let check = |change: Value, expected: &[&str]| {
            let mut hook = json!({"name": "a.b.c", "sideEffects": "None",
                "admissionReviewVersions": ["v1"], "clientConfig": {"url": "https://127.0.0.1:1/x"}});
            for (key, value) in change.as_object().into_iter().flatten() {
                hook[key] = value.clone();
            }
            let plural = "validatingwebhookconfigurations";
            check_fields(plural, json!({"webhooks": [hook]}), expected);
        };
        check(json!({}), &[]);
        check(json!({"name": "short"}), &["webhooks[0].name"]);
        check(json!({"timeoutSeconds": 31}), &["webhooks[0].timeoutSeconds"]);
        check(json!({"sideEffects": "Some"}), &["webhooks[0].sideEffects"]);
        check(json!({"clientConfig": {}}), &["webhooks[0].clientConfig"]);
        check(json!({"clientConfig": {"url": "http://a/"}}), &["webhooks[0].clientConfig.url"]);
        check(
            json!({"matchConditions": [{"name": "n", "expression": "object.x =="}]}),
            &["webhooks[0].matchConditions[0].expression"],
        );
        check(
            json!({"rules": [{"operations": ["PATCH"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]}),
            &["webhooks[0].rules[0].operations[0]"],
        );
    }

    #[test]
    fn policies_and_bindings_are_checked() {
        let constraints = json!({"resourceRules": [{"operations": ["*"], "apiGroups": ["*"],
            "apiVersions": ["*"], "resources": ["*"]}]});
        let check = |validation: Value, expected: &[&str]| {
            let spec = json!({"matchConstraints": constraints, "validations": [validation]});
            check_fields("validatingadmissionpolicies", json!({"spec": spec}), expected);
        };
        check(json!({"expression": "object.spec.x == 1"}), &[]);
        check(json!({"expression": "params.x == 1"}), &["spec.validations[0].expression"]);
        check(json!({"expression": "variables.x == 1"}), &["spec.validations[0].expression"]);
        check(json!({"expression": "true", "reason": "No"}), &["spec.validations[0].reason"]);
        let plural = "validatingadmissionpolicybindings";
        let spec = json!({"policyName": "p", "validationActions": ["Deny", "Warn"]});
        check_fields(plural, json!({"spec": spec}), &["spec.validationActions"]);
        let spec = json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {}});
        let expected = ["spec.paramRef", "spec.paramRef.parameterNotFoundAction"];
        check_fields(plural, json!({"spec": spec}), &expected);
    }
}
