//! Faults on request, for the tests of wasmill: an event of type `drill` names one of them in its data.

use crate::Event;

/// Ends in the way that an event of type `drill` asks for; does nothing for any other event.
pub fn run(event: &Event) {
    if event.type_ != "drill" {
        return;
    }
    match &event.data[..] {
        b"trap" => trap(),
        b"spin" => loop {
            std::hint::spin_loop();
        },
        b"hog" => hog(),
        _ => {}
    }
}

#[allow(clippy::panic, reason = "what is asked for")]
fn trap() {
    panic!("a drill");
}

/// Takes memory, and touches it, until none is left.
fn hog() {
    let mut kept = Vec::new();
    loop {
        kept.push(std::hint::black_box(vec![1_u8; 1 << 20]));
    }
}
