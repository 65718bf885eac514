//! Who is logged in: a random token in a cookie, its digest in the database.
//!
//! # Guarantees
//! - A token is worth nothing to who reads the database.
//! - It is exchanged every [`ROTATE`]. The one before is taken for [`GRACE`] more, since a page asks
//!   for several things at once; whoever shows it later ends the session for everybody, as one of
//!   the two must have stolen it.
//! - A session ends [`IDLE`] after it was last used and [`LONGEST`] after it was begun.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::Rng;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::{AnyPool, Row};

use super::{Account, read};
use crate::database::{DatabaseError, now};

const IDLE: i64 = 8 * HOUR;
const LONGEST: i64 = 24 * HOUR;
const ROTATE: i64 = 15 * MINUTE;
const GRACE: i64 = MINUTE;
const HOUR: i64 = 60 * MINUTE;
const MINUTE: i64 = 60_000;

/// Somebody who is logged in.
#[derive(Clone, Debug)]
pub struct Session {
    /// Which of the sessions it is; no secret.
    pub id: String,
    /// Who.
    pub account: Account,
    /// What a request that changes something has to show beside the cookie.
    pub csrf: String,
    /// The cookie's next value, when it is to be exchanged with this answer.
    pub renewed: Option<String>,
}

/// A session as its own person sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Begun {
    /// See [`Session::id`].
    pub id: String,
    /// Where its log-in came from.
    pub address: String,
    /// When, milliseconds since 1970.
    pub begun: i64,
    /// When it was last used, to the minute.
    pub used: i64,
}

/// A session that was just begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// The cookie's value.
    pub token: String,
    /// See [`Session::csrf`].
    pub csrf: String,
}

/// Why a cookie is worth nothing.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Forged, ended, or shown after it was exchanged.
    #[error("not logged in")]
    Unknown,
    /// Below.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for SessionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// All sessions.
#[derive(Clone, Debug)]
pub struct Sessions {
    pool: AnyPool,
}

impl Sessions {
    /// How long a browser keeps the cookie at most.
    pub const LONGEST: Duration = Duration::from_millis(LONGEST as u64);

