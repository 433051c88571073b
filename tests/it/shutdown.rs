//! Ending while something is not done yet.

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use wasmill::broker::keys::Namespace;
use wasmill::broker::redis::{RedisBroker, RedisSettings};
use wasmill::broker::{Broker as _, BrokerError};
use wasmill_tests::guests;
use wasmill_tests::redis_server::RedisServer;
use wasmill_tests::worker::{Signal, Worker};

/// In front of a server: forwards the first connection, accepts the others and never answers them.
fn only_the_first_connection(server: &RedisServer) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let url = format!("redis://{}/", listener.local_addr().expect("an address"));
    let behind = server.port();
    thread::spawn(move || {
        let mut silent = Vec::new();
        for (number, client) in listener.incoming().map_while(Result::ok).enumerate() {
            if number > 0 {
                silent.push(client);
                continue;
            }
            let upstream = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)).expect("the server answers");
            for (mut from, mut to) in
                [(client.try_clone().expect("a handle"), upstream.try_clone().expect("a handle")), (upstream, client)]
            {
                // Ends with the connection.
                thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
            }
        }
    });
    url
}

/// The connections of the threads are opened when they are first used: a worker that is stopped right after its start
/// is in the middle of that.
#[test]
fn a_worker_whose_threads_are_still_connecting_can_be_stopped() {
    let server = RedisServer::start();
    let config = format!(
        "[redis]\nurl = \"{}\"\n[admin]\nlisten = \"\"\n[handlers.faults]\ncomponent = \"{}\"\n\
         streams = [\"faults.in\"]\n",
        only_the_first_connection(&server),
        guests::component("faults").display()
    );
    let mut worker = Worker::spawn(&config);
    wasmill_tests::eventually("the worker to be ready", Duration::from_secs(30), || {
        worker.stderr_text().contains("ready").then_some(())
    });
    worker.signal(Signal::TERM);
    // The time to connect is 5 s by default, the time to drain 25 s.
    assert!(worker.wait_exit(Duration::from_secs(20)).success(), "{}", worker.stderr_text());
}

/// A request that nobody polls any more, and that has not been dropped, holds up no other one.
#[tokio::test]
async fn a_request_that_is_put_aside_while_connecting_holds_up_no_other() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let url = format!("redis://{}/", listener.local_addr().expect("an address"));
    let second = Duration::from_secs(1);
    let broker = RedisBroker::new(RedisSettings::new(&url).expect("a valid URL").with_timeouts(second, second));
    let source = Namespace::default().source("orders", "billing");
    let limit = Duration::from_secs(10);

    // A request that is polled ends in time.
    let polled = tokio::time::timeout(limit, broker.read(&source, "wasmill-test.0", 1)).await;
    let error = polled.expect("an end within the time limits");
    assert!(matches!(error, Err(BrokerError::Unreachable { .. })), "{error:?}");

    let mut aside = Box::pin(broker.read(&source, "wasmill-test.0", 1));
    let polled_once = tokio::time::timeout(Duration::from_millis(50), &mut aside).await;
    assert!(polled_once.is_err(), "nobody answers");
    let other = broker.remove_consumer(&source, "wasmill-test.0");
    let error = tokio::time::timeout(limit, other).await.expect("an end though the first is put aside");
    assert!(matches!(error, Err(BrokerError::Unreachable { .. })), "{error:?}");
    drop(aside);
}
