//! Objects under a schema, pure: decode, default, validate, patch, apply, print, describe.
//!
//! A kind is data here, never code: what a field is, how its list merges and which columns a
//! table has come from `facts/` (written by `cargo xtask codegen`) or from a custom resource
//! definition. Rules that no schema states live in `default/` and `validate/`, by type.
//!
//! Nothing here reads a clock, a file or a socket.

pub mod apply;
mod catalog;
mod cause;
#[cfg(test)]
mod chaos;
mod convert;
mod crd;
mod decode;
mod default;
pub mod discovery;
pub mod facts;
pub mod openapi;
pub mod patch;
pub mod protobuf;
mod schema;
pub mod table;
mod validate;
mod zeros;

pub use catalog::{Catalog, Column, Custom, Gvk, Resource, Scale, Subresource};
pub use cause::Cause;
pub use convert::{from_storage, to_storage};
pub use crd::{CrdError, condition_names};
pub use decode::{
    DecodeError, Decoded, FieldValidation, Format, MOST_BYTES, decode, decode_kind, retype,
};
pub use default::default;
pub use schema::{Field, ListType, Merge, ObjectRef, ObjectType, Schema, Shape};
pub use validate::validate;
pub use zeros::complete;
