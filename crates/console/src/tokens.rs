//! Service tokens: what a program shows at the console's API (`/k8s/…`) instead of a cookie.
//!
//! A token acts as an account and may a part of what the account may, until it expires. It is 256
//! random bits; the database has their digest. It opens nothing but `/k8s/…`.

mod scope;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};
use sqlx::{AnyPool, Row};

pub use self::scope::Scope;
use crate::accounts::Account;
use crate::database::{DatabaseError, now};

/// What a token begins with, so that people and scanners of sources know one.
const MARK: &str = "berth_";
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);
const MINUTE: i64 = 60_000;

/// One of them, without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Token {
    /// What people call it.
    pub name: String,
    /// As whom it acts.
    pub account: String,
    /// What it is good for.
    pub scope: Scope,
    /// Milliseconds since 1970.
    pub expires: i64,
    /// When it was last shown, to the minute; 0: never.
    pub used: i64,
}

/// Why a token is not made or taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The name cannot be one.
    #[error("{0:?} is no token name: 1 to 63 letters, digits, '.', '_' or '-'")]
    Name(String),
    /// A verb is none, or there are none.
    #[error("verbs are some of {}", scope::VERBS.join(", "))]
    Verb,
    /// It would live too long, or not at all.
    #[error("a token lives a minute to 366 days")]
    Life,
    /// There is one already.
    #[error("there is a token {0} already")]
    Exists(String),
    /// There is none.
    #[error("there is no token {0}")]
    Absent(String),
    /// There is no such account.
    #[error("there is no account {0}")]
    Account(String),
    /// Forged, expired or revoked, or its account is disabled.
    #[error("the token is not valid")]
    Refused,
    /// Below.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for TokenError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Tokens {
    pool: AnyPool,
}

impl Tokens {
    /// Those of the database.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool }
    }

    /// Makes one; what the program has to show, which nobody can look up later.
    ///
    /// # Errors
    /// When there is one of that name, or no such account, or name, verbs or life cannot be.
    pub async fn add(
        &self,
        name: &str,
        account: &str,
        scope: &Scope,
        life: Duration,
    ) -> Result<String, TokenError> {
        self.add_at(name, account, scope, life, now()).await
    }

    async fn add_at(
        &self,
        name: &str,
        account: &str,
        scope: &Scope,
        life: Duration,
        now: i64,
    ) -> Result<String, TokenError> {
        let fits = (1..=63).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !fits {
            return Err(TokenError::Name(name.to_owned()));
        }
        let known = |verb: &String| scope::VERBS.contains(&verb.as_str());
        if scope.verbs.is_empty() || !scope.verbs.iter().all(known) {
            return Err(TokenError::Verb);
        }
        if life < Duration::from_secs(60) || life > LONGEST {
            return Err(TokenError::Life);
        }
        let query = "SELECT name FROM accounts WHERE name = $1";
        let found = sqlx::query(query).bind(account).fetch_optional(&self.pool).await?;
        if found.is_none() {
            return Err(TokenError::Account(account.to_owned()));
        }
        let secret: [u8; 32] = rand::random();
        let token = format!("{MARK}{}", URL_SAFE_NO_PAD.encode(secret));
        let query = "INSERT INTO tokens (name, account, digest, namespaces, verbs, created_at, \
                     expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let made = sqlx::query(query)
            .bind(name)
            .bind(account)
            .bind(digest(&token))
            .bind(written(&scope.namespaces))
            .bind(written(&scope.verbs))
            .bind(now)
            .bind(now + life.as_millis() as i64)
            .execute(&self.pool)
            .await;
        match made {
            Ok(_) => Ok(token),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Err(TokenError::Exists(name.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// All by name, those that have expired too.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list(&self) -> Result<Vec<Token>, TokenError> {
        self.list_of("").await
    }

    /// Those of `account`, by name; all of them where it is empty.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list_of(&self, account: &str) -> Result<Vec<Token>, TokenError> {
        let query = "SELECT name, account, namespaces, verbs, expires_at, used_at FROM tokens \
                     WHERE $1 = '' OR account = $1 ORDER BY name";
        let rows = sqlx::query(query).bind(account).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(token).collect::<Result<_, sqlx::Error>>()?)
    }

    /// Forgets one.
    ///
    /// # Errors
    /// When there is no such token.
    pub async fn revoke(&self, name: &str) -> Result<(), TokenError> {
        let gone = sqlx::query("DELETE FROM tokens WHERE name = $1").bind(name);
        if gone.execute(&self.pool).await?.rows_affected() == 0 {
            return Err(TokenError::Absent(name.to_owned()));
        }
        Ok(())
    }

    /// Whose `shown` is, and what it is good for.
    ///
    /// # Errors
    /// [`TokenError::Refused`] for whatever is not, or no longer, a token.
    pub async fn find(&self, shown: &str) -> Result<(Token, Account), TokenError> {
        self.find_at(shown, now()).await
    }

    async fn find_at(&self, shown: &str, now: i64) -> Result<(Token, Account), TokenError> {
        if !shown.starts_with(MARK) || shown.len() != MARK.len() + 43 {
            return Err(TokenError::Refused);
        }
        let query = "SELECT t.name, t.account, t.namespaces, t.verbs, t.expires_at, t.used_at, \
                     a.member_of, a.disabled \
                     FROM tokens t JOIN accounts a ON a.name = t.account WHERE t.digest = $1";
        let row = sqlx::query(query).bind(digest(shown)).fetch_optional(&self.pool).await?;
        let row = row.ok_or(TokenError::Refused)?;
        let found = token(&row)?;
        if now >= found.expires || row.try_get::<i64, _>("disabled")? != 0 {
            return Err(TokenError::Refused);
        }
        if now > found.used + MINUTE {
            let query = "UPDATE tokens SET used_at = $1 WHERE name = $2";
            sqlx::query(query).bind(now).bind(&found.name).execute(&self.pool).await?;
        }
        let groups = read(row.try_get("member_of")?);
        let account = Account { name: found.account.clone(), groups, disabled: false };
        Ok((found, account))
    }
}

