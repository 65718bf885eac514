//! Ingresses: the class of those that name none.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::server::Core;
use crate::status::Failure;
use crate::{object, record};

const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How a class was named before there was a field for it.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

/// Gives an Ingress the newest of the default classes, if there is one.
pub(super) async fn default_class(core: &Arc<Core>, new: &mut Value) -> Result<(), Failure> {
    let old = &new["metadata"]["annotations"][OLD_CLASS];
    if !new["spec"].is_object() || !new["spec"]["ingressClassName"].is_null() || !old.is_null() {
        return Ok(());
    }
    let classes = core.resource("networking.k8s.io", "v1", "ingressclasses")?;
    let page = core.store.list(record::prefix(&classes, "").as_bytes(), None, 0, None).await?;
    let newest = page
        .entries
        .iter()
        .map(|entry| record::object(&classes, entry))
        .filter(|class| class["metadata"]["annotations"][IS_DEFAULT] == "true")
        .max_by(|a, b| {
            let created = |class: &Value| object::meta(class, "creationTimestamp").to_owned();
            created(a).cmp(&created(b)).then_with(|| object::name(b).cmp(object::name(a)))
        });
    if let Some(class) = newest {
        new["spec"]["ingressClassName"] = json!(object::name(&class));
    }
    Ok(())
}
