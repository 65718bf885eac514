//! Objects that are read one by one: one that cannot be understood does not spoil the list it is in.
//!
//! A typed watch fails as a whole when one object is not what the type says. Of such an object we
//! keep its metadata and what is wrong with it, so that its status can name the reason.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::{ApiResource, DynamicResourceScope};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A `K`, or why it is none.
#[derive(Clone, Debug, PartialEq)]
pub struct Lenient<K> {
    /// Read in either case.
    pub metadata: ObjectMeta,
    /// The object.
    pub object: Result<Box<K>, String>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Lenient<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let value = serde_json::Value::deserialize(deserializer)?;
        let metadata = value.get("metadata").cloned().unwrap_or_default();
        let metadata = serde_json::from_value(metadata).map_err(D::Error::custom)?;
        let object = serde_json::from_value(value).map(Box::new).map_err(|error| error.to_string());
        Ok(Self { metadata, object })
    }
}

impl<K: Serialize> Serialize for Lenient<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Unread<'a> {
            metadata: &'a ObjectMeta,
        }
        match &self.object {
            Ok(object) => object.serialize(serializer),
            // Without its spec it will not be understood the next time either.
            Err(_) => Unread { metadata: &self.metadata }.serialize(serializer),
        }
    }
}

impl<K: 'static> Resource for Lenient<K> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(types: &ApiResource) -> Cow<'_, str> {
        types.kind.as_str().into()
    }

    fn group(types: &ApiResource) -> Cow<'_, str> {
        types.group.as_str().into()
    }

    fn version(types: &ApiResource) -> Cow<'_, str> {
        types.version.as_str().into()
    }

    fn plural(types: &ApiResource) -> Cow<'_, str> {
        types.plural.as_str().into()
    }

    fn api_version(types: &ApiResource) -> Cow<'_, str> {
        types.api_version.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::gateway::HTTPRoute;
    use serde_json::json;

    #[test]
    fn an_object_that_is_none_is_kept_with_its_name_and_the_reason() {
        let read = |spec| -> Lenient<HTTPRoute> {
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
        };
        let good = read(json!({"hostnames": ["a.example"]}));
        assert_eq!(good.object.as_ref().unwrap().spec.hostnames, ["a.example"]);
        let again = serde_json::to_value(&good).unwrap();
        assert_eq!(serde_json::from_value::<Lenient<HTTPRoute>>(again).unwrap(), good);
        let bad = read(json!({"hostnames": 7}));
        assert_eq!(bad.metadata.name.as_deref(), Some("web"));
        assert!(bad.object.unwrap_err().contains("invalid type"));
        assert!(read(json!(null)).object.is_err());
    }
}
