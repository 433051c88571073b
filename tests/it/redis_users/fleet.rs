//! Whole workers whose tenants have users of their own.

use std::time::Duration;

use redis::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;
use wasmill::broker::acl::UserGrants;
use wasmill_tests::mill::Mill;
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::{eventually, guests};

const DEADLINE: Duration = Duration::from_secs(30);

/// A server with users for tenants.
struct Site {
    server: RedisServer,
    secrets: TempDir,
}

impl Site {
    fn new() -> Site {
        Site { server: RedisServer::start(), secrets: tempfile::tempdir().unwrap() }
    }

    /// Sets up the user of a tenant, and gives the section that says so.
    fn user(&self, tenant: &str, grants: UserGrants) -> String {
        let arguments = grants.arguments(&format!(">{tenant}-secret"));
        let () = redis::cmd("ACL").arg("SETUSER").arg(arguments).query(&mut self.redis()).unwrap();
        self.section(tenant, "secret")
    }

    /// The section of a tenant whose password is `TENANT-SECRET`.
    fn section(&self, tenant: &str, secret: &str) -> String {
        let file = self.secrets.path().join(format!("{tenant}-{secret}"));
        std::fs::write(&file, format!("{tenant}-{secret}\n")).unwrap();
        let file = file.display();
        format!("[tenants.{tenant}.redis]\nusername = \"{tenant}\"\npassword_file = \"{file}\"\n")
    }

    fn redis(&self) -> Connection {
        redis::Client::open(self.server.url()).unwrap().get_connection().unwrap()
    }
}

/// A handler `faults` of a tenant.
fn handler(tenant: &str, settings: &str) -> String {
    let component = guests::component("faults");
    format!(
        "[tenants.{tenant}.retry]\nmax_attempts = 3\nbase = \"10ms\"\ncap = \"50ms\"\n\
         [tenants.{tenant}.handlers.faults]\ncomponent = \"{}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n\
         {settings}\n",
        component.display()
    )
}

fn grants(tenant: &str) -> UserGrants {
    super::grants(tenant)
}

/// Publishes an event for a tenant by HTTP.
#[track_caller]
fn publish(mill: &Mill, tenant: &str, id: &str, r#type: &str, data: &str) {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/t", "type": r#type, "datacontenttype": "text/plain", "data": data,
    });
    let head = ["content-type: application/cloudevents+json"];
    let path = format!("/v1/tenants/{tenant}/streams/faults.in/events");
    let answer = mill.http("POST", &path, &head, event.to_string().as_bytes());
    assert_eq!(answer.status, 201, "{answer:?}");
}

/// The types of the events of a tenant's stream.
fn types(mill: &Mill, tenant: &str, stream: &str) -> Vec<String> {
    let answer = mill.http("GET", &format!("/v1/tenants/{tenant}/streams/{stream}/events?count=1000"), &[], b"");
    if answer.status == 404 {
        return Vec::new();
    }
    let events = answer.json()["events"].as_array().unwrap_or_else(|| panic!("{answer:?}")).clone();
    events.iter().map(|item| item["event"]["type"].as_str().unwrap_or("?").to_owned()).collect()
}

