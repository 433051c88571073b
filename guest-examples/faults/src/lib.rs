//! Everything that can go wrong in a handler, and a few things that must go right, for the tests of the host.
//!
//! The type of the event picks what happens; see [`handle`]. What is published goes to the stream `faults.out`.

mod hostile;

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    hint::black_box,
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

use guest::{Delivery, Draft, Event, Failure, Level, PublishError, log, publish, publish_batch};

guest::export_handler!(handle);

const OUT: &str = "faults.out";
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

fn handle(event: &Event, delivery: &Delivery) -> Result<(), Failure> {
    match event.type_.as_str() {
        // Guests that must be stopped.
        "spin" => spin(),
        "hog" => hog(),
        "overflow" => {
            black_box(overflow(0));
            Ok(())
        }
        "panic" => panic(),
        "exit" => std::process::exit(3),
        "sleep" => sleep(event),
        "compute" => compute(event),

        // Guests that ask for too much.
        "flood" => flood(),
        "flood_ignore" => flood_ignore(),
        "oversized" => refused(publish(Draft::json(OUT, "oversized", &vec![b'0'; 8 * MIB]))),
        "denied" => refused(publish(Draft::json("forbidden", "denied", b"{}"))),
        "abuse_attributes" => abuse_attributes(),
        "batch_denied" => batch_denied(),
        "log_flood" => log_flood(),
        "grow" => grow(),

        // Guests that are after their neighbours.
        "handles" => hostile::handles(),
        "churn" => hostile::churn(),
        "foreign" => hostile::foreign(event),
        "forge" => hostile::forge(event),
        "flood_bytes" => hostile::flood_bytes(),
        "large" => hostile::large(),
        "complain" => hostile::complain(),

        // Guests that say how their event is to be settled.
        "ok" => Ok(()),
        "reject" => Err(Failure::Reject("rejected as asked".into())),
        "retry" if delivery.attempt < 3 => Err(again(delivery)),
        "retry" => publish_one("retried", b"{}"),
        "retry_always" => Err(again(delivery)),
        "retry_after" if delivery.attempt == 1 => Err(Failure::RetryAfter(("not before 200 ms".into(), 200))),
        "retry_after" => Ok(()),

        // Guests that behave.
        "log" => log_one(event),
        "echo" => echo(event, delivery),
        "batch" => batch(),
        "later" => later(event),
        "version" => version(event),
        "remember" => remember(),
        "random" => random(),
        "files" => files(),

        unknown => Err(Failure::Reject(format!("unknown fault {unknown}"))),
    }
}

fn spin() -> ! {
    loop {
        black_box(());
    }
}

/// Takes memory for ever and writes to all of it.
fn hog() -> ! {
    loop {
        black_box(vec![1_u8; MIB].leak());
    }
}

/// Calls itself for ever, through a pointer that the optimiser cannot see through.
fn overflow(depth: u64) -> u64 {
    let next: fn(u64) -> u64 = black_box(overflow);
    black_box(next(depth + 1)) + 1
}

#[expect(clippy::panic, reason = "that is the fault")]
fn panic() -> ! {
    panic!("panicked as asked")
}

/// Sleeps as many milliseconds as the data says, one second if it says nothing.
fn sleep(event: &Event) -> Result<(), Failure> {
    let milliseconds = text(event).and_then(|text| text.trim().parse().ok()).unwrap_or(1000);
    thread::sleep(Duration::from_millis(milliseconds));
    Ok(())
}

/// Computes for a while: so many million steps as the event says.
fn compute(event: &Event) -> Result<(), Failure> {
    let millions: u64 = text(event).and_then(|text| text.trim().parse().ok()).unwrap_or(1);
    let sum = (0..millions * 1_000_000).fold(0_u64, |sum, step| black_box(sum ^ step));
    publish_one("computed", sum.to_string().as_bytes())
}

/// Publishes until the host has had enough, and says when that was.
fn flood() -> Result<(), Failure> {
    let mut published = 0_u64;
    loop {
        match publish(Draft::json(OUT, "flood", b"{}")) {
            Ok(_) => published += 1,
            Err(error) => return Err(Failure::Reject(format!("{} after {published}", error.name()))),
        }
    }
}

fn flood_ignore() -> Result<(), Failure> {
    for _ in 0..100_000 {
        let _ = publish(Draft::json(OUT, "flood", b"{}"));
    }
    Ok(())
}

