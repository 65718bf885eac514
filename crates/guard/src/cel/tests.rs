//! Expressions and what they come to, one line each.

use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

fn session() -> Session {
    Session::new(Budget::for_request(Instant::now()))
}

fn check(source: &str, expected: Result<bool, &str>) {
    let scope = Scope::of(&["object", "authorizer"]);
    let object = json!({"metadata": {"name": "web", "namespace": "prod", "labels": {"a-b": "c"}},
        "spec": {"replicas": 3, "images": ["r.io/a:1", "r.io/b:2"]}});
    let found =
        Expression::any(source, &scope).map_err(|error| error.to_string()).and_then(|one| {
            let bound = [("object", plain(&object)), ("authorizer", authorizer(Arc::new(Only)))];
            session().truth(&one, &bound).map_err(|error| error.to_string())
        });
    match (&found, expected) {
        (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{source}"),
        (Err(error), Err(expected)) => assert!(error.contains(expected), "{source}: {error}"),
        _ => panic!("{source}: {found:?}"),
    }
}

struct Only;

impl Authorize for Only {
    fn allows(&self, question: &Question) -> bool {
        question.resource == "pods" && question.namespace == "prod" && question.verb == "create"
    }
}

#[test]
fn expressions_are_kubernetes() {
    check("object.spec.replicas <= 3", Ok(true));
    check("object.metadata.namespace == 'prod'", Ok(true));
    check("object.spec.images.all(i, i.startsWith('r.io/'))", Ok(true));
    check("object.spec.images.exists_one(i, i.endsWith(':1'))", Ok(true));
    check("'a-b' in object.metadata.labels && object.metadata.labels['a-b'] == 'c'", Ok(true));
    check("has(object.spec.paused) && object.spec.paused", Ok(false));
    check("object.?spec.?paused.orValue(true)", Ok(true));
    check("object.?spec.replicas.orValue(1) == 3 && !object.?status.?ready.hasValue()", Ok(true));
    check("size('äöü') == 3", Ok(true));
    check("object.spec.images.map(i, i.split(':')[1]).join(',') == '1,2'", Ok(true));
    check("'a-a'.replace('a', 'bb') == 'bb-bb'", Ok(true));
    check("quantity('1Gi').isGreaterThan(quantity('500Mi'))", Ok(true));
    check("cidr('10.0.0.0/8').containsIP(ip('10.1.2.3'))", Ok(true));
    check("url('https://a.b:8080/c').getPort() == '8080'", Ok(true));
    check("'abc123'.find('[0-9]+') == '123'", Ok(true));
    check("[1, 2, 3].isSorted() && [3, 1].sum() == 4", Ok(true));
    check("semver('1.2.3').isLessThan(semver('1.10.0'))", Ok(true));
    check("timestamp('2026-01-02T03:04:05Z').getFullYear() == 2026", Ok(true));
    check("duration('1h') > duration('59m')", Ok(true));
    check("'%s has %d'.format(['web', 3]) == 'web has 3'", Ok(true));
    check("sets.contains(object.spec.images, ['r.io/a:1'])", Ok(true));
    check("math.greatest(1, 2) == 2", Ok(true));
    check("!format.dns1123Label().validate('ok').hasValue()", Ok(true));
}

#[test]
fn the_authorizer_is_asked() {
    let ask = |namespace: &str| {
        format!(
            "authorizer.group('').resource('pods').namespace('{namespace}').check('create').allowed()"
        )
    };
    check(&ask("prod"), Ok(true));
    check(&ask("test"), Ok(false));
    check("authorizer.allowed()", Err("no check"));
}

#[test]
fn what_is_wrong_is_said() {
    check("object.spec.", Err("Syntax error"));
    check("objekt.spec", Err("undeclared reference to 'objekt'"));
    check("object.frobnicate()", Err("undeclared reference to 'frobnicate'"));
    check("object.spec.nothing == 1", Err("no such key: nothing"));
    check("object.spec.replicas", Err("which is not a bool"));
    check("Pod{name: 'x'} == 1", Err("compilation failed"));
    check(&format!("{}1{} == 1", "(".repeat(300), ")".repeat(300)), Err("recursion limit"));
    check(&format!("1{} == 1", " + 1".repeat(300)), Err("recursion limit"));
    check(&"x".repeat(40_000), Err("longer than"));
}

#[test]
fn a_schema_is_looked_into_when_there_is_one() {
    let schema = json!({"type": "object", "properties": {
        "size": {"type": "integer"}, "a-b": {"type": "string"},
        "list": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    let scope = Scope::default().with("self", Some(&schema));
    let wrong = |source: &str| Expression::rule(source, &scope).err().map(|error| error.0);
    assert_eq!(wrong("self.size > 1 && self.a__dash__b == '' && self.free.any == 1"), None);
    assert_eq!(wrong("self.list.all(one, one.name != '')"), None);
    assert!(wrong("self.sise > 1").unwrap().contains("undefined field 'sise'"));
    assert!(wrong("self.list.all(one, one.nam != '')").unwrap().contains("undefined field 'nam'"));
    assert_eq!(wrong("self.size").unwrap(), "must evaluate to bool");
}

#[test]
fn no_expression_runs_without_end() {
    let many: Vec<i64> = (0..300).collect();
    let started = Instant::now();
    for source in [
        "object.all(a, object.all(b, object.all(c, object.all(d, a + b + c + d >= 0))))",
        "object.map(a, object.map(b, object.map(c, a))).size() > 0",
        "['aaaaaaaaaaaaaaaa'].map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a)\
         .map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a).map(a, a+a+a+a+a+a+a+a)\
         .map(a, a+a+a+a+a+a+a+a)[0] == ''",
        "lists.range(1000000000).size() > 0",
        "lists.range(9000).map(x, 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa').join('')\
         .replace('a', lists.range(9000).map(x, 'bbbbbbbbbbbbbbbb').join('')) == ''",
    ] {
        let one = Expression::rule(source, &Scope::of(&["object"])).unwrap();
        let found = session().truth(&one, &[("object", plain(&json!(many)))]);
        assert_eq!(found, Err(EvalError::TooExpensive), "{source}");
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn names_are_escaped_as_kubernetes_does() {
    let check = |name: &str, expected: &str| assert_eq!(escape(name), expected);
    check("plain_name", "plain_name");
    check("a__b", "a__underscores__b");
    check("namespace", "__namespace__");
    check("app.k8s.io/x-y", "app__dot__k8s__dot__io__slash__x__dash__y");
}
