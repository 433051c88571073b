//! The memory of a command does not grow with the length of the stream that it reads.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use wasmill_tests::guests;
use wasmill_tests::mill::{Mill, Way};

const SHORT: usize = 20_000;
const LONG: usize = 200_000;
/// Keeping 100 bytes of data of each event would be far beyond.
const MAX_RATIO: f64 = 1.3;

/// Fills a stream with events of 100 bytes of data.
fn fill(mill: &Mill, stream: &str, count: usize) {
    let head = ["content-type: application/cloudevents-batch+json"];
    for start in (0..count).step_by(10_000) {
        let event = |id: usize| {
            let data = format!("{id:0100}");
            json!({"specversion": "1.0", "id": id.to_string(), "source": "/t", "type": "ok", "data": data})
        };
        let batch: Value = (start..start + 10_000).map(event).collect();
        let path = format!("/v1/streams/{stream}/events");
        let answer = mill.http("POST", &path, &head, batch.to_string().as_bytes());
        assert_eq!(answer.status, 201, "{}", answer.head);
    }
}

/// The most memory that a process has had so far, in KiB; `None` when it has ended.
fn peak(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// Runs a command; the lines that it prints, and the most memory that it has, in KiB.
fn measured(mut command: Command) -> (usize, u64) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let (mut buffer, mut lines) = (vec![0; 1 << 16], 0);
        loop {
            match stdout.read(&mut buffer).unwrap() {
                0 => return lines,
                count => lines += buffer[..count].iter().filter(|&&byte| byte == b'\n').count(),
            }
        }
    });
    let mut most = 0;
    let status = loop {
        most = most.max(peak(child.id()).unwrap_or(0));
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    assert!(status.success(), "{command:?}");
    (reader.join().unwrap(), most)
}

/// The same, on Redis itself and by the worker.
fn on_both_ways(mill: &Mill, arguments: &[&str]) -> [(usize, u64); 2] {
    let mut direct = mill.command(arguments);
    direct.env_remove("WASMILL_ADMIN_URL");
    [measured(direct), measured(mill.command(arguments))]
}

#[test]
fn history_and_replay_need_no_memory_for_what_is_long() {
    // What it reads is of no type that it wants: this is about reading.
    let section = format!(
        "[handlers.reader]\ncomponent = \"{}\"\nstreams = [\"short\", \"long\"]\ntypes = [\"none\"]\n",
        guests::component("faults").display()
    );
    let mill = Mill::start_with(Way::RedisByWorker, &section, None);
    fill(&mill, "short", SHORT);
    fill(&mill, "long", LONG);
    for (what, lines, arguments) in [
        ("history", true, &["history", "STREAM", "--since", "-"][..]),
        ("replay", false, &["replay", "STREAM", "--handler", "reader", "--from", "-"]),
        ("dry-run", false, &["replay", "STREAM", "--handler", "reader", "--from", "-", "--dry-run"]),
    ] {
        let of = |stream: &'static str| {
            let arguments: Vec<&str> =
                arguments.iter().map(|&word| if word == "STREAM" { stream } else { word }).collect();
            on_both_ways(&mill, &arguments)
        };
        let (short, long) = (of("short"), of("long"));
        for (way, ((short_lines, short), (long_lines, long))) in short.into_iter().zip(long).enumerate() {
            let way = ["on Redis", "by the worker"][way];
            println!("{what} {way}: {short} KiB for {SHORT}, {long} KiB for {LONG}");
            if lines {
                assert_eq!((short_lines, long_lines), (SHORT, LONG), "{what} {way}");
            }
            assert!(short > 0 && (long as f64) < short as f64 * MAX_RATIO, "{what} {way}: {short} KiB, {long} KiB");
        }
    }
}
