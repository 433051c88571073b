use super::*;
use crate::deploy::canary::Percent;

fn version(digest: &str) -> KnownVersion {
    KnownVersion {
        digest: digest.into(),
        size: 1,
        deployed_ms: 10,
        by: "me".into(),
        source: "x.wasm".into(),
        signature: None,
    }
}

fn said(rollout: &str, states: &[(&str, Preparation)]) -> BTreeMap<String, Progress> {
    let progress = |state: &Preparation| Progress { rollout: rollout.to_owned(), state: state.clone() };
    states.iter().map(|(worker, state)| ((*worker).to_owned(), progress(state))).collect()
}

fn until(until_ms: u64) -> Terms {
    Terms { until_ms, canary: None, smoke: None }
}

fn begun(digest: &str) -> Record {
    Record::default().begin(version(digest), "r".into(), until(100)).expect("nothing is going on")
}

fn percent(text: &str) -> Percent {
    text.parse().expect("a percentage")
}

/// A rollout that has begun at 10 and may take until 100, with 1000 on a twentieth of the events.
fn begun_canary() -> Record {
    let canary =
        Canary { share: percent("5%"), promote_after_ms: 1000, max_error_rate: percent("1%"), since_ms: Some(7) };
    let record = Record { current: Some("old".into()), ..Record::default() };
    let terms = Terms { until_ms: 100, canary: Some(canary), smoke: None };
    record.begin(version("a"), "r".into(), terms).expect("nothing is going on")
}

/// The same where both workers have been prepared at 50.
fn running_canary() -> Record {
    let states = [("1", Preparation::Prepared), ("2", Preparation::Prepared)];
    begun_canary().advance(&["1", "2"], &said("r", &states), 50).expect("all are prepared")
}

fn tally(acked: u64, failed: u64) -> Preparation {
    Preparation::Canary(Tally { acked, failed })
}

fn why(record: Option<Record>) -> Option<String> {
    record.and_then(|record| record.last).and_then(|last| last.failed)
}

#[test]
fn a_signature_that_is_known_stays_unless_another_one_comes() {
    let signed = |signature: Option<&str>| KnownVersion { signature: signature.map(str::to_owned), ..version("a") };
    let mut record = Record::default();
    for (comes, is_kept) in [(None, None), (Some("s"), Some("s")), (None, Some("s")), (Some("t"), Some("t"))] {
        let begun = record.begin(signed(comes), "r".into(), until(100)).expect("nothing is going on");
        assert_eq!(begun.versions[0].signature.as_deref(), is_kept);
        record = begun.end(20, Some("no".into()));
    }
}

#[test]
fn it_serves_when_every_worker_is_prepared_and_not_before() {
    let record = begun("a");
    let (ready, not) = (Preparation::Prepared, Preparation::Preparing);
    assert_eq!(record.advance(&["1", "2"], &said("r", &[("1", ready.clone()), ("2", not)]), 50), None);
    assert_eq!(record.advance(&["1", "2"], &said("r", &[("1", ready.clone())]), 50), None);
    // What was said of another rollout says nothing about this one.
    assert_eq!(record.advance(&["1"], &said("q", &[("1", ready.clone())]), 50), None);
    // A worker that has gone is not waited for.
    let next = record.advance(&["1"], &said("r", &[("1", ready)]), 50).expect("all are prepared");
    assert_eq!((next.current.as_deref(), &next.rollout), (Some("a"), &None));
    assert_eq!(next.last.map(|last| (last.id, last.failed)), Some(("r".to_owned(), None)));
}

#[test]
fn one_that_cannot_ends_it_and_the_old_version_stays() {
    let record = Record { current: Some("old".into()), ..Record::default() };
    let record = record.begin(version("a"), "r".into(), until(100)).expect("nothing is going on");
    let states = [("1", Preparation::Prepared), ("2", Preparation::Failed("no export".into()))];
    let next = record.advance(&["1", "2"], &said("r", &states), 50).expect("it has ended");
    assert_eq!(next.current.as_deref(), Some("old"));
    assert_eq!(next.last.and_then(|last| last.failed).as_deref(), Some("2: no export"));
}

#[test]
fn it_is_given_up_at_its_end_and_says_for_whom_it_waited() {
    let record = begun("a");
    let nobody = BTreeMap::new();
    assert_eq!(record.advance(&["1"], &nobody, 99), None);
    let late = record.advance(&["1"], &nobody, 100).expect("its time is over");
    assert_eq!(late.last.and_then(|last| last.failed).as_deref(), Some("not prepared in time: 1"));
    assert_eq!(late.current, None);
    assert_eq!(record.advance(&[], &nobody, 99), None);
    assert!(record.advance(&[], &nobody, 100).is_some_and(|next| next.rollout.is_none()));
    assert_eq!(Record::default().advance(&["1"], &nobody, 1000), None);
}

