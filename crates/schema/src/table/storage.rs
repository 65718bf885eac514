//! The cells of volumes and claims.

use serde_json::{Value, json};

use super::{list, text_or};

pub fn volume_cell(heading: &str, object: &Value) -> Option<Value> {
    let is_claim = object["kind"] == "PersistentVolumeClaim";
    let bound = !text_or(object, "/spec/volumeName", "").is_empty();
    Some(match heading {
        "Status" if !object["metadata"]["deletionTimestamp"].is_null() => json!("Terminating"),
        "Status" => json!(text_or(object, "/status/phase", "")),
        "Volume" => json!(text_or(object, "/spec/volumeName", "")),
        "Capacity" if is_claim => match bound {
            true => json!(text_or(object, "/status/capacity/storage", "")),
            false => json!(""),
        },
        "Capacity" => json!(text_or(object, "/spec/capacity/storage", "")),
        "Access Modes" if is_claim => match bound {
            true => json!(modes(list(object, "/status/accessModes"))),
            false => json!(""),
        },
        "Access Modes" => json!(modes(list(object, "/spec/accessModes"))),
        "Reclaim Policy" => json!(text_or(object, "/spec/persistentVolumeReclaimPolicy", "")),
        "Claim" => match object["spec"]["claimRef"].as_object() {
            None => json!(""),
            Some(_) => {
                let claim = &object["spec"]["claimRef"];
                let namespace = text_or(claim, "/namespace", "");
                json!(format!("{namespace}/{}", text_or(claim, "/name", "")))
            }
        },
        "StorageClass" => json!(text_or(object, "/spec/storageClassName", "")),
        "VolumeAttributesClass" => {
            json!(text_or(object, "/spec/volumeAttributesClassName", "<unset>"))
        }
        "Reason" => json!(text_or(object, "/status/reason", "")),
        "VolumeMode" => json!(text_or(object, "/spec/volumeMode", "<unset>")),
        _ => return None,
    })
}

fn modes(modes: &[Value]) -> String {
    let short = |mode: &str| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    modes.iter().filter_map(Value::as_str).map(short).collect::<Vec<_>>().join(",")
}
