//! Tenants that want more than their quotas: they wait, nothing is lost, and others feel nothing of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use wasmill_tests::worker::Signal;
use wasmill_tests::{eventually, guests};

use super::faults::{Mill, ms};

const DEADLINE: Duration = Duration::from_secs(30);

/// A tenant `acme` with these quotas and a handler `faults` like that of the tenant `default`. `settings` go into its section.
fn acme(quotas: &str, settings: &str) -> String {
    format!(
        "[tenants.acme.quotas]\n{quotas}\n[tenants.acme.handlers.faults]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\n\
         publishes = [\"faults.out\"]\n{settings}\n",
        guests::component("faults").display()
    )
}

fn add(mill: &mut Mill, id: usize, r#type: &str, data: &[u8]) {
    let id = id.to_string();
    let fields: [(&[u8], &[u8]); 4] =
        [(b"ce_id", id.as_bytes()), (b"ce_source", b"/t"), (b"ce_type", r#type.as_bytes()), (b"data", data)];
    mill.add_raw("acme:faults.in", &fields);
}

/// How often the tenant had to wait.
fn waits(mill: &Mill, quota: &str) -> u64 {
    let name = format!("wasmill_quota_waits_total{{quota=\"{quota}\",tenant=\"acme\"}} ");
    let metrics = mill.metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// What the group of the tenant's handler has: entries read and not settled, and entries not read.
fn group(mill: &mut Mill) -> (i64, i64) {
    let groups: Vec<HashMap<String, redis::Value>> =
        redis::cmd("XINFO").arg(&["GROUPS", "acme:faults.in"]).query(&mut mill.redis).unwrap();
    let number = |name: &str| match groups[0][name] {
        redis::Value::Int(number) => number,
        ref other => panic!("{name} is {other:?}"),
    };
    (number("pending"), number("lag"))
}

/// An event of the tenant `default` is handled at once.
fn others_go_on(mill: &mut Mill) {
    let (before, start) = (mill.entries("faults.out").len(), Instant::now());
    mill.add("other", "echo", b"");
    mill.wait_for("faults.out", before + 1);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn no_more_events_are_read_than_the_quota_says() {
    let mut mill = Mill::new(&acme("events_in = 20", ""));
    let start = Instant::now();
    for id in 0..80 {
        add(&mut mill, id, "echo", b"");
    }
    others_go_on(&mut mill);
    // What is over the quota stays in the stream.
    loop {
        // In this order: none is counted twice.
        let published = mill.entries("acme:faults.out").len() as i64;
        let (pending, lag) = group(&mut mill);
        let read = published + pending;
        let allowed = 20.0 * (start.elapsed().as_secs_f64() + 1.0) + 1.0;
        assert!(read as f64 <= allowed, "{read} events were read, {allowed} allowed");
        if lag == 0 && pending == 0 {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "{pending} are pending, {lag} wait");
        std::thread::sleep(Duration::from_millis(20));
    }
    // The first 20 at once, and 20 a second.
    assert!(start.elapsed() >= Duration::from_millis(2900), "{:?}", start.elapsed());
    assert_eq!(mill.entries("acme:faults.out").len(), 80);
    assert!(waits(&mill, "events_in") > 0);
}

#[test]
fn no_more_events_are_published_than_the_quota_says() {
    let mut mill = Mill::new(&acme("events_out = 6", ""));
    let start = Instant::now();
    for id in 0..8 {
        // Three events each.
        add(&mut mill, id, "batch", b"");
    }
    others_go_on(&mut mill);
    mill.wait_for("acme:faults.out", 24);
    // The last one is begun when there is something left of the quota: 24 - 3 - 6 events take their time.
    assert!(start.elapsed() >= Duration::from_millis(2400), "{:?}", start.elapsed());
    eventually("all to be settled", DEADLINE, || (group(&mut mill) == (0, 0)).then_some(()));
    assert_eq!(mill.entries("acme:faults.out").len(), 24);
    assert!(waits(&mill, "events_out") > 0);
    assert_eq!(waits(&mill, "events_in"), 0);
}

#[test]
fn who_has_used_its_time_waits_and_others_do_not() {
    let settings = "[tenants.acme.handlers.faults.limits]\ndeadline = \"100ms\"\nconcurrency = 1\n\
                    [tenants.acme.handlers.faults.retry]\nmax_attempts = 1";
    // 100 ms a second, of which 600 may be saved up: six runs or some more, as the machine is busy with others.
    let mut mill = Mill::new(&acme("cpu_per_minute = \"6s\"", settings));
    for id in 0..24 {
        add(&mut mill, id, "spin", b"");
    }
    eventually("it to wait", DEADLINE, || (waits(&mill, "cpu_per_minute") > 0).then_some(()));
    others_go_on(&mut mill);
    let dead = mill.wait_for("acme:faults.dead", 12);
    // A run cannot use more than a thread has: the deadline is by the clock.
    let used: f64 = cpu_seconds(&mill);
    let taken = (ms(&dead[dead.len() - 1].0) - ms(&dead[0].0)) as f64 / 1e3;
    assert!(used <= 0.6 + 0.1 * (taken + 1.0) + 0.3, "{used} s were used in {taken} s");
    // A worker that ends does not wait for that.
    eventually("it to wait again", DEADLINE, || {
        let before = cpu_seconds(&mill);
        std::thread::sleep(Duration::from_millis(300));
        (cpu_seconds(&mill) == before).then_some(())
    });
    mill.worker.signal(Signal::TERM);
    assert!(mill.worker.wait_exit(Duration::from_secs(8)).success());
}

#[test]
fn what_runs_already_is_kept_within_its_tenants_time() {
    let settings = "[tenants.acme.handlers.faults.limits]\ndeadline = \"30s\"\nconcurrency = 8";
    // 50 ms a second, of which 300 may be saved up.
    let mut mill = Mill::new(&acme("cpu_per_minute = \"3s\"", settings));
    let start = Instant::now();
    for id in 0..8 {
        add(&mut mill, id, "spin", b"");
    }
    eventually("it to wait", DEADLINE, || (waits(&mill, "cpu_per_minute") > 0).then_some(()));
    others_go_on(&mut mill);
    std::thread::sleep(Duration::from_secs(3).saturating_sub(start.elapsed()));
    let used = cpu_seconds(&mill);
    let allowed = 0.3 + 0.05 * start.elapsed().as_secs_f64() + 0.2;
    assert!(used > 0.3 && used <= allowed, "{used} s were used, {allowed} allowed");
    // All of them still run: none has met its deadline.
    assert_eq!((group(&mut mill), mill.entries("acme:faults.dead").len()), ((8, 0), 0));
}

#[test]
fn time_that_a_quota_takes_from_a_delivery_does_not_count_towards_its_deadline() {
    let settings = "[tenants.acme.handlers.faults.limits]\ndeadline = \"3s\"\nconcurrency = 8\n\
                    [tenants.acme.handlers.faults.retry]\nmax_attempts = 1";
    // 50 ms a second, of which 300 may be saved up.
    let mut mill = Mill::new(&acme("cpu_per_minute = \"3s\"", settings));
    let start = Instant::now();
    for id in 0..8 {
        add(&mut mill, id, "compute", b"300");
    }
    eventually("all to be settled", 2 * DEADLINE, || {
        let have_ended = mill.entries("acme:faults.out").len() + mill.entries("acme:faults.dead").len() == 8;
        (have_ended && group(&mut mill) == (0, 0)).then_some(())
    });
    let (taken, used) = (start.elapsed(), cpu_seconds(&mill));
    assert_eq!(mill.entries("acme:faults.out").len(), 8, "the others were given up");
    assert!(
        taken > Duration::from_secs(4),
        "{used} s were used in {taken:?}: too little to be kept back for the deadline"
    );
}

fn cpu_seconds(mill: &Mill) -> f64 {
    let metrics = mill.metrics();
    let name = "wasmill_handler_cpu_seconds_total{handler=\"faults\",tenant=\"acme\"} ";
    let value = metrics.lines().find_map(|line| line.strip_prefix(name));
    value.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

#[test]
fn a_tenant_runs_so_many_deliveries_at_once_as_it_may() {
    let one = acme("concurrency = 1", "[tenants.acme.handlers.faults.limits]\ndeadline = \"5s\"");
    let more = "[tenants.acme.handlers.more]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\n\
                [tenants.acme.handlers.more.limits]\ndeadline = \"5s\"\n";
    let more = more.replace("{}", &guests::component("faults").to_string_lossy());
    let mut mill = Mill::new(&format!("{one}{more}"));
    let start = Instant::now();
    for id in 0..4 {
        add(&mut mill, id, "sleep", b"300");
    }
    others_go_on(&mut mill);
    // Both handlers run all of them, one after the other.
    eventually("all to be settled", DEADLINE, || {
        let groups: Vec<HashMap<String, redis::Value>> =
            redis::cmd("XINFO").arg(&["GROUPS", "acme:faults.in"]).query(&mut mill.redis).unwrap();
        let is_zero = |group: &HashMap<String, redis::Value>, name: &str| group[name] == redis::Value::Int(0);
        let is_settled = groups.iter().all(|group| is_zero(group, "pending") && is_zero(group, "lag"));
        (groups.len() == 2 && is_settled).then_some(())
    });
    assert!(start.elapsed() >= Duration::from_millis(8 * 300), "{:?}", start.elapsed());
    assert_eq!(mill.entries("acme:faults.dead").len() + mill.entries("acme:more.dead").len(), 0);
    assert!(waits(&mill, "concurrency") > 0);
}

#[test]
fn quotas_change_while_the_worker_works_and_nothing_is_lost() {
    let mut mill = Mill::new(&acme("events_in = 1", ""));
    for id in 0..30 {
        add(&mut mill, id, "echo", b"");
    }
    eventually("it to wait", DEADLINE, || (waits(&mill, "events_in") > 0).then_some(()));
    assert!(mill.entries("acme:faults.out").len() < 20);
    mill.reload(&acme("events_in = 1000", ""));
    let start = Instant::now();
    mill.wait_for("acme:faults.out", 30);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    eventually("all to be settled", DEADLINE, || (group(&mut mill) == (0, 0)).then_some(()));
    assert_eq!(mill.entries("acme:faults.out").len(), 30);
}