#[test]
fn a_canary_begins_when_all_are_prepared_and_serves_at_its_time() {
    let record = running_canary();
    let since = |record: &Record| record.rollout.as_ref().and_then(|rollout| rollout.canary?.since_ms);
    assert_eq!((since(&begun_canary()), since(&record), record.current.as_deref()), (None, Some(50), Some("old")));
    // Nothing of what is prepared or said makes it earlier.
    let good = said("r", &[("1", tally(60, 0)), ("2", tally(40, 1))]);
    assert_eq!(record.advance(&["1", "2"], &good, 1049), None);
    let next = record.advance(&["1", "2"], &good, 1050).expect("its time has come");
    assert_eq!((next.current.as_deref(), next.previous.as_deref()), (Some("a"), Some("old")));
    assert_eq!((next.rollout.clone(), why(Some(next))), (None, None));
}

#[test]
fn a_canary_that_fails_too_often_ends_at_once_and_the_old_version_stays() {
    let record = running_canary();
    let bad = said("r", &[("1", tally(18, 0)), ("2", tally(1, 1))]);
    let next = record.advance(&["1", "2"], &bad, 60).expect("it has failed");
    assert_eq!((next.current.as_deref(), &next.rollout), (Some("old"), &None));
    assert_eq!(why(Some(next)).as_deref(), Some("5% of 20 deliveries failed, 1% is allowed"));
    // A worker that is gone has said what happened all the same; of another rollout it says nothing.
    assert!(why(record.advance(&["1"], &bad, 60)).is_some());
    assert_eq!(record.advance(&["1", "2"], &said("q", &[("1", tally(0, 100))]), 60), None);
}

#[test]
fn a_canary_that_ran_too_little_is_not_promoted() {
    let next = running_canary().advance(&["1", "2"], &said("r", &[("1", tally(19, 0)), ("2", tally(0, 0))]), 1050);
    assert!(why(next.clone()).is_some_and(|why| why.starts_with("only 19 deliveries")), "{next:?}");
    assert_eq!(next.and_then(|next| next.current).as_deref(), Some("old"));
}

#[test]
fn a_canary_waits_for_those_who_come_late_but_not_for_ever() {
    let record = running_canary();
    let states = [("1", tally(100, 0)), ("2", tally(100, 0)), ("3", Preparation::Preparing)];
    let workers = ["1", "2", "3"];
    assert_eq!(record.advance(&workers, &said("r", &states), 1050), None);
    assert_eq!(record.advance(&workers, &said("r", &states), 1139), None);
    let late = why(record.advance(&workers, &said("r", &states), 1140));
    assert_eq!(late.as_deref(), Some("not prepared in time: 3"));
    let states = [("1", tally(100, 0)), ("3", Preparation::Prepared)];
    let next = record.advance(&["1", "3"], &said("r", &states), 1050).expect("all can switch");
    assert_eq!(next.current.as_deref(), Some("a"));
    let failed = said("r", &[("1", tally(100, 0)), ("3", Preparation::Failed("no".into()))]);
    assert_eq!(why(record.advance(&["1", "3"], &failed, 60)).as_deref(), Some("3: no"));
    let nobody = why(record.advance(&[], &said("r", &[("1", tally(100, 0))]), 1140));
    assert_eq!(nobody.as_deref(), Some("no worker serves the handler"));
}

#[test]
fn a_rollout_can_be_cancelled_at_any_time() {
    for record in [begun("a"), begun_canary(), running_canary()] {
        let next = record.cancel("me", 70).expect("it goes on");
        assert_eq!((&next.current, &next.rollout), (&record.current, &None));
        assert!(next.last.as_ref().is_some_and(|last| last.cancelled));
        assert_eq!(why(Some(next.clone())).as_deref(), Some("cancelled by me"));
        assert_eq!(next.cancel("me", 71), None);
        assert!(record.wants("a") && !next.wants("a"));
    }
}

#[test]
fn only_one_at_a_time_and_nothing_twice() {
    let record = begun("a");
    assert!(matches!(record.begin(version("b"), "s".into(), until(9)), Err(CannotBegin::Busy { .. })));
    let serving = record.end(20, None);
    assert_eq!(serving.begin(version("a"), "s".into(), until(9)), Err(CannotBegin::Serves("a".into())));
    let back = serving.begin(version("b"), "s".into(), until(9)).expect("another one").end(30, None);
    assert_eq!((back.current.as_deref(), back.previous.as_deref()), (Some("b"), Some("a")));
}

