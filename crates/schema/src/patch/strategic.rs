//! Strategic merge: objects field by field, lists by the merge keys of the schema.
//!
//! ```text
//! $patch: replace | delete              about the object (or list) it stands in
//! $retainKeys: [a, b]                   of the object, only these keys stay
//! $setElementOrder/F: [..]              the order of list F
//! $deleteFromPrimitiveList/F: [..]      values to take out of list F
//! ```

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Merge, Schema};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";

type Fields = Map<String, Value>;

/// Merges an object.
pub fn object(
    current: &Value,
    patch: &Value,
    schema: Option<&Schema>,
) -> Result<Value, PatchError> {
    let patch = patch.as_object().ok_or_else(|| wrong("a patch must be a JSON object"))?;
    let empty = Map::new();
    let current = current.as_object().unwrap_or(&empty);
    Ok(Value::Object(fields(current, patch, schema)?))
}

fn fields(current: &Fields, patch: &Fields, schema: Option<&Schema>) -> Result<Fields, PatchError> {
    let mut base = current.clone();
    match patch.get(DIRECTIVE).map(|word| word.as_str().unwrap_or_default()) {
        None => {}
        Some("replace") => base = Map::new(),
        Some("delete") => return Ok(Map::new()),
        Some(other) => return Err(wrong(&format!("unknown patch type found: {other}"))),
    }
    if let Some(retained) = patch.get(RETAIN) {
        retain(&mut base, patch, retained)?;
    }
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE) {
            let gone: HashSet<&Value> = list_of(value, key)?.iter().collect();
            if let Some(Value::Array(list)) = base.get_mut(name) {
                list.retain(|item| !gone.contains(item));
            }
        } else if !key.starts_with('$') {
            field(&mut base, key, value, schema.and_then(|schema| schema.child(key)))?;
        }
    }
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(ORDER) {
            let order = list_of(value, key)?;
            let set = patch.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let merge_key = schema.and_then(|schema| schema.child(name)?.merge.key.as_deref());
            follows(set, order, merge_key, key)?;
            let before = current.get(name).and_then(Value::as_array);
            if let Some(Value::Array(list)) = base.get_mut(name) {
                let found = std::mem::take(list);
                *list = ordered(found, order, before.map_or(&[], Vec::as_slice), merge_key);
            }
        }
    }
    Ok(base)
}

/// Keeps only the named keys of the object; the patch may not set others.
fn retain(base: &mut Fields, patch: &Fields, retained: &Value) -> Result<(), PatchError> {
    let keys: HashSet<&str> = list_of(retained, RETAIN)?.iter().filter_map(Value::as_str).collect();
    let kept = |key: &str| keys.contains(key);
    let set = |(key, value): &(&String, &Value)| !key.starts_with('$') && !value.is_null();
    if let Some((key, _)) = patch.iter().filter(set).find(|(key, _)| !kept(key)) {
        return Err(wrong(&format!("{RETAIN} list doesn't contain {key}, which the patch sets")));
    }
    base.retain(|key, _| kept(key));
    Ok(())
}

fn field(
    base: &mut Fields,
    key: &str,
    patch: &Value,
    schema: Option<&Schema>,
) -> Result<(), PatchError> {
    let merge = schema.map(|schema| &schema.merge);
    let new = match patch {
        Value::Null => {
            base.remove(key);
            return Ok(());
        }
        Value::Object(patch) => {
            let replaced = merge.is_some_and(|merge| merge.replace);
            let empty = Map::new();
            let current = base.get(key).and_then(Value::as_object).filter(|_| !replaced);
            if current.is_none() && patch.get(DIRECTIVE).is_some_and(|word| word == "delete") {
                base.remove(key);
                return Ok(());
            }
            Value::Object(fields(current.unwrap_or(&empty), patch, schema)?)
        }
        Value::Array(patch) => {
            let current = base.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let merged = merge.filter(|merge| merge.merge && !merge.replace);
            Value::Array(match merged {
                Some(merge) => list(current, patch, merge, schema.and_then(Schema::item))?,
                None => plain(patch),
            })
        }
        other => other.clone(),
    };
    base.insert(key.to_owned(), new);
    Ok(())
}

/// A list that is replaced, without an item that only says so.
fn plain(patch: &[Value]) -> Vec<Value> {
    let only_directive = |item: &Value| {
        item.as_object().is_some_and(|one| one.len() == 1 && one.contains_key(DIRECTIVE))
    };
    patch.iter().filter(|item| !only_directive(item)).cloned().collect()
}

