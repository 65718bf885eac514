//! The same on SQLite and on a PostgreSQL.

use std::net::IpAddr;

use super::sessions::TIMES;
use super::*;
use crate::database::both::both;

const PASSWORD: &str = "correct horse battery";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

#[tokio::test]
async fn who_knows_the_password_is_let_in_until_the_account_is_disabled() {
    for database in both().await {
        let pool = database.pool.clone();
        let accounts = Accounts::new(pool);
        let groups = ["berth:admins".to_owned()];
        accounts.add("ann", PASSWORD, &groups).await.unwrap();
        let ann = accounts.check("ann", PASSWORD).await.unwrap();
        assert_eq!(ann.groups, groups);
        for (name, password) in [("ann", "wrong"), ("ben", PASSWORD), ("ann", ""), ("", "")] {
            let refused = accounts.check(name, password).await.unwrap_err();
            assert!(matches!(refused, AccountError::Refused), "{name} {password}: {refused}");
        }
        accounts.set_disabled("ann", true).await.unwrap();
        assert!(accounts.check("ann", PASSWORD).await.is_err());
        accounts.remove("ann").await.unwrap();
        assert!(matches!(accounts.remove("ann").await, Err(AccountError::Absent(_))));
        assert!(accounts.list().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn names_groups_and_passwords_are_checked() {
    for database in both().await {
        let pool = database.pool.clone();
        let accounts = Accounts::new(pool);
        for name in ["", "a b", "system:admin", "ann\n", "'; DROP TABLE accounts; --"] {
            let refused = accounts.add(name, PASSWORD, &[]).await.unwrap_err();
            assert!(matches!(refused, AccountError::Name(_)), "{name:?}: {refused}");
        }
        let masters = ["system:masters".to_owned()];
        let refused = accounts.add("ann", PASSWORD, &masters).await.unwrap_err();
        assert!(matches!(refused, AccountError::Group(_)), "{refused}");
        let refused = accounts.add("ann", "short", &[]).await.unwrap_err();
        assert!(matches!(refused, AccountError::Password), "{refused}");
        accounts.add("ann", PASSWORD, &[]).await.unwrap();
        let refused = accounts.add("ann", PASSWORD, &[]).await.unwrap_err();
        assert!(matches!(refused, AccountError::Exists(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_cookie_is_exchanged_and_the_one_before_betrays_a_thief() {
    let [idle, longest, rotate, grace] = TIMES;
    for database in both().await {
        let pool = database.pool.clone();
        let (accounts, sessions) = (Accounts::new(pool.clone()), Sessions::new(pool));
        accounts.add("ann", PASSWORD, &[]).await.unwrap();
        let begun = sessions.start_at("ann", HERE, 0).await.unwrap();
        assert!(sessions.find_at(&begun.token, rotate).await.unwrap().renewed.is_none());
        let at = rotate + 1;
        let renewed = sessions.find_at(&begun.token, at).await.unwrap().renewed.unwrap();
        let before = sessions.find_at(&begun.token, at + grace).await.unwrap();
        assert_eq!(before.account.name, "ann");
        assert!(before.renewed.is_none(), "the one before is not exchanged again");
        sessions.find_at(&renewed, at + grace).await.unwrap();
        assert!(sessions.find_at(&begun.token, at + grace + 1).await.is_err());
        assert!(sessions.find_at(&renewed, at + grace + 1).await.is_err(), "ended for both");

        let begun = sessions.start_at("ann", HERE, 0).await.unwrap();
        assert!(sessions.find_at(&begun.token, idle + 1).await.is_err(), "idle");
        let begun = sessions.start_at("ann", HERE, 0).await.unwrap();
        let mut token = begun.token;
        for at in (rotate + 1..longest).step_by((rotate + 1) as usize) {
            token = sessions.find_at(&token, at).await.unwrap().renewed.unwrap();
        }
        assert!(sessions.find_at(&token, longest + 1).await.is_err(), "too long");
        for forged in ["", "x", &"A".repeat(43), &"é".repeat(30)] {
            assert!(sessions.find_at(forged, 0).await.is_err(), "{forged}");
        }
    }
}

#[tokio::test]
async fn another_password_logs_everybody_out() {
    for database in both().await {
        let pool = database.pool.clone();
        let (accounts, sessions) = (Accounts::new(pool.clone()), Sessions::new(pool));
        accounts.add("ann", PASSWORD, &[]).await.unwrap();
        let begun = sessions.start("ann", HERE).await.unwrap();
        sessions.find(&begun.token).await.unwrap();
        accounts.set_password("ann", "another one entirely").await.unwrap();
        assert!(sessions.find(&begun.token).await.is_err());
    }
}

#[tokio::test]
async fn another_password_of_ones_own_leaves_the_session_that_chose_it() {
    for database in both().await {
        let pool = database.pool.clone();
        let (accounts, sessions) = (Accounts::new(pool.clone()), Sessions::new(pool));
        for name in ["ann", "ben"] {
            accounts.add(name, PASSWORD, &[]).await.unwrap();
        }
        assert_eq!(accounts.list().await.unwrap()[0].entered, None);
        let (here, elsewhere) = ("ann", "ann");
        let here = sessions.start(here, HERE).await.unwrap();
        let elsewhere = sessions.start(elsewhere, HERE).await.unwrap();
        let bens = sessions.start("ben", HERE).await.unwrap();
        let id = sessions.find(&here.token).await.unwrap().id;
        let listed = sessions.list("ann").await.unwrap();
        assert_eq!((listed.len(), listed[0].address.as_str()), (2, "127.0.0.1"));
        assert!(accounts.list().await.unwrap()[0].entered.is_some());
        let ben = sessions.list("ben").await.unwrap()[0].id.clone();
        assert!(!sessions.end_own("ann", &ben).await.unwrap(), "it is not hers");

        let next = "another one entirely";
        let no = accounts.replace_password("ann", "wrong", next, &id).await.unwrap_err();
        assert!(matches!(no, AccountError::Refused), "{no}");
        let no = accounts.replace_password("ann", PASSWORD, "short", &id).await.unwrap_err();
        assert!(matches!(no, AccountError::Password), "{no}");
        accounts.replace_password("ann", PASSWORD, next, &id).await.unwrap();
        sessions.find(&here.token).await.unwrap();
        assert!(sessions.find(&elsewhere.token).await.is_err(), "ended elsewhere");
        sessions.find(&bens.token).await.unwrap();
        assert!(accounts.check("ann", PASSWORD).await.is_err());
        accounts.check("ann", next).await.unwrap();
        accounts.enter("kim", "https://id", "1", &[]).await.unwrap();
        let no = accounts.replace_password("kim", "", next, &id).await.unwrap_err();
        assert!(matches!(no, AccountError::Refused), "{no}");
        let no = accounts.set_password("kim", next).await.unwrap_err();
        assert!(matches!(no, AccountError::Provider(_)), "{no}");
    }
}
