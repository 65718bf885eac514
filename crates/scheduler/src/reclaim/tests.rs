//! What is lent and taken back, as tables.

use super::*;

const GIB: i64 = 1 << 30;

fn amount(cpu: i64, gib: i64) -> Amount {
    Amount { cpu: Millicores(cpu), memory: Bytes(gib * GIB) }
}

fn pool(hours: &str) -> Pool {
    Pool { hours: Hours::try_from(hours.to_owned()).unwrap(), ..Pool::default() }
}

fn rules(pool: Pool) -> Rules {
    Rules { pools: vec![pool], evictions_per_minute: 60 }
}

/// Ten cores, 100 GiB.
fn node(cpu: i64, gib: i64) -> View {
    View {
        name: "n".to_owned(),
        room: amount(10_000, 100),
        open: true,
        used: Some(amount(cpu, gib)),
        ..View::default()
    }
}

fn batch(name: &str, priority: i32, created: i64, used: Amount) -> BatchPod {
    BatchPod {
        namespace: "night".to_owned(),
        name: name.to_owned(),
        uid: name.to_owned(),
        priority,
        created,
        asked: used,
        used: Some(used),
        terminating: false,
    }
}

/// Looks every ten seconds from `from` to `to`; what is offered is what was planned last.
fn follow(
    own: &mut Reclaimer,
    rules: &Rules,
    view: &mut View,
    (from, to): (i64, i64),
    minute: u16,
) -> Vec<(i64, Option<Amount>)> {
    let mut changes = Vec::new();
    for now in (from..=to).step_by(10) {
        for (_, offer) in own.plan(rules, std::slice::from_ref(view), now, |_| minute).offers {
            view.offered = offer;
            changes.push((now, offer));
        }
    }
    changes
}

#[test]
fn hours_go_over_midnight() {
    fn check(hours: &str, minute: u16, expected: u16) {
        let hours = Hours::try_from(hours.to_owned()).unwrap();
        assert_eq!(hours.left(minute), expected, "{hours:?} {minute}");
    }
    check("22:00-07:00", 21 * 60 + 59, 0);
    check("22:00-07:00", 22 * 60, 540);
    check("22:00-07:00", 0, 420);
    check("22:00-07:00", 7 * 60 - 1, 1);
    check("22:00-07:00", 7 * 60, 0);
    check("01:30-03:00", 100, 80);
    check("01:30-03:00", 0, 0);
    check("00:00-24:00", 700, u16::MAX);
    for wrong in ["", "22-7", "25:00-07:00", "22:60-07:00", "22:00", "a:b-c:d", "24:01-03:00"] {
        assert!(Hours::try_from(wrong.to_owned()).is_err(), "{wrong}");
    }
}

