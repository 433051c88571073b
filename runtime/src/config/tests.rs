use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;

use super::*;
use crate::outcome::RetryPolicy;

const NO_ENV: [(String, String); 0] = [];
const HANDLER: &str = "[handlers.payment]\ncomponent = 'payment.wasm'\nstreams = ['orders']\n";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(Some(Path::new("w.toml")), text, NO_ENV)
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(Some(Path::new("w.toml")), text, env)
}

fn faults(text: &str) -> Vec<String> {
    parse(text).err().map(|errors| errors.0.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// The only fault of a text begins so.
#[track_caller]
fn assert_fault(text: &str, start: &str) {
    let faults = faults(text);
    assert!(faults.len() == 1 && faults[0].starts_with(start), "{text}\nwanted: {start}\ngot: {faults:#?}");
}

#[track_caller]
fn assert_fine(text: &str) {
    assert_eq!(faults(text), [""; 0], "{text}");
}

fn reference() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/wasmill.toml");
    std::fs::read_to_string(path).expect("the reference is part of the repository")
}

/// The lines of the reference with settings that are commented out (`#key = value`, no space) made real.
fn uncommented(text: &str) -> String {
    let real = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with([' ', '#']) => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(real).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reference_is_equal_to_the_defaults() {
    let text = reference();
    assert_eq!(parse(&text), Ok(Config::default()));
    let written = toml::to_string(&Config::default()).expect("a config is TOML");
    assert_eq!(parse(&written), Ok(Config::default()));
    // Not only equal values, but each one spelled out.
    let (read, written): (toml::Table, toml::Table) =
        (text.parse().expect("it has just been read"), written.parse().expect("it has just been written"));
    for (section, keys) in
        written.iter().filter(|(section, _)| !["handlers", "streams", "intake", "tenants"].contains(&section.as_str()))
    {
        assert_eq!(read.get(section), Some(keys), "[{section}]");
    }
}

#[test]
fn the_handler_in_the_reference_shows_the_defaults() {
    let text = reference();
    let block = text.find("#[handlers.").expect("it has an example of a handler");
    let end = text.find("\n# A tenant:").expect("tenants come after handlers");
    let config = parse(&uncommented(&text[block..end])).expect("the example is right");
    let [(name, handler)] = &config.handlers.iter().collect::<Vec<_>>()[..] else { panic!("one example") };
    assert_eq!(handler.dead_letter, Some(crate::broker::keys::default_dead_letter(name)));
    let general = Config::default();
    assert_eq!(handler.limits, LimitsOverride::from(&general.limits));
    assert_eq!(handler.retry, RetryOverride::from(&general.retry));
    let build = handler.build.as_ref().expect("the example is built from sources");
    assert_eq!(*build, BuildConfig { lang: build.lang, ..BuildConfig::default() });
    let plain = HandlerConfig {
        component: handler.component.clone(),
        build: handler.build.clone(),
        streams: handler.streams.clone(),
        types: handler.types.clone(),
        publishes: handler.publishes.clone(),
        dedup: handler.dedup,
        group: handler.group.clone(),
        limits: handler.limits.clone(),
        retry: handler.retry.clone(),
        dead_letter: handler.dead_letter.clone(),
        ..HandlerConfig::default()
    };
    assert_eq!(**handler, plain);
}

#[test]
fn the_reference_names_every_key() {
    let text = uncommented(&reference());
    let name = text.split("\n[handlers.").nth(1).and_then(|rest| rest.split(']').next()).expect("it has a handler");
    let handler = format!("handlers.{name}");
    let sections = [
        "redis",
        "worker",
        "admin",
        "log",
        "compile",
        "limits",
        "retry",
        "schemas",
        "streams.orders",
        "intake.prices",
        "tenants.acme",
        "tenants.acme.quotas",
        "tenants.acme.redis",
        "tenants.acme.tokens",
        &handler,
    ];
    let below = ["build", "reuse", "limits", "retry", "http"].map(|section| format!("{handler}.{section}"));
    for section in sections.into_iter().chain(below.iter().map(String::as_str)) {
        let start = text.find(&format!("\n[{section}]\n")).unwrap_or_else(|| panic!("[{section}] is missing"));
        let body = &text[start + 2..];
        let body = &body[..body.find("\n[").unwrap_or(body.len())];
        let errors = parse(&format!("[{section}]\nqqq = 1")).expect_err("there is no such key");
        let remedy = errors.0.iter().find(|e| e.field.ends_with("qqq")).and_then(|e| e.remedy.clone());
        for key in remedy.expect("it lists the keys").split('`').skip(1).step_by(2) {
            let there = body.contains(&format!("\n{key} =")) || text.contains(&format!("[{section}.{key}"));
            assert!(there, "{section}.{key} is missing in the reference");
        }
    }
}

#[test]
fn the_demo_is_a_chain() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/ecommerce.toml");
    let config = Config::load(&path, NO_ENV).unwrap_or_else(|errors| panic!("{errors}"));
    let names: Vec<String> = config.handlers().into_iter().map(|handler| handler.name).collect();
    assert_eq!(names, ["inventory", "notification", "payment", "shipment"]);
    let mut stream = "orders".to_owned();
    for name in ["payment", "inventory", "shipment", "notification"] {
        let handler = config.handler(name).expect("it is there");
        assert_eq!(handler.streams, [stream], "{name}");
        assert!(handler.component.ends_with(format!("../target/guests/{name}.wasm")), "{:?}", handler.component);
        stream = handler.publishes.first().expect("each one goes on").clone();
    }
}

#[test]
fn unknown_keys_come_with_place_and_suggestion() {
    assert_fault(
        "# a comment\n[handlers.payment]\ncomponent = 'a'\n  streems = ['orders']",
        "w.toml:4:3: handlers.payment.streems: unknown field; did you mean `streams`?",
    );
    assert_fault("[redsi]\nurl = 'redis://a'", "w.toml:1:2: redsi: unknown field; did you mean `redis`?");
    assert_fault("limits.memroy = 1000000", "w.toml:1:8: limits.memroy: unknown field; did you mean `memory`?");
    assert_fault("[log]\nqqq = 1", "w.toml:2:1: log.qqq: unknown field; known here: `format`, `level`");
    assert_fault("redis_url = 'x'", "w.toml:1:1: redis_url: unknown field; did you mean `redis`?");
    assert_fault("[log]\nformat = 'jsn'", "w.toml:2:10: log.format: unknown value `jsn`; did you mean `json`?");
    assert_fault(&format!("{HANDLER}isolation = 'none'"), "w.toml:4:13: handlers.payment.isolation: unknown value");
    assert_fault(
        &format!("{HANDLER}[handlers.payment.limit]\nmemory = '64 MiB'"),
        "w.toml:4:19: handlers.payment.limit:",
    );
}

#[test]
fn types_and_units_are_named_with_their_place() {
    assert_fault(
        "[limits]\ndeadline = 5",
        "w.toml:2:12: limits.deadline: invalid type: integer `5`, expected a duration",
    );
    assert_fault("[limits]\ndeadline = '5'", "w.toml:2:12: limits.deadline: `5` has no unit");
    assert_fault("[limits]\nmemory = 'big'", "w.toml:2:10: limits.memory: `big` is not a size");
    assert_fault("[limits]\nmemory = -1", "w.toml:2:10: limits.memory: invalid value: integer `-1`, expected a size");
    assert_fault("[limits]\nconcurrency = 'x'", "w.toml:2:15: limits.concurrency: invalid type");
    assert_fault("[retry]\nmax_attempts = 5000000000", "w.toml:2:16: retry.max_attempts: invalid value");
    assert_fault("redis = 5", "w.toml:1:9: redis: invalid type: integer `5`, expected a section");
    assert_fault(
        "[handlers.a]\ncomponent = 'a'\nstreams = ['ok',\n  5]",
        "w.toml:4:3: handlers.a.streams[1]: invalid type: integer `5`, expected a text in quotes",
    );
    assert_fault("[handlers.a]\ncomponent = 'a'\nstreams = 's'", "w.toml:3:11: handlers.a.streams: invalid type");
    assert_fault(
        &format!("{HANDLER}config = {{ port = 1 }}"),
        "w.toml:4:19: handlers.payment.config.port: invalid type",
    );
}

#[test]
fn syntax_errors_stop_there() {
    assert_fault("[redis]\nurl = \n[limits]\nzzz = 1", "w.toml:2:");
    assert_fault("[redis]\n[redis]", "w.toml:2:2: not TOML: duplicate key");
}

#[test]
fn all_faults_are_told_at_once_and_in_order() {
    let text = "[redis]\nurll = 'http://x'\nconnect_timeout = 5\n[limits]\nmemory = '1 KiB'\nzzz = [\n 1,\n 2]\n\
                [handlers.Bad]\nstreams = []\n[retry]\nmax_attempts = 0";
    let places: Vec<(Option<usize>, String)> =
        parse(text).expect_err("it is full of faults").0.into_iter().map(|e| (e.line, e.field)).collect();
    let wanted = [
        (2, "redis.url"),
        (2, "redis.urll"),
        (3, "redis.connect_timeout"),
        (5, "limits.memory"),
        (6, "limits.zzz"),
        (9, "handlers.Bad"),
        (9, "handlers.Bad.component"),
        (10, "handlers.Bad.streams"),
        (12, "retry.max_attempts"),
    ];
    let mut places: Vec<(usize, &str)> = places.iter().map(|(l, f)| (l.expect("a line"), f.as_str())).collect();
    places.sort_unstable();
    assert_eq!(places, wanted);
}

#[test]
fn a_flood_of_faults_ends() {
    let text: String = (0..500).map(|n| format!("zzz{n} = 1\n")).collect();
    assert_eq!(faults(&text).len(), 50);
}

#[test]
fn bounds_hold_at_their_edges() {
    let limit = |key: &str, value: &str| format!("[limits]\n{key} = {value}");
    for (key, good, bad) in [
        ("memory", vec!["'64 KiB'", "'4 GiB'"], vec!["65535", "'4097 MiB'"]),
        ("event_bytes", vec!["1", "'64 MiB'"], vec!["0", "67108865"]),
        ("publish_bytes", vec!["0", "'64 MiB'"], vec!["67108865"]),
        ("log_bytes", vec!["0", "'1 MiB'"], vec!["1048577"]),
        ("component_bytes", vec!["1024", "'64 MiB'"], vec!["1023", "67108865"]),
        ("concurrency", vec!["1", "65536"], vec!["0", "65537"]),
        ("deadline", vec!["'1ns'"], vec!["'0s'"]),
        ("publishes", vec!["0"], vec![]),
    ] {
        good.iter().for_each(|value| assert_fine(&limit(key, value)));
        bad.iter().for_each(|value| assert_fault(&limit(key, value), &format!("w.toml:2:1: limits.{key}: ")));
        for value in bad {
            let text = format!("{HANDLER}[handlers.payment.limits]\n{key} = {value}");
            assert_fault(&text, &format!("w.toml:5:1: handlers.payment.limits.{key}: "));
        }
    }
}

#[test]
fn keys_must_fit_each_other() {
    assert_fine("[retry]\nmax_attempts = 1\nbase = '5s'\ncap = '5s'");
    assert_fault("[retry]\nmax_attempts = 0", "w.toml:2:1: retry.max_attempts: must be at least 1");
    assert_fault("[retry]\ncap = '499ms'\nbase = '500ms'", "w.toml:3:1: retry.base: ");
    assert_fault("[retry]\ncap = '499ms'", "w.toml:1:2: retry.base: ");
    assert_fault(&format!("{HANDLER}retry.cap = '499ms'"), "w.toml:4:7: handlers.payment.retry.cap: ");
    assert_fault(&format!("{HANDLER}retry.max_attempts = 0"), "w.toml:4:7: handlers.payment.retry.max_attempts: ");
    assert_fine(&format!("[retry]\nbase = '10m'\ncap = '10m'\n{HANDLER}"));
    assert_fine("[compile]\nmemory = '64 MiB'\ncpu_time = '1s'\nwall_time = '1s'");
    assert_fine("[compile]\nmemory = '64 GiB'");
    assert_fault("[compile]\nmemory = '63 MiB'", "w.toml:2:1: compile.memory: 63 MiB is out of bounds");
    assert_fault(
        "[compile]\nmemory = '65 GiB'",
        "w.toml:2:1: compile.memory: 65 GiB is out of bounds; from 64 MiB to 64 GiB",
    );
    assert_fault("[compile]\ncpu_time = '999ms'", "w.toml:2:1: compile.cpu_time: is too short");
    assert_fault("[compile]\ncpu_time = '2s'\nwall_time = '1s'", "w.toml:3:1: compile.wall_time: is shorter than");
    assert_fine("[worker]\nheartbeat = '1s'\nheartbeat_ttl = '3s'\nthreads = 1024");
    assert_fault("[worker]\nheartbeat = '1s'\nheartbeat_ttl = '2999ms'", "w.toml:3:1: worker.heartbeat_ttl: ");
    assert_fault("[worker]\nheartbeat = '0s'", "w.toml:2:1: worker.heartbeat: ");
    assert_fault("[worker]\nthreads = 1025", "w.toml:2:1: worker.threads: ");
    assert_fault(&format!("{HANDLER}reuse.max_events = 0"), "w.toml:4:7: handlers.payment.reuse.max_events: ");
}

#[test]
fn the_address_of_redis_is_checked() {
    for url in ["redis://h", "rediss://u@h:1/2", "unix:///a", "redis+unix:///a?db=1", "redis://[::1]:6379"] {
        assert_fine(&format!("[redis]\nurl = '{url}'"));
    }
    for url in
        ["", "h:6379", "http://h", "redis://", "redis://:6379", "unix://a", "unix:///", "redis://u@", "redis://a b"]
    {
        assert_fault(&format!("[redis]\nurl = '{url}'"), "w.toml:2:1: redis.url: ");
    }
    assert_fault("[redis]\npassword_env = 'A'\npassword_file = 'b'", "w.toml:3:1: redis.password_file: ");
    assert_fault("[redis]\nurl = 'redis://:p@h'\npassword_env = 'A'", "w.toml:3:1: redis.password_env: ");
    assert_fault("[redis]\npassword_env = ''", "w.toml:2:1: redis.password_env: ");
    assert_fault("[redis]\nca_file = 'ca.pem'", "w.toml:2:1: redis.ca_file: ");
    assert_fault("[redis]\nresponse_timeout = '0s'", "w.toml:2:1: redis.response_timeout: ");
}

#[test]
fn admin_and_log_are_checked() {
    for listen in ["", "127.0.0.1:0", "127.8.8.8:1", "[::1]:9464"] {
        assert_fine(&format!("[admin]\nlisten = '{listen}'"));
    }
    for listen in ["0.0.0.0:9464", "10.0.0.1:1", "[::]:1", "localhost:9464", "127.0.0.1", ":9464"] {
        assert_fault(&format!("[admin]\nlisten = '{listen}'"), "w.toml:2:1: admin.listen: ");
    }
    for level in ["debug", "INFO", "info,wasmill=debug", "warn,redis=off", "3"] {
        assert_fine(&format!("[log]\nlevel = '{level}'"));
    }
    for level in ["", "inof", "wasmill=loud", "info,debgu"] {
        assert_fault(&format!("[log]\nlevel = '{level}'"), "w.toml:2:1: log.level: ");
    }
}

#[test]
fn handlers_are_checked() {
    let handler = |name: &str, rest: &str| format!("[handlers.'{name}']\ncomponent = 'a.wasm'\n{rest}");
    let streams = "streams = ['orders']";
    for name in ["a", "0", "pay_ment-2", &"a".repeat(63)] {
        assert_fine(&handler(name, streams));
    }
    for name in ["", "A", "_a", "-a", "a.b", "ä", &"a".repeat(64)] {
        assert_fault(&handler(name, streams), "w.toml:1:11: handlers.");
    }
    assert_fault(&format!("[handlers.a]\n{streams}"), "w.toml:1:11: handlers.a.component: is missing");
    assert_fault(&handler("a", "streams = []"), "w.toml:3:1: handlers.a.streams: ");
    assert_fine(&handler("a", &format!("streams = ['{}']", "s".repeat(512))));
    for stream in [&"s".repeat(513), "", "a\\nb", "wasmill:x"] {
        assert_fault(
            &handler("a", &format!("streams = [\"ok\", \"{stream}\"]")),
            "w.toml:3:18: handlers.a.streams[1]: ",
        );
        let text = handler("a", &format!("{streams}\npublishes = [\"{stream}\"]"));
        assert_fault(&text, "w.toml:4:14: handlers.a.publishes[0]: ");
        let text = handler("a", &format!("{streams}\ndead_letter = \"{stream}\""));
        assert_fault(&text, "w.toml:4:1: handlers.a.dead_letter: ");
    }
    assert_fault(&handler("a", "streams = ['s', 's']"), "w.toml:3:17: handlers.a.streams[1]: `s` is there twice");
    assert_fault(&handler("a", &format!("{streams}\ntypes = []")), "w.toml:4:1: handlers.a.types: ");
    assert_fault(&handler("a", &format!("{streams}\ntypes = ['*', ' x']")), "w.toml:4:15: handlers.a.types[1]: ");
    assert_fault(&handler("a", &format!("{streams}\ndead_letter = 'orders'")), "w.toml:4:1: handlers.a.dead_letter: ");
    assert_fault(&handler("a", "streams = ['a.dead']"), "w.toml:1:11: handlers.a.dead_letter: ");
    assert_fine(&handler("b", "streams = ['a.dead']\npublishes = ['a.dead']"));
}

#[test]
fn variables_override_the_file() {
    let config = with_env(
        &format!("[limits]\ndeadline = '1s'\n{HANDLER}"),
        &[
            ("WASMILL_REDIS__URL", "redis://elsewhere:1"),
            ("WASMILL_REDIS__USERNAME", "1234"),
            ("WASMILL_LIMITS__DEADLINE", "2s"),
            ("WASMILL_LIMITS__PUBLISHES", "7"),
            ("WASMILL_ADMIN__LISTEN", ""),
            ("WASMILL_HANDLERS__payment__LIMITS__MEMORY", "1 MiB"),
            ("WASMILL_HANDLERS__PAYMENT__STREAMS", "['a', 'b']"),
            ("WASMILL_HANDLERS__PAYMENT__GRANTS", "['config']"),
            ("WASMILL_HANDLERS__PAYMENT__CONFIG__PORT", "8080"),
            ("WASMILL_CONFIG", "x.toml"),
            ("WASMILL_LOG", "debug"),
            ("WASMILL_ZIG", "python3 -m ziglang"),
            ("WASMILL_TEST_REDIS", "1"),
            ("WASMILL_SERVICE_HOST", "10.0.0.1"),
            ("WASMILL_REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
            ("HOME", "/"),
        ],
    );
    let config = config.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.redis.url, "redis://elsewhere:1");
    assert_eq!(config.redis.username.as_deref(), Some("1234"));
    assert_eq!((config.limits.deadline, config.limits.publishes), (Duration::from_secs(2), 7));
    assert_eq!(config.admin.address(), None);
    let handler = config.handler("payment").expect("it is there");
    assert_eq!((handler.limits.memory, handler.streams), (1 << 20, vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(handler.config.get("port"), Some(&ConfigValue::Text("8080".into())));
}

#[test]
fn what_handlers_are_granted_is_checked() {
    let granted = |rest: &str| format!("{HANDLER}grants = ['http']\n{rest}");
    let allowed = |rest: &str| granted(&format!("http.allow = ['https://a']\n{rest}"));
    assert!(parse(&allowed("")).is_ok());
    assert_fault(
        &format!("{HANDLER}grants = ['htpt']"),
        "w.toml:4:11: handlers.payment.grants[0]: unknown value `htpt`",
    );
    assert_fault(&format!("{HANDLER}grants = ['random', 'random']"), "w.toml:4:21: handlers.payment.grants[1]: ");
    assert_fault(&granted(""), "w.toml:4:1: handlers.payment.grants: \"http\" is granted, but no host is allowed");
    assert_fault(&format!("{HANDLER}http.private = true"), "w.toml:4:1: handlers.payment.http: has no effect");
    assert_fault(&format!("{HANDLER}config.key = 'a'"), "w.toml:4:1: handlers.payment.config: has no effect");
    assert!(parse(&format!("{HANDLER}grants = ['config']\nconfig.key = 'a'")).is_ok());
    for (origin, problem) in [
        ("example.com", "not a URL"),
        ("https://user:secret@a", "a user or password does not belong here"),
        ("https://a/path", "only scheme, host and port"),
        ("https://*.a", "hosts are named one by one"),
        ("ftp://a", "the scheme is neither http nor https"),
    ] {
        let text = granted(&format!("http.allow = ['https://a', '{origin}']"));
        assert_fault(&text, &format!("w.toml:5:28: handlers.payment.http.allow[1]: {problem}"));
        assert!(!parse(&text).expect_err("it is wrong").to_string().contains("secret"));
    }
    for (key, low, high, outside) in
        [("requests", "1", "1000", ["0", "1001"]), ("request_bytes", "0", "'64 MiB'", ["'65 MiB'", "67108865"])]
    {
        for value in [low, high] {
            assert!(parse(&allowed(&format!("http.{key} = {value}"))).is_ok(), "{key} = {value}");
        }
        for value in outside {
            let text = allowed(&format!("http.{key} = {value}"));
            assert_fault(&text, &format!("w.toml:6:6: handlers.payment.http.{key}: "));
        }
    }
    assert_fault(&allowed("http.timeout = '0s'"), "w.toml:6:6: handlers.payment.http.timeout: ");
}

#[test]
fn values_of_handlers_are_texts_or_references() {
    let with = |value: &str| format!("{HANDLER}grants = ['config']\n[handlers.payment.config]\nkey = {value}");
    for bad in ["1", "true", "['a']", "{}", "{ env = 'A', file = 'b' }", "{ var = 'A' }", "{ env = 1 }"] {
        let errors = parse(&with(bad)).expect_err(bad).to_string();
        assert!(errors.contains("handlers.payment.config.key"), "{bad}: {errors}");
    }
    assert_fault(&with("{ env = '' }"), "w.toml:6:1: handlers.payment.config.key: not the name of an environment");
    assert_fault(&with("{ file = '' }"), "w.toml:6:1: handlers.payment.config.key: names no file");
    let reserved = format!("{HANDLER}grants = ['config']\n[handlers.payment.config]\n'wasmill.x' = 'y'");
    assert_fault(&reserved, "w.toml:6:1: handlers.payment.config.\"wasmill.x\": ");

    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("w.toml");
    std::fs::write(&file, with("{ file = 'key.txt' }")).expect("it is writable");
    std::fs::write(dir.path().join("key.txt"), "hunter2\n").expect("it is writable");
    let config = Config::load(&file, []).unwrap_or_else(|errors| panic!("{errors}"));
    let handler = config.handler("payment").expect("it is there");
    assert!(handler.values().is_ok_and(|values| !format!("{values:?}").contains("hunter2")));
    assert!(!format!("{config:?} {handler:?}").contains("hunter2"));

    // A variable with our prefix that is named as the place of a value is no override.
    let named = with("{ env = 'WASMILL_PAYMENT_KEY' }");
    assert!(with_env(&named, &[("WASMILL_PAYMENT_KEY", "hunter2")]).is_ok());
}

#[test]
fn handler_names_are_found_in_variables() {
    let text = "[handlers.a__b-c]\ncomponent = 'x'\nstreams = ['s']\n[handlers.a]\ncomponent = 'x'\nstreams = ['s']\n";
    let env = [("WASMILL_HANDLERS__A__B_C__COMPONENT", "y"), ("WASMILL_HANDLERS__A__DEAD_LETTER", "d")];
    let config = with_env(text, &env).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(config.handlers["a__b-c"].component, PathBuf::from("y"));
    assert_eq!(config.handlers["a"].dead_letter.as_deref(), Some("d"));
}

#[test]
fn faulty_variables_are_named() {
    for (name, value, wanted) in [
        ("WASMILL_REDIS_URL", "x", "redis_url: unknown field; did you mean `WASMILL_REDIS__URL`?"),
        ("WASMILL_REDSI__URL", "x", "redsi: unknown field; did you mean `WASMILL_REDIS__URL`?"),
        ("WASMILL_LIMITS__DEADLIN", "1s", "limits.deadlin: unknown field; did you mean `WASMILL_LIMITS__DEADLINE`?"),
        ("WASMILL_LIMITS__DEADLINE", "5", "limits.deadline: invalid type: integer `5`, expected a duration"),
        ("WASMILL_LIMITS__DEADLINE", "soon", "limits.deadline: `soon` is not a duration"),
        ("WASMILL_LIMITS__MEMORY", "1", "limits.memory: 1 B is out of bounds"),
        (
            "WASMILL_HANDLERS__PAYMNT__TYPES",
            "[]",
            "handlers.paymnt: the file has no such handler; did you mean `WASMILL_HANDLERS__PAYMENT__TYPES`?",
        ),
        (
            "WASMILL_HANDLERS__PAYMENT__COMPONENT__X",
            "1",
            "handlers.payment.component.x: `handlers.payment.component` is",
        ),
        ("WASMILL_HANDLERS__PAYMENT__STREAMS", "['a', 'wasmill:b']", "handlers.payment.streams[1]: "),
        ("WASMILL_ZZZ", "1", "zzz: unknown field; known here: "),
    ] {
        let errors = with_env(HANDLER, &[(name, value)]).expect_err(name);
        let wanted = format!("environment variable {name}: {wanted}");
        assert!(errors.0.len() == 1 && errors.to_string().starts_with(&wanted), "wanted: {wanted}\ngot: {errors}");
    }
}

#[test]
fn secrets_are_neither_kept_nor_shown() {
    let text = "[redis]\nurl = 'redis://app:hunter2@host'";
    let config = parse(text).expect("a password may stand in the URL");
    assert!(!format!("{config:?}").contains("hunter2"));
    assert!(!toml::to_string(&config).expect("a config is TOML").contains("hunter2"));
    for text in [
        "[redis]\npassword = 'hunter2'",
        "[redis]\nurl = 'http://app:hunter2@host'",
        "[redis]\nurl = 'redis://app:hunter2@'",
        "[redis]\nurl = 'app:hunter2@host'",
        "redis = 'redis://:hunter2@host'",
        "redis_url = 'redis://:hunter2@host'",
        "[redis]\npasswd = 'hunter2'",
        "[redis]\nurl = ['hunter2']",
    ] {
        let faults = faults(text);
        assert!(faults.len() == 1 && !faults[0].contains("hunter2"), "{faults:?}");
    }
    // The variable that holds the password may have our prefix: it is none of the overrides.
    let env = [("WASMILL_REDIS__PASSWORD_ENV", "WASMILL_REDIS_PASSWORD"), ("WASMILL_REDIS_PASSWORD", "hunter2")];
    let config = with_env("", &env).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(!format!("{config:?}").contains("hunter2"));
    for name in
        ["WASMILL_REDIS_PASSWD", "WASMILL_REDIS", "WASMILL_REDIS__PASWORD_ENVV", "WASMILL_REDIS__CONNECT_TIMEOUT"]
    {
        let errors = with_env("", &[(name, "hunter2")]).expect_err(name).to_string();
        assert!(errors.contains("hunter2") == name.ends_with("TIMEOUT"), "only a faulty duration is shown: {errors}");
    }
    let errors = with_env("", &[("WASMILL_REDIS__PASSWORD", "hunter2")]).expect_err("no such key").to_string();
    assert!(!errors.contains("hunter2") && errors.contains("WASMILL_REDIS__PASSWORD_ENV"), "{errors}");
}

#[test]
fn handlers_are_resolved_over_the_general_settings() {
    let text = "[limits]\nmemory = '1 MiB'\n[retry]\nmax_attempts = 2\n[handlers.a]\ncomponent = 'a.wasm'\n\
                streams = ['s']\ntypes = ['order_*']\nisolation = 'reuse'\nreuse.max_events = 5\n\
                limits.deadline = '1s'\nretry.base = '1s'\npublishes = ['t']\ngrants = ['config']\nconfig.key = 'value'";
    let handler = parse(text).expect("it is right").handler("a").expect("it is there");
    let limits = ResolvedLimits { memory: 1 << 20, deadline: Duration::from_secs(1), ..(&Limits::default()).into() };
    assert_eq!(handler.limits, limits);
    let retry = RetryPolicy { max_attempts: 2, base: Duration::from_secs(1), cap: Duration::from_secs(300) };
    assert_eq!(handler.retry, retry);
    assert_eq!(handler.isolation, Isolation::Reuse { max_events: 5, max_memory_growth: 16 << 20 });
    assert_eq!(handler.dead_letter, "a.dead");
    assert!(handler.types.matches("order_placed") && !handler.types.matches("payment"));
    assert_eq!(Config::default().handler("a"), None);
    assert_eq!(Limits::default().memory, ByteSize::mib(64));
}

#[test]
fn paths_start_at_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("w.toml");
    std::fs::write(&file, format!("[redis]\npassword_file = '/run/secret'\n{HANDLER}")).expect("it is writable");
    let config = Config::load(&file, NO_ENV).expect("it is right");
    assert_eq!(config.handlers["payment"].component, dir.path().join("payment.wasm"));
    assert_eq!(config.redis.password_file, Some(PathBuf::from("/run/secret")));
    let missing = Config::load(&dir.path().join("none.toml"), NO_ENV).expect_err("it is not there").to_string();
    assert!(missing.contains("none.toml: the file cannot be read") && missing.contains("--config"), "{missing}");
    std::fs::write(&file, b"\xff").expect("it is writable");
    assert!(Config::load(&file, NO_ENV).is_err());
    assert_eq!(Config::load_or_default(None, NO_ENV), Ok(Config::default()));
}

#[test]
fn the_cache_has_a_place() {
    let env = |wanted: &'static str| move |name: &str| (name == wanted).then(|| "/x".to_owned());
    let worker = WorkerConfig::default();
    assert_eq!(worker.cache_dir(env("XDG_CACHE_HOME")), Some(PathBuf::from("/x/wasmill")));
    assert_eq!(worker.cache_dir(env("HOME")), Some(PathBuf::from("/x/.cache/wasmill")));
    assert_eq!(worker.cache_dir(|_| None), None);
    let worker = WorkerConfig { cache_dir: Some("/c".into()), ..worker };
    assert_eq!(worker.cache_dir(env("HOME")), Some(PathBuf::from("/c")));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_reading_panic(
        section in "(\\[(redis|limits|handlers\\.a)\\]\n)?",
        key in "(url|memory|streams|a\\.b|\"ö\")",
        value in "('x'|1|\\[1\\]|\\{ a = 1 \\}|.{0,5})",
    ) {
        let text = format!("{section}{key} = {value}");
        let _ = parse(&text);
    }

    #[test]
    fn no_variable_makes_reading_panic(name in "WASMILL_[A-Za-z_ö]{0,20}", value in ".{0,12}") {
        let _ = with_env(HANDLER, &[(&name, &value)]);
    }
}

#[test]
fn envelopes_are_checked_for_sense() {
    assert_fine("[streams.a]\nenvelope = 'json'\nfield = 'event'\ntime_format = 'seconds'\nnames = { id = 'uuid' }");
    assert_fine("[streams.a]\nenvelope = 'action'\nencoding = 'msgpack'\ndefault_type = 'x'");
    assert_fault(
        "[streams.a]\nfield = 'event'",
        "w.toml:2:1: streams.a.field: has no effect with `envelope = \"cloudevents\"`",
    );
    assert_fault(
        "[streams.a]\nenvelope = 'json'\nencoding = 'msgpack'",
        "w.toml:3:1: streams.a.encoding: has no effect",
    );
    assert_fault("[streams.a]\nenvelope = 'dapr'\nnames.id = 'x'", "w.toml:3:1: streams.a.names: has no effect");
    assert_fault("[streams.a]\nenvelope = 'jsn'", "w.toml:2:12: streams.a.envelope: ");
    assert_fault("[streams.a]\nenvelope = 'json'\nnames.idd = 'x'", "w.toml:3:7: streams.a.names.idd: ");
    let twice = "[streams.a]\nenvelope = 'json'\nnames = { id = 'x', type = 'x' }";
    assert_fault(twice, "w.toml:3:21: streams.a.names.type: `x` is the name of `id` already");
    let usual = "[streams.a]\nenvelope = 'json'\nnames = { id = 'source' }";
    assert_fault(usual, "w.toml:3:11: streams.a.names.id: `source` is the name of `source` already");
    assert_fine("[streams.a]\nenvelope = 'json'\nnames = { id = 'source', source = 'event_id' }");
    assert_fault("[streams.a]\nenvelope = 'json'\nfield = ''", "w.toml:3:1: streams.a.field: is empty");
    let intake = "[intake.i]\nchannel = 'c'\nstream = 'a'\n[streams.a]\nenvelope = ";
    assert_fine(&format!("{intake}'named'"));
    assert_fault(&format!("{intake}'flat'"), "w.toml:3:1: intake.i.stream: `a` has the envelope `flat`");
}

#[test]
fn a_handler_can_be_built_from_sources() {
    let with = |build: &str| format!("{HANDLER}[handlers.payment.build]\n{build}\n");
    let config = parse(&with("lang = 'cpp'\ndirectory = 'src'")).expect("it is right");
    let plan = config.handler("payment").and_then(|handler| handler.build).expect("it has a plan");
    assert_eq!((plan.name.as_str(), plan.lang), ("payment", crate::project::Lang::Cpp));
    assert_eq!((plan.directory.as_path(), plan.output.as_path()), (Path::new("src"), Path::new("payment.wasm")));
    assert_eq!(parse(HANDLER).expect("it is right").handler("payment").map(|handler| handler.build), Some(None));
    assert_fault(&with("directory = '.'"), "w.toml:4:19: handlers.payment.build.lang: is missing");
    assert_fault(&with("lang = 'cobol'"), "w.toml:5:8: handlers.payment.build.lang: unknown value `cobol`");
    assert_fault(&with("lang = 'c'\ndirectory = ''"), "w.toml:6:1: handlers.payment.build.directory: is empty");
}
