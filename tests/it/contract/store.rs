//! Components and records that all workers see.

use futures::future::join_all;

use wasmill::audit::max_lines;
use wasmill::broker::keys::{DEFAULT_TENANT, audit};

use super::fixture::{Fixture, fields};

const DIGEST: &str = "ab12";

pub async fn a_component_is_kept_until_it_is_removed(f: &Fixture) {
    let store = f.store();
    assert_eq!(store.component(DIGEST).await.expect("an answer"), None);
    let bytes: Vec<u8> = (0..=255u8).cycle().take(1 << 20).collect();
    for _ in 0..2 {
        store.put_component(DIGEST, &bytes).await.expect("it is kept");
    }
    assert_eq!(store.component(DIGEST).await.expect("an answer").as_ref(), Some(&bytes));
    let listed = store.components().await.expect("an answer");
    assert_eq!(listed.into_iter().collect::<Vec<_>>(), [(DIGEST.to_owned(), 1 << 20)]);
    assert!(store.remove_component(DIGEST).await.expect("it is removed"));
    assert!(!store.remove_component(DIGEST).await.expect("an answer"));
    assert_eq!(store.component(DIGEST).await.expect("an answer"), None);
    assert!(store.components().await.expect("an answer").is_empty());
}

pub async fn whoever_follows_records_sees_by_a_number_that_one_has_changed(f: &Fixture) {
    let store = f.store();
    let mut known = store.records_revision().await.expect("an answer");
    for (handler, before, after, changes) in
        [("h", None, "1", true), ("other", None, "1", true), ("h", Some("0"), "2", false), ("h", Some("1"), "2", true)]
    {
        assert_eq!(store.change_record(handler, before, after).await.expect("an answer"), changes);
        let revision = store.records_revision().await.expect("an answer");
        assert_eq!(revision != known, changes, "{handler} {before:?} -> {after}");
        known = revision;
    }
}

pub async fn a_record_changes_only_from_what_was_seen(f: &Fixture) {
    let store = f.store();
    assert!(store.change_record("h", None, "1").await.expect("an answer"));
    assert!(!store.change_record("h", None, "2").await.expect("an answer"));
    assert!(!store.change_record("h", Some("0"), "2").await.expect("an answer"));
    assert!(store.change_record("h", Some("1"), "2").await.expect("an answer"));
    assert!(store.change_record("other", None, "x").await.expect("an answer"));
    let records = store.records().await.expect("an answer");
    assert_eq!((records["h"].as_str(), records["other"].as_str(), records.len()), ("2", "x", 2));
    // Of many who saw the same, one changes it.
    let texts: Vec<String> = (0..20).map(|number| format!("by {number}")).collect();
    let changed = join_all(texts.iter().map(|text| store.change_record("h", Some("2"), text))).await;
    assert_eq!(changed.into_iter().filter(|changed| matches!(changed, Ok(true))).count(), 1);
}

pub async fn reports_are_replaced_and_forgotten_by_worker(f: &Fixture) {
    let store = f.store();
    for (worker, report) in [("a", "1"), ("b", "1"), ("a", "2")] {
        store.report("h", worker, report).await.expect("it is noted");
    }
    let reports = store.reports("h").await.expect("an answer");
    assert_eq!((reports["a"].as_str(), reports["b"].as_str(), reports.len()), ("2", "1", 2));
    assert!(store.reports("other").await.expect("an answer").is_empty());
    store.forget_reports("h", &[]).await.expect("an answer");
    store.forget_reports("h", &["a".to_owned(), "nobody".to_owned()]).await.expect("it is forgotten");
    assert_eq!(store.reports("h").await.expect("an answer").into_keys().collect::<Vec<_>>(), ["b"]);
    let (earlier, later) = (store.time_ms().await.expect("a time"), store.time_ms().await.expect("a time"));
    assert!(earlier > 1_700_000_000_000 && later >= earlier);
}

pub async fn each_audit_log_keeps_its_newest_lines(f: &Fixture) {
    const MORE: usize = 500;
    let write = async |tenant: &str, verb: usize| {
        let line = fields(&[(b"verb", verb.to_string().as_bytes())]);
        f.store().write_audit(tenant, &line).await.expect("it is written")
    };
    write("quiet", 7).await;
    for tenant in ["acme", DEFAULT_TENANT] {
        let (most, mut last) = (max_lines(tenant), None);
        for number in 0..most + MORE {
            let id = Some(write(tenant, number).await);
            assert!(last < id, "ids ascend");
            last = id;
        }
        let lines = f.all(&audit(tenant)).await;
        // Redis removes whole nodes of a hundred entries.
        assert!((most..most + 200).contains(&lines.len()), "{tenant}: {}", lines.len());
        let newest = lines.last().expect("there are lines");
        assert_eq!(newest.fields, fields(&[(b"verb", (most + MORE - 1).to_string().as_bytes())]));
        assert_eq!(Some(newest.id), last);
    }
    assert_eq!(f.all(&audit("quiet")).await.len(), 1);
}
