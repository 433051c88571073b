//! Guests that were made to do harm: each ends in a typed outcome that is counted, and the worker goes on as before.

mod names;
mod neighbours;
mod quotas;

use std::time::Duration;

use wasmill_tests::eventually;
use wasmill_tests::worker::Signal;

use super::faults::{Mill, text};

const DEADLINE: Duration = Duration::from_secs(30);
/// What the handlers may use.
const LIMITS: &str = "[handlers.faults.limits]\npublishes = 100\npublish_bytes = \"256 KiB\"\ndeadline = \"10s\"\n\
     [handlers.faults.retry]\nmax_attempts = 1";

/// The names of streams that are not the handler's, and such as would be several if they were patterns.
const FOREIGN: &str = "faults.in\nfaults.dead\nfaults.*\nfaults.ou?\nfaults.[o]ut\nfaults.{out}\n{faults}.out\nFAULTS.OUT\n\
                       faults.out \n faults.out\nfaults.out\0\nother/faults.out\n../faults.out\nwasmill:workers\n\
                       wasmill:inbox:faults\n*\n";

/// Bytes of memory that a process has now.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() << 10
}

#[test]
fn each_attack_ends_in_an_outcome_of_its_class_that_is_counted() {
    let mut mill = Mill::new(LIMITS);
    let refused = [
        ("handles", "", "trap", "resource table"),
        ("foreign", FOREIGN, "rejected", "all were refused"),
        ("large", "", "rejected", "too-large: the limit is 262144 bytes"),
        ("complain", "", "rejected", "xxx"),
    ];
    let borne = ["churn", "flood_bytes", "flood_ignore", "log_flood"];
    for (r#type, data, ..) in refused {
        mill.add(r#type, r#type, data.as_bytes());
    }
    for r#type in borne {
        mill.add(r#type, r#type, b"");
    }
    let letters = mill.wait_for("faults.dead", refused.len());
    mill.wait_settled();
    for (id, _, class, message) in refused {
        let letter = letters.iter().find(|letter| text(letter, "ce_id") == id).unwrap();
        let (found, said) = (text(letter, "dl_class"), text(letter, "dl_message"));
        assert!(found == class && said.contains(message), "{id}: {found}: {said}");
        assert!(said.len() <= 4096, "{id}: {} bytes", said.len());
    }
    let counted = |name: &str, number: usize| {
        eventually(name, DEADLINE, || (mill.metric(name) == number as f64).then_some(()));
    };
    counted("wasmill_events_dead_total", refused.len());
    counted("wasmill_events_acked_total", borne.len());
    // What those published that went on: 100 events, and as many pieces of 64 KiB as are less than 256 KiB.
    counted("wasmill_events_published_total", 100 + 3);
    assert_eq!(mill.entries("faults.out").len(), 103);
}

#[test]
fn a_thousand_attacks_leave_a_worker_that_is_no_larger_and_ends_cleanly() {
    let mut mill = Mill::new(
        "[handlers.faults.limits]\ndeadline = \"200ms\"\nmemory = \"32 MiB\"\nconcurrency = 8\n\
         [handlers.faults.retry]\nmax_attempts = 1",
    );
    let kinds =
        ["handles", "hog", "overflow", "churn", "log_flood", "flood_bytes", "foreign", "panic", "exit", "complain"];
    let round = |mill: &mut Mill, first: usize, count: usize| {
        for number in first..first + count {
            mill.add(&number.to_string(), kinds[number % kinds.len()], FOREIGN.as_bytes());
        }
        mill.wait_settled();
        resident(mill.worker.pid())
    };
    // What is allocated once: instances, buffers, caches.
    let before = round(&mut mill, 0, 200);
    let after = round(&mut mill, 200, 800);
    assert!(after < before + (64 << 20), "{} MiB, before that {} MiB", after >> 20, before >> 20);
    mill.worker.signal(Signal::TERM);
    assert!(mill.worker.wait_exit(DEADLINE).success(), "{}", mill.worker.stderr_text());
}

#[test]
fn the_settings_that_the_page_on_security_recommends_are_valid() {
    let page = std::fs::read_to_string(wasmill_tests::workspace().join("docs/security.md")).unwrap();
    let settings = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let settings = settings.lines().filter(|line| !line.starts_with("public_keys")).collect::<Vec<_>>().join("\n");
    let handler = "[tenants.acme.handlers.h]\ncomponent = \"h.wasm\"\nstreams = [\"s\"]\n";
    let config = wasmill::config::Config::parse(None, &format!("{settings}\n{handler}"), []);
    let config = config.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.of_tenant("acme").unwrap().tenant.quotas.unwrap().dead_letters, Some(10_000));
}
