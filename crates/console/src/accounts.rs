//! The people who may log in: names, passwords, groups. What they may do is RBAC's to say.

mod listed;
mod passwords;
mod requested;
mod sessions;
mod throttle;

use serde::Serialize;
use sqlx::{AnyPool, Row};

pub use self::listed::Listed;
pub use self::passwords::new_password;
pub(crate) use self::requested::{Known, Request};
pub use self::sessions::{Session, SessionError, Sessions};
pub use self::throttle::{Throttle, Wait};
use crate::database::{DatabaseError, now};

/// Groups of one person that a provider tells.
const GROUPS: usize = 200;

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The user's name in RBAC.
    pub name: String,
    /// The groups in RBAC.
    pub groups: Vec<String>,
    /// Whether logging in is refused.
    pub disabled: bool,
}

/// Why an account is not made, changed or let in.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The name cannot be one.
    #[error("{0:?} is no account name: 1 to 63 letters, digits, '.', '_', '-' or '@'")]
    Name(String),
    /// The group cannot be given.
    #[error("{0:?} is no group for people: names that begin with system: are the cluster's own")]
    Group(String),
    /// The password is too weak, or too long to be looked at.
    #[error("a password has 12 to 256 bytes")]
    Password,
    /// There is one already.
    #[error("there is an account {0} already")]
    Exists(String),
    /// There is none.
    #[error("there is no account {0}")]
    Absent(String),
    /// It is somebody else's.
    #[error("the account {0} is not yours by this way of logging in, or is disabled")]
    Taken(String),
    /// It has no password.
    #[error("a provider lets {0} in, and no password")]
    Provider(String),
    /// Name and password do not go together.
    #[error("name or password is wrong")]
    Refused,
    /// Too many are being checked.
    #[error("too many log-ins at once")]
    Busy,
    /// Below.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for AccountError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.into())
    }
}

/// All accounts.
#[derive(Clone, Debug)]
pub struct Accounts {
    pool: AnyPool,
    passwords: passwords::Passwords,
}

impl Accounts {
    /// Those of the database.
    pub fn new(pool: AnyPool) -> Self {
        Self { pool, passwords: passwords::Passwords::new() }
    }

