//! The Redis users of tenants: what bounds them, and their connections.

mod connections;
mod fleet;

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use wasmill::broker::acl::UserGrants;
use wasmill::broker::redis::{Login, RedisBroker, RedisSettings};
use wasmill::broker::{EntryId, Inspect as _, Store as _};
use wasmill_tests::redis_server::RedisServer;

/// How long anything that must happen may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A connection of somebody who may do everything.
async fn admin(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

/// Sets up the user as the line says, with its name as the password.
async fn set_user(admin: &mut MultiplexedConnection, grants: &UserGrants) {
    let mut command = redis::cmd("ACL");
    command.arg("SETUSER").arg(grants.arguments(&format!(">{}", grants.username)));
    let () = command.query_async(admin).await.unwrap();
}

fn grants(tenant: &str) -> UserGrants {
    UserGrants { username: tenant.to_owned(), prefix: format!("{tenant}:"), ..UserGrants::default() }
}

fn login(user: &str, password: &str) -> Login {
    let password = Ok(password.to_owned());
    let (tenant, place) = (user.into(), "a test".into());
    Login { tenant, username: user.into(), place, password: Arc::new(move || password.clone()) }
}

fn settings(server: &RedisServer) -> RedisSettings {
    RedisSettings::new(&server.url()).unwrap()
}

/// Redis itself says that the line grants all that is needed, and nothing of what is not.
#[tokio::test]
async fn the_line_grants_what_is_needed_and_no_more() {
    let server = RedisServer::start();
    let (mut admin, broker) = (admin(&server).await, RedisBroker::new(settings(&server)));
    let odd = "crm:in *[x]?^\\(\"y\")";
    let foreign = UserGrants {
        publishes: vec!["crm:in".into(), odd.into()],
        reads: vec!["shop:orders".into()],
        ..grants("acme")
    };
    for grants in [grants("acme"), foreign, UserGrants { database: 3, ..grants("acme") }] {
        set_user(&mut admin, &grants).await;
        let needs = grants.needs();
        let refused = broker.user_may_not("acme", &needs).await.unwrap().expect("we may ask");
        let refused: Vec<_> = needs.iter().zip(refused).filter_map(|(command, why)| Some((command, why?))).collect();
        assert!(refused.is_empty(), "{grants}\n{refused:?}");
        let others =
            ["shop:orders", "shop:other", "crm:in", "crm:in2", "acm", "wasmill:workers", "wasmill:deployments"];
        let must_not = grants.must_not(&others.map(str::to_owned));
        let answers = broker.user_may_not("acme", &must_not).await.unwrap().expect("we may ask");
        let allowed: Vec<_> = must_not.iter().zip(answers).filter(|(_, why)| why.is_none()).collect();
        assert!(allowed.is_empty(), "{grants}\n{allowed:?}");
    }
    // A stream that may be published to may not be read, and none of both may be deleted from.
    let more = [["XRANGE", odd, "-", "+"], ["XDEL", odd, "0-1", ""], ["XDEL", "shop:orders", "0-1", ""]];
    let more = more.map(|words| words.into_iter().filter(|word| !word.is_empty()).map(str::to_owned).collect());
    assert!(broker.user_may_not("acme", &more).await.unwrap().unwrap().iter().all(Option::is_some));
    // Somebody who is not there may nothing; and whoever may not ask gets no answer.
    let needs = grants("nobody").needs();
    assert!(broker.user_may_not("nobody", &needs).await.unwrap().unwrap().iter().all(Option::is_some));
    let url = server.url().replace("redis://", "redis://acme:acme@");
    let asking = RedisBroker::new(RedisSettings::new(&url).unwrap());
    assert_eq!(asking.user_may_not("acme", &needs).await.unwrap(), None);
}

/// A tenant's user may not touch the log of what the tenant's people have done; the worker writes it all the same.
#[tokio::test]
async fn the_audit_log_is_out_of_reach_and_written_nevertheless() {
    let server = RedisServer::start();
    let mut admin = admin(&server).await;
    set_user(&mut admin, &grants("acme")).await;
    let broker = RedisBroker::for_user(settings(&server), login("acme", "acme"));
    let line = vec![(b"verb".to_vec(), b"pause".to_vec())];
    let id = broker.write_audit("acme", &line).await.unwrap();
    let read = broker.audit("acme", EntryId::MIN, EntryId::MAX, 10).await.unwrap();
    assert_eq!(read.iter().map(|entry| (entry.id, &entry.fields)).collect::<Vec<_>>(), [(id, &line)]);
    let refused = broker.range("wasmill:audit:acme", EntryId::MIN, EntryId::MAX, 1).await.unwrap_err();
    assert!(refused.to_string().contains("no permission"), "{refused}");
}

/// The line as it is printed is what redis-cli takes.
#[tokio::test]
async fn redis_cli_takes_the_line_as_it_is_printed() {
    let server = RedisServer::start();
    let mut grants = grants("acme");
    grants.publishes.push("crm:\"in\" \\ *".to_owned());
    grants.reads.push("shop:orders".to_owned());
    let mut command = std::process::Command::new("redis-cli");
    command.arg("-p").arg(server.port().to_string()).stdin(std::process::Stdio::piped());
    let mut cli = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut cli.stdin.take().unwrap(), format!("{grants}\n").as_bytes()).unwrap();
    let output = cli.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "OK", "{grants}");
    let broker = RedisBroker::new(settings(&server));
    let refused = broker.user_may_not("acme", &grants.needs()).await.unwrap().unwrap();
    assert!(refused.iter().all(Option::is_none), "{grants}\n{refused:?}");
}
