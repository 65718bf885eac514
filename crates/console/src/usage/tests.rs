//! The same on SQLite and on a PostgreSQL.

use super::tally::Seen;
use super::*;
use crate::database::both::both;

/// An hour long after 1970.
const NOW: i64 = 480_000;

fn pod(namespace: &str, app: &str, cpu: [i64; 2], mib: [i64; 2]) -> Seen {
    let amount = |index: usize| Amount { cpu: cpu[index], memory: mib[index] << 20 };
    Seen {
        namespace: namespace.into(),
        app: app.into(),
        node: "n".into(),
        requested: amount(0),
        used: amount(1),
    }
}

/// `minutes` samples in which web uses 100 m but for every tenth, when it is 900 m.
fn tally(minutes: i64) -> Tally {
    let mut tally = Tally::default();
    for minute in 0..minutes {
        let used = if minute % 10 == 0 { 900 } else { 100 };
        tally.sample([
            pod("shop", "web", [1000, used], [1024, 512]),
            pod("shop", "", [0, 10], [0, 64]),
            pod("bank", "ledger", [500, 500], [512, 512]),
        ]);
    }
    tally
}

fn period(by: By) -> Period {
    Period { by, from: Some((NOW - 1) * HOUR), to: Some(NOW * HOUR), ..Period::default() }
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < b.abs() * 0.06 + 1e-9
}

#[tokio::test]
async fn a_minute_is_the_sum_of_all_and_goes_after_a_day() {
    for database in both().await {
        let usage = Usage::new(database.pool.clone());
        let this = now() / MINUTE;
        let seen = [pod("shop", "web", [1000, 100], [64, 32]), pod("bank", "", [500, 1], [1, 2])];
        for minute in [this - 24 * 60 - 1, this, this - 1] {
            usage.keep(minute, &seen).await.unwrap();
        }
        // Another console came late.
        usage.keep(this, &[]).await.unwrap();
        let minutes = usage.minutes().await.unwrap();
        let times: Vec<i64> = minutes.iter().map(|one| one.at / MINUTE).collect();
        assert_eq!(times, [this - 1, this]);
        let Minute { requested, used, .. } = minutes[1];
        assert_eq!((requested.cpu, used.cpu), (1500, 101));
        assert_eq!((requested.memory >> 20, used.memory >> 20), (65, 34));
        usage.prune(now()).await.unwrap();
        let left: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM usage_minutes")
            .fetch_one(&database.pool)
            .await
            .unwrap();
        assert_eq!(left, 2);
    }
}

#[tokio::test]
async fn hours_of_several_writers_add_up() {
    for database in both().await {
        let usage = Usage::new(database.pool.clone());
        // Twice: the second takes the place of the first.
        usage.write(NOW, "one", &tally(10)).await.unwrap();
        usage.write(NOW, "one", &tally(20)).await.unwrap();
        usage.write(NOW, "two", &tally(40)).await.unwrap();
        usage.write(NOW - 1, "one", &tally(60)).await.unwrap();
        usage.write(NOW - 2, "one", &tally(60)).await.unwrap();
        usage.write(NOW + 1, "one", &tally(60)).await.unwrap();

        let rows = usage.report(&period(By::App)).await.unwrap();
        let names: Vec<_> = rows.iter().map(|row| (&*row.namespace, &*row.app)).collect();
        assert_eq!(names, [("shop", "web"), ("bank", "ledger"), ("shop", "")]);
        let web = &rows[0];
        assert!(near(web.hours, 2.0), "{web:?}");
        assert!(near(web.cpu.requested, 1.0) && near(web.cpu.used, 0.18), "{web:?}");
        assert!(near(web.cpu.p95, 0.9), "{web:?}");
        assert!(near(web.cpu.idle.unwrap(), 0.82) && near(web.cpu.requested_hours, 2.0));
        assert!(near(web.memory.used, 0.5) && near(web.memory.used_hours, 1.0), "{web:?}");
        assert_eq!(rows[2].cpu.idle, None, "nothing was asked for");

        let rows = usage.report(&period(By::Namespace)).await.unwrap();
        assert_eq!(rows.len(), 2);
        assert!(near(rows[0].cpu.used_hours, 0.38), "{rows:?}");
        let cluster = usage.report(&period(By::Cluster)).await.unwrap();
        assert_eq!(cluster.len(), 1);
        assert!(near(cluster[0].cpu.requested, 1.5), "{cluster:?}");
        let one = Period { namespace: "bank".to_owned(), ..period(By::App) };
        let rows = usage.report(&one).await.unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].cpu.idle, Some(0.0));
    }
}

#[tokio::test]
async fn a_minute_is_taken_once_and_old_hours_go() {
    for database in both().await {
        let usage = Usage::new(database.pool.clone());
        assert!(usage.claim(7).await.unwrap());
        assert!(!usage.claim(7).await.unwrap());
        assert!(usage.claim(8).await.unwrap());
        usage.write(NOW, "one", &tally(1)).await.unwrap();
        usage.prune((NOW + 1) * HOUR).await.unwrap();
        assert_eq!(usage.report(&period(By::Cluster)).await.unwrap().len(), 1);
        assert!(usage.claim(7).await.unwrap(), "forgotten");
        usage.prune((NOW + 94 * 24) * HOUR).await.unwrap();
        assert!(usage.report(&period(By::Cluster)).await.unwrap().is_empty());
    }
}

#[test]
fn a_spreadsheet_reads_it() {
    let mut tally = tally(60);
    let (_, sums) = tally.sums.pop_last().unwrap();
    let text = csv(&[told("shop".to_owned(), "web".to_owned(), &sums)]);
    let lines: Vec<&str> = text.split("\r\n").collect();
    let columns = lines[0].split(',').count();
    assert_eq!((columns, lines[1].split(',').count(), lines[2]), (15, 15, ""));
    assert!(lines[1].starts_with("shop,web,1.00,1.0000,0.1800,0."), "{text}");
}

#[test]
fn a_silent_period_is_the_last_week() {
    let (from, to) = Period::default().bounds(NOW * HOUR + 5);
    assert_eq!((from, to), (NOW - 7 * 24, NOW));
}
