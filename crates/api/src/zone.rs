//! DNS zones that stand in ConfigMaps: which maps are such, and what is said of them.
//!
//! A ConfigMap of [`NAMESPACE`] with the label [`LABEL`] holds a zone file (RFC 1035) under
//! [`KEY`]. The label's value is the zone's origin; it may be empty where the text has `$ORIGIN`.
//! No kind of its own: a zone file is text that people have already.

/// Where such maps are looked for, unless the server is told another namespace. Not everywhere:
/// who may write a zone may answer for any name.
pub const NAMESPACE: &str = "kube-system";
/// Marks the map; its value is the origin.
pub const LABEL: &str = "berth.dev/dns-zone";
/// Where in `data` the text stands.
pub const KEY: &str = "zone";

/// Reason of the Event at a map whose zone is in force.
pub const TAKEN: &str = "ZoneTaken";
/// Reason of the Event at a map whose zone is not in order, with the lines; the old one stays.
pub const REFUSED: &str = "ZoneRefused";
