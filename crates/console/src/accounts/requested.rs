//! Accounts that came of a request: they go with it, and no other account is touched by it.

use sqlx::Row;

use super::{AccountError, Accounts, check_group, check_name, written};
use crate::database::now;

/// The request that an account came of: the object's name and uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub name: String,
    pub uid: String,
}

/// An account, as a request sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub name: String,
    /// Empty where it came of none.
    pub request_uid: String,
    pub has_password: bool,
}

impl Accounts {
    /// The accounts of the name, and of the request.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn known(&self, name: &str, uid: &str) -> Result<Vec<Known>, AccountError> {
        let query = "SELECT name, request_uid, password FROM accounts \
                     WHERE name = $1 OR request_uid = $2";
        let rows = sqlx::query(query).bind(name).bind(uid).fetch_all(&self.pool).await?;
        let read = |row: &sqlx::any::AnyRow| {
            Ok(Known {
                name: row.try_get("name")?,
                request_uid: row.try_get("request_uid")?,
                has_password: !row.try_get::<String, _>("password")?.is_empty(),
            })
        };
        rows.iter().map(read).collect()
    }

    /// Makes the account that `request` asks for. Where it made it before, and nobody was told the
    /// password, it gets this one.
    ///
    /// # Errors
    /// When the name is somebody else's, or a name or the password cannot be used.
    pub(crate) async fn grant(
        &self,
        name: &str,
        password: &str,
        groups: &[String],
        request: &Request,
    ) -> Result<(), AccountError> {
        check_name(name)?;
        for group in groups {
            check_group(group)?;
        }
        let hash = self.passwords.turn().await?.hash(password).await?;
        let query = "INSERT INTO accounts \
                     (name, password, member_of, disabled, created_at, request, request_uid) \
                     VALUES ($1, $2, $3, 0, $4, $5, $6) ON CONFLICT (name) DO UPDATE \
                     SET password = excluded.password, member_of = excluded.member_of \
                     WHERE accounts.request_uid = excluded.request_uid";
        let made = sqlx::query(query)
            .bind(name)
            .bind(hash)
            .bind(written(groups))
            .bind(now())
            .bind(&request.name)
            .bind(&request.uid)
            .execute(&self.pool)
            .await?;
        if made.rows_affected() == 0 {
            return Err(AccountError::Exists(name.to_owned()));
        }
        Ok(())
    }

    /// Gives the account of the request these groups.
    ///
    /// # Errors
    /// When there is none, or a group cannot be given.
    pub(crate) async fn regroup(&self, uid: &str, groups: &[String]) -> Result<(), AccountError> {
        for group in groups {
            check_group(group)?;
        }
        let query = "UPDATE accounts SET member_of = $1 WHERE request_uid = $2";
        let done = sqlx::query(query).bind(written(groups)).bind(uid).execute(&self.pool).await?;
        if done.rows_affected() == 0 {
            return Err(AccountError::Absent(uid.to_owned()));
        }
        Ok(())
    }

    /// Those that came of requests, and of which.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn requested(&self) -> Result<Vec<(String, Request)>, AccountError> {
        let query = "SELECT name, request, request_uid FROM accounts WHERE request_uid <> ''";
        let rows = sqlx::query(query).fetch_all(&self.pool).await?;
        let read = |row: &sqlx::any::AnyRow| {
            let request =
                Request { name: row.try_get("request")?, uid: row.try_get("request_uid")? };
            Ok((row.try_get("name")?, request))
        };
        rows.iter().map(read).collect()
    }

    /// Forgets the account of the request, and logs it out; says whether there was one.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn take_back(&self, uid: &str) -> Result<bool, AccountError> {
        let sessions = "DELETE FROM sessions WHERE account IN \
                        (SELECT name FROM accounts WHERE request_uid = $1)";
        sqlx::query(sessions).bind(uid).execute(&self.pool).await?;
        let query = "DELETE FROM accounts WHERE request_uid = $1";
        let gone = sqlx::query(query).bind(uid).execute(&self.pool).await?;
        Ok(gone.rows_affected() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::both::both;

    const PASSWORD: &str = "correct horse battery";

    #[tokio::test]
    async fn an_account_goes_with_its_request_and_no_other_does() {
        for database in both().await {
            let accounts = Accounts::new(database.pool.clone());
            let request = Request { name: "for-ann".to_owned(), uid: "u1".to_owned() };
            let other = Request { name: "for-ben".to_owned(), uid: "u2".to_owned() };
            accounts.add("ben", PASSWORD, &[]).await.unwrap();
            accounts.grant("ann", PASSWORD, &["shop".to_owned()], &request).await.unwrap();
            for taken in ["ann", "ben"] {
                let refused = accounts.grant(taken, PASSWORD, &[], &other).await.unwrap_err();
                assert!(matches!(refused, AccountError::Exists(_)), "{taken}: {refused}");
            }
            accounts.grant("ann", "another one entirely", &[], &request).await.unwrap();
            assert!(accounts.check("ann", PASSWORD).await.is_err(), "nobody was told that one");
            accounts.regroup("u1", &["front".to_owned()]).await.unwrap();
            let ann = accounts.check("ann", "another one entirely").await.unwrap();
            assert_eq!(ann.groups, ["front"]);
            let masters = ["system:masters".to_owned()];
            assert!(accounts.regroup("u1", &masters).await.is_err());
            assert!(accounts.regroup("u2", &[]).await.is_err());

            let known = accounts.known("ben", "u1").await.unwrap();
            assert_eq!(known.len(), 2, "{known:?}");
            assert_eq!(accounts.requested().await.unwrap(), [("ann".to_owned(), request)]);
            assert!(!accounts.take_back("u2").await.unwrap());
            assert!(accounts.take_back("u1").await.unwrap());
            let left = accounts.list().await.unwrap();
            assert_eq!(left.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["ben"]);
        }
    }
}