fn list(
    current: &[Value],
    patch: &[Value],
    merge: &Merge,
    item: Option<&Schema>,
) -> Result<Vec<Value>, PatchError> {
    let Some(key) = &merge.key else {
        let mut all = current.to_vec();
        let mut there: HashSet<&Value> = current.iter().collect();
        all.extend(patch.iter().filter(|value| there.insert(value)).cloned());
        return Ok(ordered(all, patch, current, None));
    };
    let mut all = current.to_vec();
    let (mut set, mut gone) = (Vec::new(), HashSet::new());
    for one in patch {
        let fields = one.as_object().ok_or_else(|| wrong("a list of objects holds no object"))?;
        match fields.get(DIRECTIVE).map(|word| word.as_str().unwrap_or_default()) {
            None => set.push(one),
            Some("merge") => {
                return Err(wrong("merging lists cannot yet be specified in the patch"));
            }
            Some("replace") => {
                let rest = patch.iter().filter(|one| one.get(DIRECTIVE).is_none());
                return rest.map(|one| object(&Value::Null, one, item)).collect();
            }
            Some("delete") => {
                gone.insert(keyed(fields, key)?);
            }
            Some(other) => return Err(wrong(&format!("unknown patch type found: {other}"))),
        }
    }
    all.retain(|one| !one.get(key).is_some_and(|value| gone.contains(value)));
    let mut at: HashMap<Value, usize> = HashMap::new();
    for (place, one) in all.iter().enumerate() {
        if let Some(value) = one.get(key) {
            at.entry(value.clone()).or_insert(place);
        }
    }
    for one in &set {
        let value = one.as_object().map_or(Err(wrong("no object")), |fields| keyed(fields, key))?;
        match at.get(value) {
            Some(place) => all[*place] = object(&all[*place], one, item)?,
            None => {
                at.insert(value.clone(), all.len());
                all.push(object(&Value::Null, one, item)?);
            }
        }
    }
    let order: Vec<Value> = set.into_iter().cloned().collect();
    Ok(ordered(all, &order, current, Some(key)))
}

/// Whether what a patch sets in a list comes in the order that it gives.
fn follows(
    set: &[Value],
    order: &[Value],
    key: Option<&str>,
    directive: &str,
) -> Result<(), PatchError> {
    let mut rest = order.iter();
    let stays = |one: &&Value| one.get(DIRECTIVE).is_none();
    for one in set.iter().filter(stays) {
        let one = identity(one, key);
        if !rest.any(|other| identity(other, key) == one) {
            return Err(wrong(&format!("the order in the patch list doesn't match {directive}")));
        }
    }
    Ok(())
}

fn keyed<'a>(fields: &'a Fields, key: &str) -> Result<&'a Value, PatchError> {
    fields.get(key).ok_or_else(|| {
        let shown = Value::Object(fields.clone());
        wrong(&format!("map: {shown} does not contain declared merge key: {key}"))
    })
}

/// Brings a merged list into order: what the patch names in the patch's order, the rest in the
/// order it had, each of the rest before those of the patch that it preceded.
fn ordered(found: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let (order, before) = (places(order, key), places(before, key));
    let place = |places: &HashMap<&Value, usize>, one: &Value| {
        identity(one, key).and_then(|value| places.get(value).copied())
    };
    let (mut named, rest): (Vec<Value>, Vec<Value>) =
        found.into_iter().partition(|one| place(&order, one).is_some());
    named.sort_by_key(|one| place(&order, one));
    let mut rest = rest.into_iter().peekable();
    let mut all = Vec::with_capacity(named.len());
    for one in named {
        let here = place(&before, &one);
        let precedes = |other: &Value| match (place(&before, other), here) {
            (Some(other), Some(here)) => other < here,
            _ => false,
        };
        while let Some(other) = rest.next_if(precedes) {
            all.push(other);
        }
        all.push(one);
    }
    all.extend(rest);
    all
}

/// Where each item of a list stands first. A list may hold a hundred thousand: no search in it may
/// begin anew for each item.
fn places<'a>(list: &'a [Value], key: Option<&str>) -> HashMap<&'a Value, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (at, one) in list.iter().enumerate() {
        if let Some(value) = identity(one, key) {
            places.entry(value).or_insert(at);
        }
    }
    places
}

/// What makes an item the same as another: its merge key, or all of it.
fn identity<'a>(one: &'a Value, key: Option<&str>) -> Option<&'a Value> {
    key.map_or(Some(one), |key| one.get(key))
}

fn list_of<'a>(value: &'a Value, key: &str) -> Result<&'a [Value], PatchError> {
    let list = value.as_array().map(Vec::as_slice);
    list.ok_or_else(|| wrong(&format!("invalid patch format of {key}: it is no list")))
}

fn wrong(what: &str) -> PatchError {
    PatchError::Malformed(what.to_owned())
}
