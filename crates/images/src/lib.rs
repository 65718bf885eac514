//! The registry, and the images that Berth makes itself.
//!
//! - [`registry`]: an OCI distribution registry on files
//! - [`build`]: an image from a directory
//! - [`system`]: the pause image, and the image of the running binary
//! - [`push`]: the registry's client
//! - [`layer`]: reproducible layers
//! - [`manifest`], [`reference`]: the words of OCI images
//!
//! It does not pull from other registries: `skopeo copy` does, into this one.

pub mod build;
mod elf;
pub mod layer;
pub mod manifest;
pub mod push;
pub mod reference;
pub mod registry;
pub mod system;