#[track_caller]
fn wait_for(mill: &Mill, tenant: &str, stream: &str, expected: &[&str]) {
    let what = format!("{expected:?} in {stream} of {tenant}; the worker said {}", mill.worker.stderr_text());
    let end = std::time::Instant::now() + DEADLINE;
    loop {
        let mut seen = types(mill, tenant, stream);
        seen.sort();
        if seen == expected {
            return;
        }
        assert!(std::time::Instant::now() < end, "waited in vain for {what}: {seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn stats(mill: &Mill, tenant: &str) -> Value {
    mill.http("GET", &format!("/v1/tenants/{tenant}/stats"), &[], b"").json()["handlers"]["faults"].clone()
}

/// What Redis has refused to whom, since its log was last emptied.
fn refused(redis: &mut Connection) -> Vec<String> {
    let log: Vec<Vec<redis::Value>> = redis::cmd("ACL").arg("LOG").query(redis).unwrap();
    log.iter().map(|entry| format!("{entry:?}")).collect()
}

/// All that a worker and its operators do for two tenants, under their users; Redis has nothing to refuse, and both have
/// the same names for everything.
#[test]
fn everything_works_under_the_users_of_the_tenants() {
    let site = Site::new();
    let dedup = "dedup = \"1h\"\n";
    let tenants = ["acme", "beta"].map(|tenant| [site.user(tenant, grants(tenant)), handler(tenant, dedup)].concat());
    let mut redis = site.redis();
    let mill = Mill::start_on(site.server, &tenants.concat());
    for tenant in ["acme", "beta"] {
        // Follow-ups, an event that was there already, retries, one for later, and dead letters.
        publish(&mill, tenant, "1", "echo", "1");
        wait_for(&mill, tenant, "faults.out", &["echoed"]);
        publish(&mill, tenant, "1", "echo", "1");
        publish(&mill, tenant, "2", "retry", "");
        wait_for(&mill, tenant, "faults.out", &["echoed", "retried"]);
        publish(&mill, tenant, "3", "later", "300");
        wait_for(&mill, tenant, "faults.out", &["echoed", "late", "retried"]);
        publish(&mill, tenant, "4", "panic", "");
        wait_for(&mill, tenant, "faults.dead", &["panic"]);
        assert_eq!(stats(&mill, tenant)["duplicate"], 1, "{:#}", stats(&mill, tenant));
        // By operators on Redis itself, and by the worker.
        let dlq = mill.json(&["--tenant", tenant, "dlq", "ls", "faults"]);
        assert_eq!(dlq.as_array().map(Vec::len), Some(1), "{dlq:#}");
        mill.text(&["--tenant", tenant, "dlq", "redrive", "faults", "--all"]);
        wait_for(&mill, tenant, "faults.dead", &["panic"]);
        mill.text(&["--tenant", tenant, "replay", "faults.in", "--handler", "faults", "--from", "0"]);
        eventually("the replay to have run", DEADLINE, || {
            let stats = stats(&mill, tenant);
            (stats["pending"] == 0 && stats["lag"] == 0 && stats["dead_letters"] == 2).then_some(())
        });
        // What lay in the inbox is trimmed when it has been settled.
        let inbox = format!("{tenant}:wasmill:inbox:faults");
        eventually("the inbox to be trimmed", DEADLINE, || {
            let length: usize = redis::cmd("XLEN").arg(&inbox).query(&mut redis).unwrap();
            (length == 0).then_some(())
        });
        for verb in [&["stats"][..], &["streams"], &["pending", "faults"], &["workers"], &["doctor"]] {
            mill.run(&[&["--tenant", tenant], verb].concat());
        }
        let letters = mill.json(&["--tenant", tenant, "dlq", "ls", "faults"]);
        let path = format!("/v1/tenants/{tenant}/handlers/faults/dead-letters/drop");
        let ids = json!({"ids": [letters[0]["id"]]}).to_string();
        let answer = mill.http("POST", &path, &["content-type: application/json"], ids.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let refused = refused(&mut redis);
    assert!(refused.is_empty(), "{refused:#?}");
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut redis).unwrap();
    for tenant in ["acme", "beta"] {
        let count = list.lines().filter(|line| line.contains(&format!(" user={tenant} "))).count();
        assert_eq!(count, 1, "one connection of {tenant} for all threads: {list}");
    }
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut redis).unwrap();
    let strange = |key: &&String| !["acme:", "beta:", "wasmill:"].iter().any(|prefix| key.starts_with(prefix));
    assert_eq!(keys.iter().filter(strange).count(), 0, "{keys:?}");
}

/// A host that asks for the wrong keys is stopped by Redis: nothing is written there, nothing is lost, somebody is told, and
/// others go on.
#[test]
fn redis_itself_refuses_what_a_tenant_may_not_touch() {
    let site = Site::new();
    // All that acme does would be on keys of `acme:`, and its user may touch those of `other:` alone.
    let wrong = UserGrants { prefix: "other:".into(), ..grants("acme") };
    let sections =
        [site.user("acme", wrong), handler("acme", ""), site.user("beta", grants("beta")), handler("beta", "")]
            .concat();
    let mut redis = site.redis();
    let fields = ["ce_id", "1", "ce_source", "/t", "ce_type", "echo", "data", "1"];
    let () = redis::cmd("XADD").arg("acme:faults.in").arg("*").arg(&fields).query(&mut redis).unwrap();
    let mill = Mill::start_on(site.server, &sections);
    publish(&mill, "beta", "1", "echo", "1");
    wait_for(&mill, "beta", "faults.out", &["echoed"]);
    eventually("the alarm", DEADLINE, || {
        let text = mill.worker.stderr_text();
        let line = text.lines().find(|line| line.contains("user_refused"))?.to_owned();
        (line.contains("acme") && line.contains("no permission") && !line.contains("acme-secret")).then_some(())
    });
    assert!(refused(&mut redis).iter().any(|entry| entry.contains("acme")));
    let event = json!({"specversion": "1.0", "id": "2", "source": "/t", "type": "echo"}).to_string();
    let head = ["content-type: application/cloudevents+json"];
    let answer = mill.http("POST", "/v1/tenants/acme/streams/faults.in/events", &head, event.as_bytes());
    assert_eq!(answer.status, 503, "{answer:?}");
    // As soon as the user may, all is done that was asked for.
    let arguments = grants("acme").arguments(">acme-secret");
    let () = redis::cmd("ACL").arg("SETUSER").arg(arguments).query(&mut redis).unwrap();
    wait_for(&mill, "acme", "faults.out", &["echoed"]);
    assert!(mill.worker.stderr_text().contains("read_refused"), "{}", mill.worker.stderr_text());
}

/// What was run and cannot be written stands still, alone, until it can be.
#[test]
fn an_effect_that_is_refused_is_kept_and_holds_up_its_tenant_alone() {
    let site = Site::new();
    let tenants = ["acme", "beta"].map(|tenant| [site.user(tenant, grants(tenant)), handler(tenant, "")].concat());
    let mut redis = site.redis();
    let mill = Mill::start_on(site.server, &tenants.concat());
    publish(&mill, "acme", "1", "echo", "1");
    wait_for(&mill, "acme", "faults.out", &["echoed"]);
    let mut set_user = |rules: &[&str]| {
        let () = redis::cmd("ACL").arg("SETUSER").arg("acme").arg(rules).query(&mut redis).unwrap();
    };
    set_user(&["-zadd"]);
    publish(&mill, "acme", "2", "retry", "");
    eventually("the alarm", DEADLINE, || mill.worker.stderr_text().contains("settle_refused").then_some(()));
    for at in 0..50 {
        publish(&mill, "beta", &at.to_string(), "echo", "1");
    }
    wait_for(&mill, "beta", "faults.out", &["echoed"; 50]);
    assert_eq!(types(&mill, "acme", "faults.out"), ["echoed"]);
    set_user(&["+zadd"]);
    wait_for(&mill, "acme", "faults.out", &["echoed", "retried"]);
}

/// A wrong password is one tenant's matter, at the start, while the worker runs, and until a reload mends it.
#[test]
fn a_wrong_password_is_one_tenants_matter() {
    let site = Site::new();
    let acme = site.user("acme", grants("acme"));
    let wrong = site.section("acme", "guess");
    let beta = [site.user("beta", grants("beta")), handler("beta", "")].concat();
    let (mut redis, mended) = (site.redis(), [acme, handler("acme", ""), beta.clone()].concat());
    let fields = ["ce_id", "1", "ce_source", "/t", "ce_type", "echo", "data", "1"];
    let () = redis::cmd("XADD").arg("acme:faults.in").arg("*").arg(&fields).query(&mut redis).unwrap();
    let mill = Mill::start_on(site.server, &[wrong, handler("acme", ""), beta].concat());
    publish(&mill, "beta", "1", "echo", "1");
    wait_for(&mill, "beta", "faults.out", &["echoed"]);
    let text = mill.worker.stderr_text();
    assert!(text.contains("user_refused") && text.contains("not authenticated"), "{text}");
    assert!(!text.contains("acme-guess"), "{text}");
    mill.reconfigure(&mended);
    mill.text(&["reload", "--admin", &mill.admin_url()]);
    wait_for(&mill, "acme", "faults.out", &["echoed"]);
}

/// The command line says how a user is set up, and what is wrong with one that was set up otherwise.
#[test]
fn a_user_is_set_up_by_the_line_and_looked_at_by_the_doctor() {
    let site = Site::new();
    let shares = format!(
        "[tenants.beta.streams.orders]\nreaders = [\"acme\"]\n[tenants.beta.streams.in]\npublishers = [\"acme\"]\n\
         [tenants.beta.handlers.other]\ncomponent = \"{}\"\nstreams = [\"in\"]\n",
        guests::component("faults").display()
    );
    let own = handler("acme", "").replace("[\"faults.in\"]", "[\"faults.in\", \"beta/orders\"]");
    let own = own.replace("[\"faults.out\"]", "[\"faults.out\", \"beta/in\"]");
    let mut redis = site.redis();
    let sections = [site.section("acme", "secret"), own, shares].concat();
    let mill = Mill::start_on(site.server, &sections);
    let line = mill.text(&["tenants", "acl", "acme"]);
    assert!(line.contains(" ~acme:* ") && line.contains(" ~beta:orders") && line.contains(" ~beta:in"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    let json = mill.json(&["tenants", "acl", "acme"]);
    let arguments: Vec<&str> =
        json["arguments"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let doctor = |level: &str, says: &str| {
        let output = mill.run(&["--tenant", "acme", "doctor", "--output", "json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let finding = report["findings"].as_array().unwrap().iter().find(|finding| finding["check"] == "user");
        let finding = finding.unwrap_or_else(|| panic!("{report:#}")).clone();
        assert_eq!(finding["level"], level, "{finding:#}");
        assert!(finding["message"].as_str().unwrap().contains(says), "{finding:#}");
        assert_eq!(finding["remedy"].as_str().unwrap().contains("wasmill tenants acl acme"), level != "ok");
    };
    doctor("error", "cannot work");
    let mut set_user = |rules: &[&str]| {
        let () = redis::cmd("ACL").arg("SETUSER").arg(rules).query(&mut redis).unwrap();
    };
    let real: Vec<&str> =
        arguments.iter().map(|&word| if word == ">PASSWORD" { ">acme-secret" } else { word }).collect();
    set_user(&real);
    doctor("ok", "no more");
    set_user(&["acme", "-xclaim", "-zadd"]);
    doctor("error", "`XCLAIM acme:");
    set_user(&real);
    set_user(&["acme", "+@all", "~*"]);
    doctor("warning", "`KEYS *`");
    set_user(&real);
    // What the line grants of the streams of others is enough to read them, and to publish to them.
    let fields = ["ce_id", "1", "ce_source", "/t", "ce_type", "echo", "data", "1"];
    let mut raw = site_redis(&mill);
    let () = redis::cmd("XADD").arg("beta:orders").arg("*").arg(&fields).query(&mut raw).unwrap();
    wait_for(&mill, "acme", "faults.out", &["echoed"]);
    assert!(mill.failure(2, &["tenants", "acl", "default"]).contains("worker's own user"));
}

fn site_redis(mill: &Mill) -> Connection {
    redis::Client::open(mill.server.as_ref().unwrap().url()).unwrap().get_connection().unwrap()
}

/// What the documentation says that the worker's own user needs beside users of tenants: to look at their keys.
#[test]
fn the_workers_own_user_needs_only_to_look_at_the_keys_of_tenants() {
    let site = Site::new();
    let sections = [site.user("acme", grants("acme")), handler("acme", "dedup = \"1h\"\n")].concat();
    let mut redis = site.redis();
    let () =
        redis::cmd("ACL").arg(&["SETUSER", "admin", "on", ">admin", "~*", "&*", "+@all"]).query(&mut redis).unwrap();
    let url = site.server.url().replace("redis://", "redis://admin:admin@");
    let mut admin = redis::Client::open(url).unwrap().get_connection().unwrap();
    let commands = "+ping +info +time +type +exists +set +del +evalsha +script|load +client|id +client|unblock +hello \
        +client|tracking +client|setinfo +pexpire +incr +xadd +xack +xread +xreadgroup +xclaim +xpending +xrange +xinfo \
        +xgroup +zadd +zrange +zrem +zremrangebyscore +xlen +xtrim +hkeys +hgetall +hget +hset +hdel +get +xrevrange +xdel \
        +zscore +hsetnx";
    // Before Redis 7.2 there is no such command, which is then asked for in vain.
    let commands = commands.split_whitespace().filter(|command| *command != "+client|setinfo");
    let rules = ["default", "resetkeys", "~wasmill:*", "%R~acme:*", "-@all"].into_iter().chain(commands);
    let () = redis::cmd("ACL").arg("SETUSER").arg(rules.collect::<Vec<_>>()).query(&mut admin).unwrap();
    let () = redis::cmd("ACL").arg(&["LOG", "RESET"]).query(&mut admin).unwrap();
    let mill = Mill::start_on(site.server, &sections);
    for (id, r#type, data) in [("1", "echo", "1"), ("2", "retry", ""), ("3", "later", "300"), ("4", "panic", "")] {
        publish(&mill, "acme", id, r#type, data);
    }
    wait_for(&mill, "acme", "faults.out", &["echoed", "late", "retried"]);
    wait_for(&mill, "acme", "faults.dead", &["panic"]);
    mill.text(&["--tenant", "acme", "dlq", "redrive", "faults", "--all"]);
    wait_for(&mill, "acme", "faults.dead", &["panic"]);
    let of_keys = refused(&mut admin).into_iter().filter(|entry| entry.contains("acme:"));
    assert_eq!(of_keys.collect::<Vec<_>>(), Vec::<String>::new());
}
