//! Connections of users: opened when needed, bounded, closed when idle, and none in the way of another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::runtime::Handle;
use wasmill::broker::keys::Namespace;
use wasmill::broker::redis::{RedisBroker, RedisUsers};
use wasmill::broker::{Broker, BrokerError, Refusal, Source};
use wasmill::event::Event;
use wasmill::outcome::Publication;
use wasmill_tests::eventually_async;
use wasmill_tests::redis_server::RedisServer;

use super::{DEADLINE, admin, grants, login, set_user, settings};

/// A server with `count` tenants `t0`, `t1`..., each with a user.
async fn server_with(count: usize) -> (RedisServer, MultiplexedConnection) {
    let server = RedisServer::start();
    let mut admin = admin(&server).await;
    for at in 0..count {
        set_user(&mut admin, &grants(&format!("t{at}"))).await;
    }
    (server, admin)
}

/// The users of the connections that are there, but for our own.
async fn connected(admin: &mut MultiplexedConnection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(admin).await.unwrap();
    let users = list.lines().filter_map(|line| line.split(' ').find_map(|word| word.strip_prefix("user=")));
    let mut users: Vec<String> = users.filter(|user| user.starts_with('t')).map(str::to_owned).collect();
    users.sort();
    users
}

/// What the tenant's handler `h` reads from its stream `in`.
fn source(tenant: &str) -> Source {
    Namespace::new(tenant, format!("{tenant}:")).source("in", "h")
}

async fn publish(broker: &RedisBroker, key: &str) -> Result<(), BrokerError> {
    let event = Event { id: "1".into(), source: "/t".into(), r#type: "t".into(), ..Event::default() };
    broker.publish(&[Publication::now(key.into(), event)]).await.map(drop)
}

#[tokio::test]
async fn connections_are_opened_when_needed_and_bounded() {
    let (server, mut admin) = server_with(4).await;
    let users = RedisUsers::bounded(settings(&server), Handle::current(), 2, Duration::from_secs(60));
    let brokers: Vec<_> = (0..4).map(|at| users.broker(&login(&format!("t{at}"), &format!("t{at}")))).collect();
    assert_eq!(connected(&mut admin).await, Vec::<String>::new());
    publish(&brokers[0], "t0:in").await.unwrap();
    publish(&brokers[1], "t1:in").await.unwrap();
    assert_eq!(connected(&mut admin).await, ["t0", "t1"]);
    // The one that was not used for longest makes room.
    publish(&brokers[0], "t0:in").await.unwrap();
    publish(&brokers[2], "t2:in").await.unwrap();
    eventually_async("the connection of t1 to go", DEADLINE, async || {
        (connected(&mut admin).await == ["t0", "t2"]).then_some(())
    })
    .await;
}

/// Four tenants on two connections, all of them busy all the time: each of them gets on.
#[tokio::test]
async fn whoever_waits_for_a_connection_gets_one() {
    let (server, mut admin) = server_with(4).await;
    let users = RedisUsers::bounded(settings(&server), Handle::current(), 2, Duration::from_secs(60));
    let end = Instant::now() + Duration::from_secs(2);
    let busy = |at: usize| {
        let (broker, key) = (users.broker(&login(&format!("t{at}"), &format!("t{at}"))), format!("t{at}:in"));
        async move {
            let one = async || {
                let mut done = 0;
                while Instant::now() < end {
                    publish(&broker, &key).await.unwrap();
                    done += 1;
                }
                done
            };
            // Two at a time: the connection is hardly ever idle.
            let (first, second): (usize, usize) = tokio::join!(one(), one());
            first + second
        }
    };
    let most = async {
        let mut most = 0;
        while Instant::now() < end {
            most = most.max(connected(&mut admin).await.len());
        }
        most
    };
    let (a, b, c, d, most) = tokio::join!(busy(0), busy(1), busy(2), busy(3), most);
    let done = [a, b, c, d];
    assert!(done.iter().all(|&done| done >= 20), "{done:?}");
    // One that is being closed may still be listed beside the one that takes its place.
    assert!(most <= 3, "{most}");
}

#[tokio::test]
async fn idle_connections_are_closed_though_somebody_keeps_looking() {
    let (server, mut admin) = server_with(1).await;
    let users = RedisUsers::bounded(settings(&server), Handle::current(), 2, Duration::from_secs(2));
    let (broker, source) = (users.broker(&login("t0", "t0")), source("t0"));
    broker.create_group(&source).await.unwrap();
    publish(&broker, &source.key).await.unwrap();
    assert_eq!(broker.read(&source, "wasmill-a.0", 10).await.unwrap().len(), 1);
    assert_eq!(connected(&mut admin).await, ["t0"]);
    let look = async {
        loop {
            assert!(broker.read(&source, "wasmill-a.0", 10).await.unwrap().is_empty());
            assert!(broker.claim_due(&source, "wasmill-a.0", 10).await.unwrap().entries.is_empty());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let closed = eventually_async("the connection to be closed", DEADLINE, async || {
        connected(&mut admin).await.is_empty().then_some(())
    });
    tokio::select! {
        () = users.close_idle() => {}
        () = look => {}
        () = closed => {}
    }
    // Whoever looks finds what comes, on a connection that is opened for it.
    let mut raw = super::admin(&server).await;
    let () = redis::cmd("XADD").arg(&*source.key).arg("*").arg(&["a", "b"]).query_async(&mut raw).await.unwrap();
    assert_eq!(broker.read(&source, "wasmill-a.0", 10).await.unwrap().len(), 1);
    assert_eq!(connected(&mut admin).await, ["t0"]);
}

/// A wrong password, and a right one for keys that the user may not touch: refused by Redis, and no other tenant's matter.
#[tokio::test]
async fn what_is_refused_for_one_user_does_not_disturb_another() {
    let (server, _admin) = server_with(2).await;
    // Room for one alone: who cannot log in does not keep it.
    let users = RedisUsers::bounded(settings(&server), Handle::current(), 1, Duration::from_secs(60));
    let (wrong, right) = (users.broker(&login("t0", "wrong")), users.broker(&login("t1", "t1")));
    for _ in 0..3 {
        let refused = publish(&wrong, "t0:in").await.unwrap_err();
        assert!(matches!(refused, BrokerError::Refused { refusal: Refusal::NotAuthenticated, .. }), "{refused}");
        publish(&right, "t1:in").await.unwrap();
        let refused = publish(&right, "t0:in").await.unwrap_err();
        assert!(matches!(refused, BrokerError::Refused { refusal: Refusal::NoPermission, .. }), "{refused}");
    }
    // The right password, in another place: from now on for all who have the broker.
    let mut corrected = login("t0", "t0");
    corrected.place = "another place".into();
    users.broker(&corrected);
    publish(&wrong, "t0:in").await.unwrap();
    let missing = wasmill::broker::redis::Login {
        password: Arc::new(|| Err("tenants.t0.redis.password_file: no such file".to_owned())),
        place: "a third place".into(),
        ..corrected
    };
    let refused = publish(&users.broker(&missing), "t0:in").await.unwrap_err().to_string();
    assert!(refused.contains("no such file"), "{refused}");
}