fn token(row: &sqlx::any::AnyRow) -> Result<Token, sqlx::Error> {
    let scope =
        Scope { namespaces: read(row.try_get("namespaces")?), verbs: read(row.try_get("verbs")?) };
    Ok(Token {
        name: row.try_get("name")?,
        account: row.try_get("account")?,
        scope,
        expires: row.try_get("expires_at")?,
        used: row.try_get("used_at")?,
    })
}

fn digest(token: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(token.as_bytes()))
}

fn written(list: &[String]) -> String {
    serde_json::to_string(list).expect("a list of texts is JSON")
}

/// Of [`written`] alone. What else stands there must not become the empty list, which is everything.
fn read(list: &str) -> Vec<String> {
    serde_json::from_str(list).unwrap_or_else(|_| vec![String::new()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accounts::Accounts;
    use crate::database::both::both;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn reads(namespaces: &[&str]) -> Scope {
        let owned = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect();
        Scope { namespaces: owned(namespaces), verbs: owned(&["get", "list"]) }
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires_or_is_revoked() {
        for database in both().await {
            let accounts = Accounts::new(database.pool.clone());
            let tokens = Tokens::new(database.pool.clone());
            let groups = ["berth:admins".to_owned()];
            accounts.add("ann", "correct horse battery", &groups).await.unwrap();
            let scope = reads(&["shop"]);
            let shown = tokens.add_at("ci", "ann", &scope, DAY, 0).await.unwrap();
            let (token, account) = tokens.find_at(&shown, MINUTE).await.unwrap();
            assert_eq!((token.scope, token.used), (scope.clone(), 0));
            assert_eq!((account.name.as_str(), &account.groups[..]), ("ann", &groups[..]));
            let late = DAY.as_millis() as i64;
            assert!(tokens.find_at(&shown, late - 1).await.is_ok());
            assert!(tokens.find_at(&shown, late).await.is_err(), "expired");
            assert_eq!(tokens.list().await.unwrap()[0].used, late - 1);
            for forged in ["", "berth_", &shown[..48], &format!("berth_{}", "A".repeat(43))] {
                assert!(tokens.find_at(forged, 1).await.is_err(), "{forged}");
            }
            accounts.set_disabled("ann", true).await.unwrap();
            assert!(tokens.find_at(&shown, 1).await.is_err(), "disabled");
            accounts.set_disabled("ann", false).await.unwrap();
            tokens.revoke("ci").await.unwrap();
            assert!(tokens.find_at(&shown, 1).await.is_err(), "revoked");
            assert!(matches!(tokens.revoke("ci").await, Err(TokenError::Absent(_))));
            let shown = tokens.add("ci", "ann", &scope, DAY).await.unwrap();
            accounts.remove("ann").await.unwrap();
            assert!(tokens.find(&shown).await.is_err(), "it goes with its account");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused() {
        for database in both().await {
            let accounts = Accounts::new(database.pool.clone());
            let tokens = Tokens::new(database.pool.clone());
            accounts.add("ann", "correct horse battery", &[]).await.unwrap();
            let scope = reads(&[]);
            let no = tokens.add("a b", "ann", &scope, DAY).await.unwrap_err();
            assert!(matches!(no, TokenError::Name(_)), "{no}");
            let no = tokens.add("ci", "ben", &scope, DAY).await.unwrap_err();
            assert!(matches!(no, TokenError::Account(_)), "{no}");
            for verbs in [vec![], vec!["impersonate".to_owned()], vec!["*".to_owned()]] {
                let scope = Scope { verbs, ..Scope::default() };
                let no = tokens.add("ci", "ann", &scope, DAY).await.unwrap_err();
                assert!(matches!(no, TokenError::Verb), "{no}");
            }
            for life in [Duration::ZERO, 367 * DAY] {
                let no = tokens.add("ci", "ann", &scope, life).await.unwrap_err();
                assert!(matches!(no, TokenError::Life), "{no}");
            }
            tokens.add("ci", "ann", &scope, DAY).await.unwrap();
            let no = tokens.add("ci", "ann", &scope, DAY).await.unwrap_err();
            assert!(matches!(no, TokenError::Exists(_)), "{no}");
        }
    }
}
