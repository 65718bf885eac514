//! The simulator beside living clusters: ours, and a real Kubernetes' API server where it is
//! installed. Nodes are hollow; the scheduler is the real one.

#![allow(clippy::unwrap_used, clippy::panic)] // a test's helpers fail like the test

mod ground;
mod recorded;
mod shadowed;