    /// Those of the database.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Begins one for `name`, whose password was checked, at `address`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn start(&self, name: &str, address: IpAddr) -> Result<Started, SessionError> {
        self.start_at(name, address, now()).await
    }

    pub(super) async fn start_at(
        &self,
        name: &str,
        address: IpAddr,
        now: i64,
    ) -> Result<Started, SessionError> {
        let (token, csrf) = (secret(), secret());
        let query = "INSERT INTO sessions \
                     (id, account, token, csrf, created_at, rotated_at, used_at, address) \
                     VALUES ($1, $2, $3, $4, $5, $5, $5, $6)";
        sqlx::query(query)
            .bind(secret())
            .bind(name)
            .bind(digest(&token))
            .bind(&csrf)
            .bind(now)
            .bind(address.to_string())
            .execute(&self.pool)
            .await?;
        let query = "UPDATE accounts SET entered_at = $1 WHERE name = $2";
        sqlx::query(query).bind(now).bind(name).execute(&self.pool).await?;
        let old = "DELETE FROM sessions WHERE used_at < $1 OR created_at < $2";
        sqlx::query(old).bind(now - IDLE).bind(now - LONGEST).execute(&self.pool).await?;
        Ok(Started { token, csrf })
    }

    /// Whose `token` is.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] for whatever is not, or no longer, somebody's.
    pub async fn find(&self, token: &str) -> Result<Session, SessionError> {
        self.find_at(token, now()).await
    }

    pub(super) async fn find_at(&self, token: &str, now: i64) -> Result<Session, SessionError> {
        if token.len() != 43 {
            return Err(SessionError::Unknown);
        }
        let shown = digest(token);
        let query = "SELECT s.id, s.token, s.csrf, s.created_at, s.rotated_at, s.used_at, \
                     a.name, a.member_of, a.disabled \
                     FROM sessions s JOIN accounts a ON a.name = s.account \
                     WHERE s.token = $1 OR s.previous_token = $1";
        let row = sqlx::query(query).bind(&shown).fetch_optional(&self.pool).await?;
        let row = row.ok_or(SessionError::Unknown)?;
        let id: String = row.try_get("id")?;
        let time = |column| row.try_get::<i64, _>(column);
        let (created, rotated, used) = (time("created_at")?, time("rotated_at")?, time("used_at")?);
        let current = row.try_get::<String, _>("token")? == shown;
        let stolen = !current && now > rotated + GRACE;
        if stolen || now > used + IDLE || now > created + LONGEST || time("disabled")? != 0 {
            self.end(&id).await?;
            return Err(SessionError::Unknown);
        }
        let mut renewed = None;
        if current && now > rotated + ROTATE {
            let next = secret();
            // Of two requests at once, one exchanges it; the other's token is the one before.
            let query = "UPDATE sessions SET token = $1, previous_token = $2, rotated_at = $3, \
                         used_at = $3 WHERE id = $4 AND token = $2";
            let exchanged = sqlx::query(query)
                .bind(digest(&next))
                .bind(&shown)
                .bind(now)
                .bind(&id)
                .execute(&self.pool)
                .await?;
            renewed = (exchanged.rows_affected() == 1).then_some(next);
        } else if now > used + MINUTE {
            let query = "UPDATE sessions SET used_at = $1 WHERE id = $2";
            sqlx::query(query).bind(now).bind(&id).execute(&self.pool).await?;
        }
        let groups: String = row.try_get("member_of")?;
        let account =
            Account { name: row.try_get("name")?, groups: read(&groups), disabled: false };
        Ok(Session { id, account, csrf: row.try_get("csrf")?, renewed })
    }

    /// Whether `id` was not ended.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn is_alive(&self, id: &str) -> Result<bool, SessionError> {
        let query = "SELECT id FROM sessions WHERE id = $1 AND created_at > $2";
        let row = sqlx::query(query).bind(id).bind(now() - LONGEST);
        Ok(row.fetch_optional(&self.pool).await?.is_some())
    }

    /// Those of `account` that have not ended, the one used last first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list(&self, account: &str) -> Result<Vec<Begun>, SessionError> {
        let now = now();
        let query = "SELECT id, address, created_at, used_at FROM sessions \
                     WHERE account = $1 AND used_at > $2 AND created_at > $3 \
                     ORDER BY used_at DESC, id";
        let rows = sqlx::query(query).bind(account).bind(now - IDLE).bind(now - LONGEST);
        let rows = rows.fetch_all(&self.pool).await?;
        let begun = rows.iter().map(|row| {
            Ok(Begun {
                id: row.try_get("id")?,
                address: row.try_get("address")?,
                begun: row.try_get("created_at")?,
                used: row.try_get("used_at")?,
            })
        });
        Ok(begun.collect::<Result<_, sqlx::Error>>()?)
    }

    /// Ends the one `id` of `account`; whether it was there.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end_own(&self, account: &str, id: &str) -> Result<bool, SessionError> {
        let query = "DELETE FROM sessions WHERE id = $1 AND account = $2";
        let gone = sqlx::query(query).bind(id).bind(account).execute(&self.pool).await?;
        Ok(gone.rows_affected() > 0)
    }

    /// Ends one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn end(&self, id: &str) -> Result<(), SessionError> {
        let query = "DELETE FROM sessions WHERE id = $1";
        sqlx::query(query).bind(id).execute(&self.pool).await?;
        Ok(())
    }
}

/// 256 random bits, 43 letters.
fn secret() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

fn digest(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(token.as_bytes()))
}

#[cfg(test)]
pub(super) const TIMES: [i64; 4] = [IDLE, LONGEST, ROTATE, GRACE];
