//! What is told of accounts, and what people change of their own.

use serde::Serialize;
use sqlx::Row;
use sqlx::any::AnyRow;

use super::{AccountError, Accounts, read};

/// An account as those see it who look after them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The user's name in RBAC.
    pub name: String,
    /// The groups in RBAC.
    pub groups: Vec<String>,
    /// Whether logging in is refused.
    pub disabled: bool,
    /// Whether a provider lets in, and no password.
    pub provider: bool,
    /// Milliseconds since 1970.
    pub created: i64,
    /// The last log-in, milliseconds since 1970; nothing where there was none.
    pub entered: Option<i64>,
}

const COLUMNS: &str = "name, member_of, disabled, issuer, created_at, entered_at";

impl Accounts {
    /// All of them by name.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn list(&self) -> Result<Vec<Listed>, AccountError> {
        let query = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM accounts ORDER BY name"));
        let rows = sqlx::query(query).fetch_all(&self.pool).await?;
        Ok(rows.iter().map(listed).collect::<Result<_, sqlx::Error>>()?)
    }

    /// One of them, if it is there.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find(&self, name: &str) -> Result<Option<Listed>, AccountError> {
        let query = sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM accounts WHERE name = $1"));
        let row = sqlx::query(query).bind(name).fetch_optional(&self.pool).await?;
        Ok(row.as_ref().map(listed).transpose()?)
    }

    /// Gives `name`, who knows the password `old`, the password `new`; ends its sessions but `kept`.
    ///
    /// # Errors
    /// [`AccountError::Refused`] when `old` is wrong or a provider lets in,
    /// [`AccountError::Password`] when `new` cannot be used.
    pub async fn replace_password(
        &self,
        name: &str,
        old: &str,
        new: &str,
        kept: &str,
    ) -> Result<(), AccountError> {
        self.check(name, old).await?;
        if self.write_password(name, new).await? == 0 {
            return Err(AccountError::Absent(name.to_owned()));
        }
        let query = "DELETE FROM sessions WHERE account = $1 AND id <> $2";
        sqlx::query(query).bind(name).bind(kept).execute(&self.pool).await?;
        Ok(())
    }
}

fn listed(row: &AnyRow) -> Result<Listed, sqlx::Error> {
    let groups: String = row.try_get("member_of")?;
    let entered: i64 = row.try_get("entered_at")?;
    Ok(Listed {
        name: row.try_get("name")?,
        groups: read(&groups),
        disabled: row.try_get::<i64, _>("disabled")? != 0,
        provider: !row.try_get::<String, _>("issuer")?.is_empty(),
        created: row.try_get("created_at")?,
        entered: (entered > 0).then_some(entered),
    })
}