#[test]
fn old_versions_are_forgotten_but_not_those_in_use() {
    let mut record = begun("first").end(20, None);
    for number in 0..MAX_VERSIONS {
        let digest = format!("{number:064x}");
        record = record
            .begin(version(&digest), "r".into(), until(9))
            .expect("one after the other")
            .end(20, Some("no".into()));
    }
    assert_eq!(record.versions.len(), MAX_VERSIONS + 1);
    assert!(record.find("first").is_some());
    record = record.begin(version("last"), "r".into(), until(9)).expect("one after the other");
    assert_eq!(record.versions.len(), MAX_VERSIONS + 1);
    assert!(record.find(&format!("{:064x}", 0)).is_none() && record.find("sha256:last").is_some());
}

#[test]
fn pins_last_a_day_and_are_few() {
    let mut record = begun("first");
    for number in 0..MAX_PINS {
        record = record.pin(&number.to_string(), "me", 10 + number as u64).expect("room for another");
    }
    let refused = record.pin("more", "me", 20).expect_err("one more").to_string();
    assert!(refused.contains("0, 1, 2, 3"), "{refused}");
    let renewed = record.pin("0", "you", 20).expect("it is pinned already");
    assert_eq!(renewed.pins["0"], Pin { until_ms: 20 + PIN_MS, by: "you".into() });
    assert_eq!(record.without_old_pins(9 + PIN_MS), None);
    let later = record.without_old_pins(10 + PIN_MS).expect("one is over");
    assert!(!later.wants("0") && later.wants("1"));
    assert!(record.pin("more", "me", 10 + PIN_MS).is_ok_and(|record| record.pins.len() == MAX_PINS));
    assert!(record.unpin("0").pin("more", "me", 20).is_ok_and(|record| !record.wants("0")));
    // A rollout does not touch them, and what is pinned is not forgotten.
    let mut ended = begun("a").pin("a", "me", 20).expect("room").end(30, Some("no".into()));
    for number in 0..MAX_VERSIONS {
        ended = ended
            .begin(version(&format!("{number:064x}")), "r".into(), until(9))
            .expect("free")
            .end(20, Some("no".into()));
    }
    assert!(ended.find("a").is_some() && Record::parse(&ended.text()).ok() == Some(ended));
}

#[test]
fn digests_may_be_shortened_if_that_is_clear() {
    let mut record = begun("abc1");
    record.versions.push(version("abd2"));
    assert_eq!(record.find("abc").map(|version| version.digest.as_str()), Some("abc1"));
    assert!(record.find("ab").is_none() && record.find("").is_none() && record.find("x").is_none());
}

#[test]
fn records_survive_their_text_and_old_ones_may_lack_fields() {
    let record = begun("a").end(20, Some("why".into()));
    assert_eq!(Record::parse(&record.text()).ok(), Some(record));
    let record = running_canary();
    assert_eq!(Record::parse(&record.text()).ok(), Some(record));
    let old = r#"{"rollout":{"id":"r","digest":"a","by":"","started_ms":1,"until_ms":2}}"#;
    assert!(Record::parse(old).is_ok_and(|record| record.rollout.is_some_and(|rollout| rollout.canary.is_none())));
    assert_eq!(Record::parse("{}").ok(), Some(Record::default()));
    assert!(Record::parse("1").is_err());
}

#[test]
fn rollouts_that_began_are_remembered_for_a_minute() {
    let at = |record: &Record, deployed_ms: u64| {
        let begun = record.begin(KnownVersion { deployed_ms, ..version("a") }, "r".into(), until(100));
        Record { rollout: None, ..begun.expect("nothing is going on") }
    };
    let record = at(&at(&Record::default(), 10), 20);
    assert_eq!(record.begun_since(9).collect::<Vec<_>>(), [10, 20]);
    assert_eq!(record.begun_since(10).count(), 1);
    assert_eq!(at(&record, BEGUN_MS + 9).begun_ms, [10, 20, BEGUN_MS + 9]);
    assert_eq!(at(&record, BEGUN_MS + 10).begun_ms, [20, BEGUN_MS + 10]);
    let many = (0..2 * MAX_BEGUN as u64).fold(Record::default(), |record, ms| at(&record, ms));
    assert_eq!(many.begun_ms.len(), MAX_BEGUN);
}

#[test]
fn why_a_rollout_failed_is_one_line_of_bounded_text() {
    let why = format!("smoke test x\n2026 ERROR \u{1b}[2J\u{202e}{}", "y".repeat(MAX_TEXT));
    let why = begun("a").end(20, Some(why)).last.and_then(|last| last.failed).expect("it failed");
    assert!(why.starts_with("smoke test x 2026 ERROR  [2J yyy"), "{why}");
    assert_eq!(why.len(), MAX_TEXT);
}