#[test]
fn rules_that_cannot_be_meant_are_refused_by_key() {
    fn check(text: &str, expected: &str) {
        let read = serde_json::from_str::<Rules>(text).map_err(|error| error.to_string());
        let found = read.and_then(|rules| rules.validate().map_err(|error| error.to_string()));
        assert!(found.unwrap_err().contains(expected), "{text}");
    }
    assert_eq!(serde_json::from_str::<Rules>("{}").unwrap().validate(), Ok(Rules::default()));
    check(r#"{"pool": []}"#, "unknown field `pool`");
    check(r#"{"pools": [{"hours": "night"}]}"#, "hours are `night`");
    check(r#"{"pools": [{"ceiling": 0}]}"#, "ceiling is 0");
    check(r#"{"pools": [{}, {"ceiling": 90}]}"#, "pool 2: evictAbove is 80");
    check(r#"{"evictionsPerMinute": 0}"#, "evictionsPerMinute");
    check(r#"{"pools": [{"margin": 101}]}"#, "margin is 101");
}

#[test]
fn what_is_left_below_the_ceiling_is_offered_after_a_quiet_while() {
    let (mut own, rules) = (Reclaimer::default(), rules(pool("22:00-07:00")));
    let mut view = node(2000, 20);
    let changes = follow(&mut own, &rules, &mut view, (0, 600), 23 * 60);
    // 65 % of ten cores less 1.15 × 2, in steps of half a core; 80 GiB less 23.
    assert_eq!(changes, [(0, Some(amount(0, 0))), (300, Some(amount(4000, 55)))]);
    // Online grows: less at once.
    view.used = Some(amount(4000, 20));
    let changes = follow(&mut own, &rules, &mut view, (610, 700), 23 * 60);
    assert_eq!(changes, [(610, Some(amount(1500, 55)))]);
    // It falls: not before the peak is forgotten.
    view.used = Some(amount(2000, 20));
    let changes = follow(&mut own, &rules, &mut view, (710, 1200), 23 * 60);
    assert_eq!(changes, [(1010, Some(amount(4000, 55)))]);
    // Shortly before the end, and after it, nothing.
    assert_eq!(follow(&mut own, &rules, &mut view, (1210, 1210), 6 * 60 + 44), []);
    let changes = follow(&mut own, &rules, &mut view, (1220, 1300), 6 * 60 + 45);
    assert_eq!(changes, [(1220, Some(amount(0, 0)))]);
}

#[test]
fn offers_do_not_swing_with_small_changes() {
    let (mut own, rules) = (Reclaimer::default(), rules(pool("00:00-24:00")));
    let mut view = node(2000, 20);
    follow(&mut own, &rules, &mut view, (0, 400), 0);
    let mut changes = 0;
    for step in 0..200 {
        let now = 410 + step * 310;
        // Around an edge: 4,000 ± 60 thousandths are left.
        view.used = Some(amount(2160 + if step % 2 == 0 { 50 } else { -50 }, 20));
        changes += follow(&mut own, &rules, &mut view, (now, now + 300), 0).len();
    }
    assert!(changes <= 2, "{changes}");
}

#[test]
fn nothing_is_offered_that_is_not_known_or_not_there() {
    fn check(change: impl Fn(&mut View), rules: &Rules, minute: u16, expected: Option<Amount>) {
        let mut own = Reclaimer::default();
        let mut view = node(1000, 10);
        view.offered = Some(amount(3000, 30));
        view.batch = vec![batch("a", 0, 0, amount(100, 1))];
        change(&mut view);
        let plan = own.plan(rules, &[view], 0, |_| minute);
        assert_eq!(plan.offers, [("n".to_owned(), expected)]);
    }
    let open = rules(pool("00:00-24:00"));
    check(|view| view.used = None, &open, 0, Some(Amount::default()));
    check(|view| view.open = false, &open, 0, Some(Amount::default()));
    check(|_| (), &rules(pool("22:00-07:00")), 12 * 60, Some(Amount::default()));
    check(|_| (), &Rules::default(), 0, None);
    let mut others = pool("00:00-24:00");
    others.node_selector.insert("pool".to_owned(), "night".to_owned());
    check(|_| (), &rules(others), 0, None);
}

#[test]
fn the_least_important_and_youngest_go_until_it_is_enough() {
    fn check(used: Amount, looks: i64, change: impl Fn(&mut View), expected: &[&str]) {
        let (mut own, rules) = (Reclaimer::default(), rules(pool("00:00-24:00")));
        let mut view = node(0, 0);
        view.used = Some(used);
        view.batch = vec![
            batch("old", 0, 100, amount(1000, 10)),
            batch("young", 0, 200, amount(1000, 10)),
            batch("high", 5, 300, amount(1000, 10)),
        ];
        change(&mut view);
        let mut found = Vec::new();
        for look in 0..looks {
            view.measured = look * 10;
            let views = std::slice::from_ref(&view);
            found = own.plan(&rules, views, look * 10, |_| 0).evictions;
        }
        assert!(found.iter().all(|each| each.why == Why::Pressure));
        let names: Vec<&str> = found.iter().map(|each| each.name.as_str()).collect();
        assert_eq!(names, expected, "{used:?}");
    }
    // CPU yields by itself for a look; the line is at 80 %, they go until 65.
    check(amount(8100, 10), 1, |_| (), &[]);
    check(amount(8100, 10), 2, |_| (), &["young", "old"]);
    check(amount(7400, 10), 2, |_| (), &[]);
    check(amount(8000, 10), 9, |_| (), &[]);
    check(amount(9900, 10), 2, |_| (), &["young", "old", "high"]);
    // Memory does not yield.
    check(amount(100, 89), 1, |_| (), &[]);
    check(amount(100, 91), 1, |_| (), &["young", "old"]);
    // Those that go already count, those that use nothing of it do not help.
    check(amount(8100, 10), 2, |view| view.batch[1].terminating = true, &["old"]);
    check(amount(8100, 10), 2, |view| view.batch[1].used = Some(amount(0, 1)), &["old", "high"]);
    // Nobody goes for what is not known.
    check(amount(9900, 99), 3, |view| view.used = None, &[]);
}

#[test]
fn the_same_measurement_twice_is_one() {
    let (mut own, rules) = (Reclaimer::default(), rules(pool("00:00-24:00")));
    let mut view = node(9000, 10);
    view.batch = vec![batch("a", 0, 0, amount(3000, 1))];
    for now in [0, 10, 20] {
        assert_eq!(own.plan(&rules, std::slice::from_ref(&view), now, |_| 0).evictions, []);
    }
    view.measured = 25;
    assert_eq!(own.plan(&rules, &[view], 30, |_| 0).evictions.len(), 1);
}

#[test]
fn when_the_hours_are_over_all_go_at_a_limited_rate_and_budgets_are_passed_over() {
    let mut rules = rules(pool("22:00-07:00"));
    rules.evictions_per_minute = 12;
    let mut own = Reclaimer::default();
    let mut view = node(1000, 10);
    view.batch =
        (0..6).map(|at| batch(&format!("p{at}"), 0, at, amount(100, 1))).collect::<Vec<_>>();
    let mut gone = Vec::new();
    let mut counts = Vec::new();
    for now in (0..60).step_by(10) {
        let plan = own.plan(&rules, std::slice::from_ref(&view), now, |_| 7 * 60);
        counts.push(plan.evictions.len());
        for each in plan.evictions {
            assert_eq!(each.why, Why::Over);
            if each.name == "p3" && now < 30 {
                own.refused(&each.uid, now);
            } else {
                view.batch.retain(|pod| pod.uid != each.uid);
                gone.push(each.name);
            }
        }
    }
    assert_eq!(gone, ["p5", "p4", "p2", "p1", "p0", "p3"]);
    assert!(counts.iter().all(|count| *count <= 2), "{counts:?}");
}

#[test]
fn a_clock_that_jumps_back_begins_anew() {
    let (mut own, rules) = (Reclaimer::default(), rules(pool("00:00-24:00")));
    let mut view = node(2000, 20);
    follow(&mut own, &rules, &mut view, (100_000, 100_400), 0);
    let before = view.offered;
    let changes = follow(&mut own, &rules, &mut view, (0, 200), 0);
    assert_eq!((changes, view.offered), (vec![], before), "nothing is raised for the jump");
}