/// Tries attributes that only the host may set.
fn abuse_attributes() -> Result<(), Failure> {
    let try_one = |name: &str| {
        let attributes = [(name.to_string(), "x".to_string())];
        match publish(Draft { attributes: &attributes, ..Draft::json(OUT, "abuse", b"{}") }) {
            Ok(_) => format!("{name} was accepted"),
            Err(error) => format!("{name} was refused as {}", error.describe()),
        }
    };
    Err(Failure::Reject(["ce_id", "id"].map(try_one).join("; ")))
}

/// One draft is fine, the other is not: neither may be published, although the handler goes on to succeed.
fn batch_denied() -> Result<(), Failure> {
    let drafts = [Draft::json(OUT, "fine", b"{}"), Draft::json("forbidden", "denied", b"{}")];
    match publish_batch(&drafts) {
        Ok(_) => Err(Failure::Reject("the batch was accepted".into())),
        Err(_) => Ok(()),
    }
}

/// 1 MiB in lines of 1 KiB to each of the three ways out. A host that closes a stream is no reason to fail.
fn log_flood() -> Result<(), Failure> {
    let line = "x".repeat(KIB - 1);
    for _ in 0..MIB / KIB {
        log(Level::Info, "faults", &line);
        let _ = writeln!(std::io::stdout(), "{line}");
        let _ = writeln!(std::io::stderr(), "{line}");
    }
    Ok(())
}

/// Loses 1 MiB with each event: harmless in a fresh instance, not in one that is used again.
fn grow() -> Result<(), Failure> {
    black_box(vec![1_u8; MIB].leak());
    Ok(())
}

fn again(delivery: &Delivery) -> Failure {
    Failure::Retry(format!("failed on attempt {} as asked", delivery.attempt))
}

fn log_one(event: &Event) -> Result<(), Failure> {
    let data = text(event).filter(|text| !text.is_empty()).map(|text| format!(": {text}")).unwrap_or_default();
    log(Level::Info, "faults", &format!("hello from the guest{data}"));
    println!("to stdout{data}");
    eprintln!("to stderr{data}");
    Ok(())
}

fn echo(event: &Event, delivery: &Delivery) -> Result<(), Failure> {
    let attributes =
        [("attempt".to_string(), delivery.attempt.to_string()), ("replay".to_string(), delivery.replay.to_string())];
    publish(Draft {
        content_type: &event.content_type,
        attributes: &attributes,
        ..Draft::json(OUT, "echoed", &event.data)
    })?;
    Ok(())
}

fn batch() -> Result<(), Failure> {
    publish_batch(&["one", "two", "three"].map(|kind| Draft::json(OUT, kind, b"{}")))?;
    Ok(())
}

/// Publishes the schema version of its event, as a handler sees it that turns older data into newer.
fn version(event: &Event) -> Result<(), Failure> {
    let version = serde_json::json!({ "version": event.schema_version });
    publish_one("versioned", version.to_string().as_bytes())
}

/// Publishes an event that comes as many milliseconds later as the data says.
fn later(event: &Event) -> Result<(), Failure> {
    let delay_ms = text(event).and_then(|text| text.trim().parse().ok());
    publish(Draft { delay_ms, ..Draft::json(OUT, "late", &event.data) })?;
    Ok(())
}

/// Publishes how many events this instance has seen: always 1 if each one gets a fresh instance.
fn remember() -> Result<(), Failure> {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    let seen = SEEN.fetch_add(1, Ordering::Relaxed) + 1;
    publish_one("counted", seen.to_string().as_bytes())
}

/// The standard library seeds its hash maps from `wasi:random`.
fn random() -> Result<(), Failure> {
    black_box(RandomState::new().hash_one(0));
    Ok(())
}

/// Publishes what can be seen of the world outside, which must be nothing.
fn files() -> Result<(), Failure> {
    let files = std::fs::read_dir("/").is_ok();
    let env = std::env::vars_os().count();
    let net = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], 6379))).is_ok();
    let saw = serde_json::json!({ "files": files, "env": env, "net": net });
    publish_one("saw", saw.to_string().as_bytes())
}

fn publish_one(kind: &str, data: &[u8]) -> Result<(), Failure> {
    publish(Draft::json(OUT, kind, data))?;
    Ok(())
}

/// Turns a refusal into a rejection that names it.
fn refused(answer: Result<String, PublishError>) -> Result<(), Failure> {
    match answer {
        Ok(_) => Err(Failure::Reject("the draft was accepted".into())),
        Err(error) => Err(error.into()),
    }
}

fn text(event: &Event) -> Option<&str> {
    std::str::from_utf8(&event.data).ok()
}
