//! A request, as rules, webhooks and policies see it.

use serde_json::{Value, json};

/// A group, version and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kind {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `Pod`.
    pub kind: String,
}

/// A group, version and plural.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Empty for the core group.
    pub group: String,
    /// Such as `v1`.
    pub version: String,
    /// Such as `pods`.
    pub resource: String,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// `userInfo` of a review: username, uid, groups, extra.
    pub user: Value,
    /// `CREATE`, `UPDATE`, `DELETE`, `CONNECT`.
    pub operation: String,
    /// The options of the operation.
    pub options: Value,
}

/// One request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Attributes {
    /// What the client asked for.
    pub kind: Kind,
    /// Where.
    pub place: Place,
    /// Empty for the object itself.
    pub subresource: String,
    /// Empty for what has none.
    pub namespace: String,
    /// Empty while it is to be generated.
    pub name: String,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// Who asks for what.
    pub asked: Asked,
    /// Nothing is to be kept.
    pub dry_run: bool,
    /// The object as it is to be; null for a delete.
    pub object: Value,
    /// The object as it is; null for a create.
    pub old: Value,
    /// The namespace's labels and annotations with its metadata; null without one.
    pub namespace_object: Value,
}

fn kind_json(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn place_json(place: &Place) -> Value {
    json!({"group": place.group, "version": place.version, "resource": place.resource})
}

impl Attributes {
    /// `request` of an AdmissionReview, and of expressions; `as_place` and `as_kind` are those of
    /// the rule that matched.
    #[must_use]
    pub fn request(&self, uid: &str, as_place: &Place, as_kind: &Kind) -> Value {
        let mut request = json!({
            "uid": uid,
            "kind": kind_json(as_kind),
            "resource": place_json(as_place),
            "requestKind": kind_json(&self.kind),
            "requestResource": place_json(&self.place),
            "operation": self.asked.operation,
            "userInfo": self.asked.user,
            "dryRun": self.dry_run,
            "options": self.asked.options,
        });
        let texts = [
            ("subResource", &self.subresource),
            ("requestSubResource", &self.subresource),
            ("name", &self.name),
            ("namespace", &self.namespace),
        ];
        for (key, text) in texts {
            if !text.is_empty() {
                request[key] = json!(text);
            }
        }
        request
    }
}
