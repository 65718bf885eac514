//! The same on SQLite and on a PostgreSQL.

use super::*;
use crate::database::both::both;

fn change(version: &str, at: i64, before: i64, after: i64) -> Change {
    Change {
        namespace: "shop".to_owned(),
        app: "web".to_owned(),
        version: version.to_owned(),
        at,
        before,
        after,
        writer: Writer::default(),
        live: false,
    }
}

#[tokio::test]
async fn changes_are_kept_once_and_the_newest_comes_first() {
    for database in both().await {
        let scalings = Scalings { pool: database.pool.clone() };
        assert_eq!(scalings.last("shop", "web").await.unwrap(), UNKNOWN);
        let time = now();
        scalings.keep(&change("1", time - 20, UNKNOWN, 2), "ann", "").await.unwrap();
        scalings.keep(&change("2", time - 10, 2, 5), "autoscaler", "cpu 91 %").await.unwrap();
        // Another console saw it too.
        scalings.keep(&change("2", time - 9, 2, 5), "somebody", "").await.unwrap();
        let old = time - KEPT.as_millis() as i64 - 1;
        scalings.keep(&change("0", old, UNKNOWN, 9), "bob", "").await.unwrap();
        scalings.prune(time).await.unwrap();
        let all = scalings.list("shop", "web").await.unwrap();
        let said: Vec<_> = all.iter().map(|one| (one.before, one.after, &*one.who)).collect();
        assert_eq!(said, [(2, 5, "autoscaler"), (UNKNOWN, 2, "ann")]);
        assert_eq!(scalings.last("shop", "web").await.unwrap(), 5);
        assert!(scalings.list("shop", "other").await.unwrap().is_empty());
    }
}
