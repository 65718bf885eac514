//! The words that all parts of Berth share: its own kinds, and how objects are named and labelled.
//!
//! The lowest layer: it depends on nothing else of Berth, and is pure but for
//! [`endpoints::follow`], which asks an API server.

pub mod account;
pub mod acme;
pub mod answers;
pub mod app;
pub mod endpoints;
pub mod found;
pub mod gateway;
pub mod labels;
pub mod names;
pub mod quantity;
pub mod quota;
pub mod release;
pub mod selector;
pub mod summary;
pub mod zone;

pub use quantity::{Quantity, QuantityError};
pub use selector::{FieldSelector, Selector};
