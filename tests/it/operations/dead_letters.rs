use serde_json::json;
use wasmill_tests::mill::{Mill, Way};

pub fn dead_letters_are_shown_redriven_and_dropped(way: Way) {
    let mill = Mill::start(way, "");
    for id in ["1", "2"] {
        mill.publish("faults.in", id, "reject", "why");
        mill.wait_settled("faults");
    }
    let letters = mill.json(&["dlq", "ls", "faults"]);
    let letter = &letters[0];
    let expected = [("class", "rejected"), ("stream", "faults.in"), ("handler", "faults")];
    expected.iter().for_each(|(name, value)| assert_eq!(letter[name], *value, "{letters:#}"));
    assert_eq!((&letter["event"]["id"], &letter["event"]["data"]), (&json!("1"), &json!("why")), "{letters:#}");
    let id = letter["id"].as_str().unwrap();
    assert_eq!(&mill.json(&["dlq", "show", "faults", id]), letter);
    // It dies again, as a letter of its own with the same original.
    assert_eq!(mill.json(&["dlq", "redrive", "faults", id])["redriven"], json!([id]));
    assert_eq!(mill.json(&["dlq", "redrive", "faults", id])["absent"], json!([id]));
    mill.wait_settled("faults");
    let again = mill.json(&["dlq", "ls", "faults"]);
    assert_eq!(again.as_array().unwrap().len(), 2, "{again:#}");
    assert_eq!(again[1]["original"], letter["original"], "{again:#}");
    assert_eq!((&again[1]["entry_id"], &again[1]["stream"]), (&letter["entry_id"], &letter["stream"]));
    let dropped = mill.json(&["dlq", "drop", "faults", "--all"]);
    assert_eq!(dropped["dropped"].as_array().unwrap().len(), 2);
    assert_eq!(mill.json(&["dlq", "ls"]), json!([]));
    assert!(mill.failure(1, &["dlq", "show", "faults", id]).contains("there is no dead letter"));
}

pub fn dead_letters_come_in_pages_of_bounded_size(way: Way) {
    let mill = Mill::start(way, "");
    let data = "x".repeat(60_000);
    for id in 0..40 {
        mill.publish("faults.in", &id.to_string(), "reject", &data);
    }
    mill.wait_settled("faults");
    let page = mill.http("GET", "/v1/handlers/faults/dead-letters?limit=1000", &[], b"").json();
    let on_page = page["dead_letters"].as_array().unwrap().len();
    assert!((1..40).contains(&on_page) && page["next"].is_string(), "{on_page} on one page");
    assert_eq!(mill.json(&["dlq", "ls"]).as_array().unwrap().len(), 40);
}

/// Those that die again meanwhile are not redriven again, however many pages there are.
#[test]
fn all_dead_letters_are_redriven_once() {
    let mill = Mill::start(Way::Redis, "");
    let count = 1200;
    let input = mill.dir().join("input");
    std::fs::write(&input, "{}\n".repeat(count)).unwrap();
    let mut send = mill.command(&["send", "faults.in", "reject", "--batch"]);
    assert!(send.stdin(std::fs::File::open(&input).unwrap()).output().unwrap().status.success());
    mill.wait_settled("faults");
    let letters = || mill.http("GET", "/v1/handlers/faults/dead-letters?limit=1000&brief=true", &[], b"").json();
    let page = letters();
    assert_eq!(page["dead_letters"].as_array().unwrap().len(), 1000);
    let letter = &page["dead_letters"][0];
    assert_eq!(
        (&letter["event"], &letter["original"], &letter["class"]),
        (&json!(null), &json!([]), &json!("rejected"))
    );
    let redriven = mill.json(&["dlq", "redrive", "faults", "--all"]);
    assert_eq!(redriven["redriven"].as_array().unwrap().len(), count);
    assert_eq!((&redriven["absent"], &redriven["refused"]), (&json!([]), &json!([])));
    mill.wait_settled("faults");
    let dropped = mill.json(&["dlq", "drop", "faults", "--all"]);
    assert_eq!(dropped["dropped"].as_array().unwrap().len(), count);
    assert_eq!(letters()["dead_letters"], json!([]));
}
