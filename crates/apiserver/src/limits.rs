//! How many requests one user may have under way, so that no user can shut out the others.
//!
//! Watches, logs and sessions are not counted: they wait, they do not work. Kubernetes' flow
//! schemas weigh users against each other; here everybody has the same share, which is what one
//! machine needs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::status::Failure;

const IN_ALL: usize = 400;
const PER_USER: usize = 150;
/// Users beyond this are forgotten once they have nothing under way.
const REMEMBERED: usize = 1024;

/// Counts requests under way.
pub(crate) struct Limits {
    all: Arc<Semaphore>,
    users: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// Held while a request is worked on.
pub(crate) struct Admitted {
    _all: OwnedSemaphorePermit,
    _user: OwnedSemaphorePermit,
}

impl Default for Limits {
    fn default() -> Self {
        Self { all: Arc::new(Semaphore::new(IN_ALL)), users: Mutex::default() }
    }
}

impl Limits {
    /// Takes a place, or refuses with 429.
    pub(crate) fn admit(&self, user: &str) -> Result<Admitted, Failure> {
        let busy = || {
            Failure::too_many_requests("too many requests are under way, please try again later", 1)
        };
        let own = {
            let mut users = self.users.lock().expect("nothing panics while holding it");
            if users.len() > REMEMBERED {
                users.retain(|_, places| places.available_permits() < PER_USER);
            }
            let places =
                users.entry(user.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(PER_USER)));
            places.clone()
        };
        let user = own.try_acquire_owned().map_err(|_| busy())?;
        let all = self.all.clone().try_acquire_owned().map_err(|_| busy())?;
        Ok(Admitted { _all: all, _user: user })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_all_places() {
        let limits = Limits::default();
        let held: Vec<_> = (0..PER_USER).map(|_| limits.admit("greedy").unwrap()).collect();
        assert_eq!(limits.admit("greedy").err().unwrap().code, 429);
        assert!(limits.admit("modest").is_ok());
        drop(held);
        assert!(limits.admit("greedy").is_ok());
    }
}
