//! JSON patches that cannot explode.
//!
//! A few hundred bytes of `copy` double an object thirty times, or nest it until the stack of
//! whoever reads it ends; ten thousand insertions at the head of a long list take minutes. So each
//! operation is measured before it is done.
//!
//! # Source
//! The bound on what `copy` adds is Kubernetes' (`JSONPatchMaxCopyBytes`); CVE-2019-1002100 is why
//! it has one.

use json_patch::{PatchOperation, patch_unsafe};
use serde_json::Value;

use super::PatchError;
use crate::decode::DEEPEST;

/// What all copies of a patch may add, as JSON: as much as a body may hold.
const MOST_COPIED: usize = 3 * 1024 * 1024;
/// Items of lists that all insertions, removals and moves of a patch may shift or look at: a tenth
/// of a second's work.
const MOST_SHIFTED: usize = 100_000_000;

/// Applies operations one by one; `object` is worthless after an error.
pub(super) fn apply(object: &mut Value, operations: &[PatchOperation]) -> Result<(), PatchError> {
    let (mut copied, mut shifted) = (0, 0);
    for (at, operation) in operations.iter().enumerate() {
        let path = operation.path().as_str();
        let depth = path.bytes().filter(|byte| *byte == b'/').count();
        let source = match operation {
            PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()),
            PatchOperation::Move(moved) => object.pointer(moved.from.as_str()),
            PatchOperation::Add(add) => Some(&add.value),
            PatchOperation::Replace(replace) => Some(&replace.value),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
        };
        if let Some(source) = source {
            let size = DEEPEST.checked_sub(depth).and_then(|left| size(source, left));
            let Some(size) = size else {
                let message = format!("operation {at}: more than {DEEPEST} levels deep");
                return Err(PatchError::Unfit(message));
            };
            match operation {
                PatchOperation::Copy(_) => copied += size,
                PatchOperation::Move(_) => shifted += size,
                _ => {}
            }
        }
        if copied > MOST_COPIED {
            return Err(PatchError::Unfit(format!(
                "unable to complete the copy, the accumulated size increase of copy is {copied}, \
                 exceeding the limit {MOST_COPIED}"
            )));
        }
        shifted += shifts(object, operation);
        if shifted > MOST_SHIFTED {
            let message = format!("operation {at}: too much to move about in long lists");
            return Err(PatchError::Unfit(message));
        }
        patch_unsafe(object, std::slice::from_ref(operation)).map_err(|mut wrong| {
            wrong.operation = at;
            PatchError::Unfit(wrong.to_string())
        })?;
    }
    Ok(())
}

/// About how many bytes of JSON a value is; none when it is more than `depth` levels deep.
fn size(value: &Value, depth: usize) -> Option<usize> {
    match value {
        Value::Array(_) | Value::Object(_) if depth == 0 => None,
        Value::Array(items) => {
            items.iter().try_fold(2, |sum, item| Some(sum + 1 + size(item, depth - 1)?))
        }
        Value::Object(fields) => fields
            .iter()
            .try_fold(2, |sum, (key, value)| Some(sum + key.len() + 4 + size(value, depth - 1)?)),
        Value::String(text) => Some(text.len() + 2),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(4),
    }
}

/// How long the lists are that an operation inserts into or removes from.
fn shifts(object: &Value, operation: &PatchOperation) -> usize {
    let list = |path: &str| {
        let parent = path.rfind('/').map_or("", |at| &path[..at]);
        object.pointer(parent).and_then(Value::as_array).map_or(0, Vec::len)
    };
    match operation {
        PatchOperation::Move(moved) => list(moved.from.as_str()) + list(moved.path.as_str()),
        PatchOperation::Add(_) | PatchOperation::Remove(_) | PatchOperation::Copy(_) => {
            list(operation.path().as_str())
        }
        PatchOperation::Replace(_) | PatchOperation::Test(_) => 0,
    }
}
