//! Discovery documents.

use serde_json::{Value, json};

use crate::{Catalog, Resource};

/// `APIVersions`, at `/api`; `address` is where clients reach the server, `host:port`.
#[must_use]
pub fn api_versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

/// `APIGroupList`, at `/apis`.
#[must_use]
pub fn api_groups(catalog: &Catalog) -> Value {
    let groups: Vec<Value> =
        groups(catalog).into_iter().filter_map(|name| describe(catalog, name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIGroup`, at `/apis/GROUP`.
#[must_use]
pub fn group(catalog: &Catalog, group: &str) -> Option<Value> {
    let mut found = describe(catalog, group)?;
    found["kind"] = json!("APIGroup");
    found["apiVersion"] = json!("v1");
    Some(found)
}

fn describe(catalog: &Catalog, group: &str) -> Option<Value> {
    let versions: Vec<Value> = versions(catalog, group)
        .into_iter()
        .map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version}))
        .collect();
    let preferred = versions.first()?.clone();
    Some(json!({"name": group, "versions": versions, "preferredVersion": preferred}))
}

/// `APIResourceList`, at `/api/v1` and `/apis/GROUP/VERSION`.
#[must_use]
pub fn resources(catalog: &Catalog, group: &str, version: &str) -> Option<Value> {
    let served = || catalog.resources().filter(|one| one.group == group && one.version == version);
    served().next()?;
    let mut list = Vec::new();
    for resource in served() {
        list.push(entry(resource));
        for sub in &resource.subresources {
            let mut one = json!({
                "name": format!("{}/{}", resource.plural, sub.name),
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub.kind.kind,
                "verbs": sub.verbs,
            });
            if (sub.kind.group.as_str(), sub.kind.version.as_str()) != (group, version) {
                one["group"] = json!(sub.kind.group);
                one["version"] = json!(sub.kind.version);
            }
            list.push(one);
        }
    }
    let group_version = crate::catalog::join(group, version);
    let mut found = json!({
        "kind": "APIResourceList", "groupVersion": group_version, "resources": list,
    });
    if !group.is_empty() {
        found["apiVersion"] = json!("v1");
    }
    Some(found)
}

fn entry(resource: &Resource) -> Value {
    let mut one = json!({
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        one["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        one["categories"] = json!(resource.categories);
    }
    one
}

/// `APIGroupDiscoveryList` v2: all groups but the core one, or only that when `legacy`.
#[must_use]
pub fn aggregated(catalog: &Catalog, legacy: bool) -> Value {
    let names = if legacy { vec![""] } else { groups(catalog) };
    let items: Vec<Value> = names
        .into_iter()
        .map(|name| {
            let versions: Vec<Value> = versions(catalog, name)
                .into_iter()
                .map(|version| aggregated_version(catalog, name, version))
                .collect();
            let metadata = if legacy { json!({}) } else { json!({"name": name}) };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(catalog: &Catalog, group: &str, version: &str) -> Value {
    let served = catalog.resources().filter(|one| one.group == group && one.version == version);
    let resources: Vec<Value> = served.map(|one| aggregated_entry(one)).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn aggregated_entry(resource: &Resource) -> Value {
    let mut one = json!({
        "resource": resource.plural,
        "responseKind": {
            "group": resource.group, "version": resource.version, "kind": resource.kind,
        },
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": resource.verbs,
    });
    if !resource.short_names.is_empty() {
        one["shortNames"] = json!(resource.short_names);
    }
    if !resource.categories.is_empty() {
        one["categories"] = json!(resource.categories);
    }
    if !resource.subresources.is_empty() {
        let subs = resource.subresources.iter().map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": {
                    "group": sub.kind.group, "version": sub.kind.version, "kind": sub.kind.kind,
                },
                "verbs": sub.verbs,
            })
        });
        one["subresources"] = subs.collect();
    }
    one
}

/// The groups outside the core one, each once, in order.
fn groups(catalog: &Catalog) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for resource in catalog.resources().filter(|one| !one.group.is_empty()) {
        if !names.contains(&resource.group.as_str()) {
            names.push(&resource.group);
        }
    }
    names
}

/// The versions of a group, the preferred one first.
fn versions<'a>(catalog: &'a Catalog, group: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for resource in catalog.resources().filter(|one| one.group == group) {
        if !found.contains(&resource.version.as_str()) {
            found.push(&resource.version);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_shows_short_names_scopes_and_subresources() {
        let catalog = Catalog::builtin();
        let core = resources(&catalog, "", "v1").unwrap();
        let list = core["resources"].as_array().unwrap();
        let find = |name: &str| list.iter().find(|one| one["name"] == name).unwrap();
        assert_eq!(find("pods")["shortNames"], json!(["po"]));
        assert_eq!(find("nodes")["namespaced"], json!(false));
        assert_eq!(find("pods/eviction")["group"], json!("policy"));
        assert_eq!(group(&catalog, "autoscaling").unwrap()["preferredVersion"]["version"], "v2");
        assert!(resources(&catalog, "apps", "v2").is_none());
        let apps = aggregated(&catalog, false);
        let apps = apps["items"].as_array().unwrap();
        assert!(apps.iter().any(|one| one["metadata"]["name"] == "apps"));
    }
}
