//! Passwords: argon2id, checked by few at a time so that a flood of log-ins slows nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::AccountError;

/// Each takes some 19 MiB and tens of milliseconds of a processor.
const AT_ONCE: usize = 1;
/// How many may wait for their turn before others are sent away.
const WAITING: usize = 32;

/// One that nobody guesses: 20 letters and digits that are not taken for one another, 100 bits.
pub fn new_password() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bytes: [u8; 20] = rand::random();
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

#[derive(Clone, Debug)]
pub(super) struct Passwords {
    turn: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    nobody: Arc<str>,
}

impl Passwords {
    pub(super) fn new() -> Self {
        // Checked for names that do not exist, so that time does not tell which do.
        let nobody = hash("nobody's password").unwrap_or_default();
        Self {
            turn: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::default(),
            nobody: nobody.into(),
        }
    }

    /// Waits until it is this one's turn. Nothing else is done for a log-in before: ten thousand
    /// that ask the database who they are would stand before everybody else there.
    pub(super) async fn turn(&self) -> Result<Turn, AccountError> {
        let place = Waiting(self.waiting.clone());
        if place.0.fetch_add(1, Ordering::Relaxed) >= WAITING {
            return Err(AccountError::Busy);
        }
        let permit = self.turn.clone().acquire_owned().await.map_err(|_| AccountError::Busy)?;
        Ok(Turn { nobody: self.nobody.clone(), _permit: permit, _place: place })
    }
}

/// The one whose password is looked at.
pub(super) struct Turn {
    nobody: Arc<str>,
    _permit: OwnedSemaphorePermit,
    _place: Waiting,
}

impl Turn {
    pub(super) async fn hash(self, password: &str) -> Result<String, AccountError> {
        if !(12..=256).contains(&password.len()) {
            return Err(AccountError::Password);
        }
        let password = password.to_owned();
        work(move || hash(&password)).await?.ok_or(AccountError::Password)
    }

    pub(super) async fn check(self, password: &str, hash: String) -> Result<(), AccountError> {
        if password.len() > 256 {
            return Err(AccountError::Refused);
        }
        let password = password.to_owned();
        let holds = work(move || verify(&password, &hash)).await?;
        if holds { Ok(()) } else { Err(AccountError::Refused) }
    }

    pub(super) async fn check_nobody(self, password: &str) -> Result<(), AccountError> {
        let nobody = self.nobody.to_string();
        match self.check(password, nobody).await {
            Err(AccountError::Refused) | Ok(()) => Ok(()),
            Err(other) => Err(other),
        }
    }
}

async fn work<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, AccountError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| AccountError::Busy)
}

/// A place among those who wait, or have their turn.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn hash(password: &str) -> Option<String> {
    Argon2::default().hash_password(password.as_bytes()).ok().map(|hash| hash.to_string())
}

fn verify(password: &str, hash: &str) -> bool {
    let Ok(hash) = PasswordHash::new(hash) else { return false };
    Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
}
