//! Waiting for a kernel object (a process handle, an inotify queue) without a thread of its own.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets the runtime wait until `descriptor` can be read.
///
/// # Errors
/// When the kernel refuses to watch it.
#[allow(deprecated)] // tokio replaced it by an unsafe one for types that lie about their descriptor;
// an `OwnedFd` cannot, and this workspace forbids unsafe code.
pub fn readable(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}