    /// Makes one.
    ///
    /// # Errors
    /// When there is one of that name, or a name or the password cannot be used.
    pub async fn add(
        &self,
        name: &str,
        password: &str,
        groups: &[String],
    ) -> Result<(), AccountError> {
        check_name(name)?;
        for group in groups {
            check_group(group)?;
        }
        let hash = self.passwords.turn().await?.hash(password).await?;
        let query = "INSERT INTO accounts (name, password, member_of, disabled, created_at) \
                     VALUES ($1, $2, $3, 0, $4)";
        let made = sqlx::query(query)
            .bind(name)
            .bind(hash)
            .bind(written(groups))
            .bind(now())
            .execute(&self.pool)
            .await;
        match made {
            Ok(_) => Ok(()),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Err(AccountError::Exists(name.to_owned()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives it another password; whoever is logged in by it is logged out.
    ///
    /// # Errors
    /// When there is no such account, it is a provider's, or the password cannot be used.
    pub async fn set_password(&self, name: &str, password: &str) -> Result<(), AccountError> {
        let changed = self.write_password(name, password).await?;
        if changed == 0 && self.find(name).await?.is_some() {
            return Err(AccountError::Provider(name.to_owned()));
        }
        self.changed(name, changed).await
    }

    /// How many accounts it is now the password of: none where there is no such account, or a
    /// provider's.
    async fn write_password(&self, name: &str, password: &str) -> Result<u64, AccountError> {
        let hash = self.passwords.turn().await?.hash(password).await?;
        let query = "UPDATE accounts SET password = $1 WHERE name = $2 AND issuer = ''";
        let changed = sqlx::query(query).bind(hash).bind(name).execute(&self.pool).await?;
        Ok(changed.rows_affected())
    }

    /// Lets it log in no more, or again.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn set_disabled(&self, name: &str, disabled: bool) -> Result<(), AccountError> {
        let query = "UPDATE accounts SET disabled = $1 WHERE name = $2";
        let flag = i64::from(disabled);
        let changed = sqlx::query(query).bind(flag).bind(name).execute(&self.pool).await?;
        self.changed(name, changed.rows_affected()).await
    }

    /// Forgets it.
    ///
    /// # Errors
    /// When there is no such account.
    pub async fn remove(&self, name: &str) -> Result<(), AccountError> {
        let query = "DELETE FROM accounts WHERE name = $1";
        let gone = sqlx::query(query).bind(name).execute(&self.pool).await?;
        self.changed(name, gone.rows_affected()).await
    }

    async fn changed(&self, name: &str, rows: u64) -> Result<(), AccountError> {
        if rows == 0 {
            return Err(AccountError::Absent(name.to_owned()));
        }
        let query = "DELETE FROM sessions WHERE account = $1";
        sqlx::query(query).bind(name).execute(&self.pool).await?;
        Ok(())
    }

    /// The account of whom a provider has named; made where there is none, with the groups that it
    /// tells now. Groups that nobody can be given are left out.
    ///
    /// # Errors
    /// When the name cannot be one, or is that of another subject, issuer or password.
    pub async fn enter(
        &self,
        name: &str,
        issuer: &str,
        subject: &str,
        groups: &[String],
    ) -> Result<Account, AccountError> {
        check_name(name)?;
        let fits = |group: &&String| check_group(group).is_ok();
        let groups: Vec<String> = groups.iter().filter(fits).take(GROUPS).cloned().collect();
        let query = "INSERT INTO accounts \
                     (name, password, member_of, disabled, created_at, issuer, subject) \
                     VALUES ($1, '', $2, 0, $3, $4, $5) ON CONFLICT (name) DO UPDATE \
                     SET member_of = excluded.member_of WHERE accounts.issuer = excluded.issuer \
                     AND accounts.subject = excluded.subject AND accounts.disabled = 0";
        let entered = sqlx::query(query)
            .bind(name)
            .bind(written(&groups))
            .bind(now())
            .bind(issuer)
            .bind(subject)
            .execute(&self.pool)
            .await?;
        if entered.rows_affected() == 0 {
            return Err(AccountError::Taken(name.to_owned()));
        }
        Ok(Account { name: name.to_owned(), groups, disabled: false })
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn answers(&self) -> Result<(), AccountError> {
        sqlx::query("SELECT name FROM accounts LIMIT 1").fetch_optional(&self.pool).await?;
        Ok(())
    }

    /// Who this is. Takes as long whether the name exists or not.
    ///
    /// # Errors
    /// [`AccountError::Refused`] for a wrong name or password and for a disabled account,
    /// [`AccountError::Busy`] when too many are being checked.
    pub async fn check(&self, name: &str, password: &str) -> Result<Account, AccountError> {
        let turn = self.passwords.turn().await?;
        let query = "SELECT password, member_of, disabled FROM accounts WHERE name = $1";
        let row = sqlx::query(query).bind(name).fetch_optional(&self.pool).await?;
        // Who comes by a provider has none.
        let known = row.map(|row| Ok::<_, sqlx::Error>((row.try_get("password")?, row)));
        let known: Option<(String, sqlx::any::AnyRow)> = known.transpose()?;
        let Some((hash, row)) = known.filter(|(hash, _)| !hash.is_empty()) else {
            turn.check_nobody(password).await?;
            return Err(AccountError::Refused);
        };
        turn.check(password, hash).await?;
        if row.try_get::<i64, _>("disabled")? != 0 {
            return Err(AccountError::Refused);
        }
        let groups: String = row.try_get("member_of")?;
        Ok(Account { name: name.to_owned(), groups: read(&groups), disabled: false })
    }
}

/// The API server takes any text as a user's name: what looks like one of its own must not pass.
pub(crate) fn check_name(name: &str) -> Result<(), AccountError> {
    let fits = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte));
    if fits { Ok(()) } else { Err(AccountError::Name(name.to_owned())) }
}

pub(crate) fn check_group(group: &str) -> Result<(), AccountError> {
    let fits = (1..=128).contains(&group.len())
        && !group.starts_with("system:")
        && group.bytes().all(|byte| byte.is_ascii_graphic());
    if fits { Ok(()) } else { Err(AccountError::Group(group.to_owned())) }
}

fn written(groups: &[String]) -> String {
    serde_json::to_string(groups).expect("a list of texts is JSON")
}

fn read(groups: &str) -> Vec<String> {
    // Written by `written` alone; whatever else stands there gives no group.
    serde_json::from_str(groups).unwrap_or_default()
}

#[cfg(test)]
mod tests;
