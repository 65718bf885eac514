//! The labels that Kubernetes recommends, and Berth's own words in metadata.
//!
//! Source: kubernetes.io, "Recommended Labels".

/// What an object belongs to by name: `hello`.
pub const NAME: &str = "app.kubernetes.io/name";
/// One installation of it; differs from the name where there are several.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// The larger whole.
pub const PART_OF: &str = "app.kubernetes.io/part-of";
/// What its job is within the whole: `dns`, `balancer`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Who makes and changes the object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";

/// The value of [`MANAGED_BY`] on everything that Berth makes.
pub const BERTH: &str = "berth";

/// The IngressClass that Berth's balancer serves.
pub const INGRESS_CLASS: &str = "berth";
