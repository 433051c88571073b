//! What a guest does that was made to do harm to its neighbours.

use std::hint::black_box;

use guest::{Draft, Event, Failure, Level, log, publish};
use wasip2::clocks::monotonic_clock::subscribe_duration;

use crate::{KIB, MIB, OUT, text};

/// Opens handles of the host for ever, and keeps them all.
pub(crate) fn handles() -> ! {
    loop {
        std::mem::forget(black_box(subscribe_duration(u64::MAX)));
    }
}

/// Fills tables of the host with handles that it gives back at once: a host that leaked them would run out of memory.
pub(crate) fn churn() -> Result<(), Failure> {
    for _ in 0..100_000 {
        drop(black_box(subscribe_duration(u64::MAX)));
    }
    Ok(())
}

/// Tries to publish to each stream that the data names, one a line; says which ones were let through.
pub(crate) fn foreign(event: &Event) -> Result<(), Failure> {
    let names = text(event).unwrap_or_default();
    let through: Vec<&str> =
        names.split('\n').filter(|name| publish(Draft::json(name, "stolen", b"{}")).is_ok()).collect();
    match through.is_empty() {
        true => Err(Failure::Reject("all were refused".into())),
        false => Err(Failure::Reject(format!("let through: {through:?}"))),
    }
}

/// Says and publishes text that would be another line, another colour, another label or a tag, if it were not escaped.
pub(crate) fn forge(event: &Event) -> Result<(), Failure> {
    let text = text(event).unwrap_or_default();
    log(Level::Error, text, text);
    println!("{text}");
    publish(Draft { subject: Some(text), content_type: text, ..Draft::json(OUT, text, b"{}") })?;
    Err(Failure::Reject(text.into()))
}

/// Publishes as many bytes as it may, in pieces of 64 KiB.
pub(crate) fn flood_bytes() -> Result<(), Failure> {
    let piece = vec![b'0'; 64 * KIB];
    while publish(Draft::json(OUT, "flood", &piece)).is_ok() {}
    Ok(())
}

/// Publishes one event of 1 MiB, less what the rest of it needs.
pub(crate) fn large() -> Result<(), Failure> {
    let data = vec![b'0'; MIB - KIB];
    publish(Draft::json(OUT, "large", &data))?;
    Ok(())
}

/// Fails with a message of 1 MiB.
pub(crate) fn complain() -> Result<(), Failure> {
    Err(Failure::Reject("x".repeat(MIB)))
}
