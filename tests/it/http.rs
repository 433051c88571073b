//! `wasi:http` through the binary: where requests may go, what they carry, and their caps. The server is on this machine,
//! so most handlers here name its address.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wasmill_tests::redis_server::{RedisServer, free_port};

use super::host_interfaces::{Mill, event, granted, invoke, seen};
use super::invoke::Place;

/// A server for a few requests. What the path says is what it does; it reports the requests that it got.
struct Server {
    address: SocketAddr,
    requests: Receiver<String>,
}

impl Server {
    fn start() -> Server {
        Server::at("127.0.0.1:0")
    }

    fn at(address: &str) -> Server {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let (report, requests) = channel();
        // Ends with the process: it waits for connections and holds nothing else.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let report = report.clone();
                std::thread::spawn(move || {
                    let request = read(&stream);
                    if request.is_empty() {
                        return;
                    }
                    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                    let _ = report.send(request.clone());
                    // Clients that went away are part of the tests.
                    let _ = answer(stream, &path, &request);
                });
            }
        });
        Server { address, requests }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far; all of them have been answered.
    fn got(&self) -> Vec<String> {
        self.requests.try_iter().collect()
    }
}

/// The head of a request and its body.
fn read(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    while reader.read_line(&mut text).unwrap_or(0) > 2 {}
    let length = header(&text, "content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    // An answer that comes before the end of the body would race with the client's own faults.
    while header(&text, "transfer-encoding").is_some() {
        let mut size = String::new();
        let line = reader.read_line(&mut size).unwrap_or(0);
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if line == 0 || reader.read_exact(&mut vec![0; size + 2]).is_err() {
            // The client went away in the middle.
            return String::new();
        }
        if size == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    if reader.read_exact(&mut body).is_ok() {
        text.push_str(&String::from_utf8_lossy(&body));
    }
    text
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn answer(mut stream: TcpStream, path: &str, request: &str) -> std::io::Result<()> {
    let plain = |body: &str| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    match path.trim_start_matches('/').split_once('-').unwrap_or((path, "")) {
        ("redirect", to) => stream
            .write_all(format!("HTTP/1.1 302 Found\r\nlocation: http://{to}/\r\ncontent-length: 0\r\n\r\n").as_bytes()),
        ("bytes", count) => stream.write_all(plain(&"x".repeat(count.parse().unwrap())).as_bytes()),
        // The same, without saying how much it is going to be.
        ("chunks", count) => {
            let count: usize = count.parse().unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            stream.write_all(format!("{count:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(count)).as_bytes())
        }
        ("head", count) => {
            let filler = format!("x-filler: {}\r\n", "x".repeat(4000)).repeat(count.parse().unwrap());
            stream.write_all(format!("HTTP/1.1 200 OK\r\n{filler}\r\n").as_bytes())
        }
        ("half", _) => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345"),
        ("garbage", _) => stream.write_all(b"220 mail.example ESMTP\r\n"),
        ("hang", _) => {
            // Until the client has had enough.
            let _ = stream.read(&mut [0]);
            Ok(())
        }
        ("stall", _) => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")?;
            let _ = stream.read(&mut [0]);
            Ok(())
        }
        _ => stream.write_all(plain(request).as_bytes()),
    }
}

/// A place whose handler may ask the server, with further settings of its section `http`.
fn allowed(origin: &str, settings: &str) -> Place {
    granted("", &format!("[handlers.outside.http]\nallow = [\"{origin}\"]\n{settings}"))
}

fn wish(authority: &str, path: &str) -> Value {
    json!({"scheme": "http", "authority": authority, "path": path})
}

/// What came back for each request, and everything that `invoke` printed.
fn ask_all(place: &Place, wish: &Value, arguments: &[&str]) -> (Vec<Value>, Value) {
    let document = invoke(place, &event("http", &wish.to_string()), arguments);
    (seen(&document).as_array().unwrap().clone(), document)
}

fn ask(place: &Place, wish: &Value) -> Value {
    ask_all(place, wish, &[]).0.remove(0)
}

#[track_caller]
fn assert_error(answer: &Value, wanted: &str) {
    assert!(answer["error"].as_str().is_some_and(|error| error.contains(wanted)), "wanted {wanted}: {answer}");
}

/// A denial is told to the guest, counted and logged with handler and host.
#[track_caller]
fn assert_denied(place: &Place, wish: &Value, code: &str, reason: &str) {
    let (answers, document) = ask_all(place, wish, &[]);
    assert_error(&answers[0], code);
    let logs = document["logs"].to_string();
    assert!(logs.contains("handler outside: the request to ") && logs.contains(reason), "{logs}");
}

#[test]
fn a_request_to_a_host_that_is_named_arrives_with_everything_in_it() {
    let server = Server::start();
    let place = allowed(&server.origin(), "");
    let mut wish = wish(&server.address.to_string(), "/orders?id=1");
    wish["method"] = json!("POST");
    wish["body"] = json!(10);
    wish["headers"] = json!({"x-own": "yes", "content-length": "10"});
    let answer = ask(&place, &wish);
    assert_eq!(answer["status"], 200, "{answer}");
    let request = server.got().remove(0);
    assert_eq!(answer["body"], request.as_str());
    assert!(request.starts_with("POST /orders?id=1 HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(&request, "host"), Some(server.address.to_string().as_str()));
    assert_eq!(header(&request, "x-own"), Some("yes"));
    assert!(request.contains("xxxxxxxxxx"), "{request}");
}

#[test]
fn requests_have_keys_that_another_attempt_has_again() {
    let server = Server::start();
    let place = allowed(&server.origin(), "");
    let mut wish = wish(&server.address.to_string(), "/");
    wish["times"] = json!(2);
    let run = |arguments: &[&str]| -> Vec<String> {
        let (answers, _) = ask_all(&place, &wish, arguments);
        let sent = server.got();
        for (answer, request) in answers.iter().zip(&sent) {
            assert_eq!(answer["key"].as_str(), header(request, "idempotency-key"), "the guest reads the same key");
        }
        sent.iter().map(|request| header(request, "idempotency-key").unwrap().to_owned()).collect()
    };
    let first = run(&[]);
    assert_ne!(first[0], first[1]);
    assert!(first.iter().all(|key| key.len() == 36 && key.as_bytes()[14] == b'8'), "UUIDv8: {first:?}");
    assert_eq!(first, run(&["--attempt", "2"]));

    wish["headers"] = json!({"idempotency-key": "own"});
    let (_, _) = ask_all(&place, &wish, &[]);
    assert!(server.got().iter().all(|request| header(request, "idempotency-key") == Some("own")));
}

#[test]
fn scheme_host_and_port_have_to_be_the_ones_that_are_named() {
    let server = Server::start();
    let place = allowed(&server.origin(), "");
    let authority = server.address.to_string();
    let (port, not_allowed) = (server.address.port(), "not among handlers.NAME.http.allow");
    for other in [format!("localhost:{port}"), format!("127.0.0.2:{port}"), "127.0.0.1".into(), "example.com".into()] {
        assert_denied(&place, &wish(&other, "/"), "HttpRequestDenied", not_allowed);
    }
    let mut secure = wish(&authority, "/");
    secure["scheme"] = json!("https");
    assert_denied(&place, &secure, "HttpRequestDenied", not_allowed);
    assert_denied(&place, &wish(&format!("me:pw@{authority}"), "/"), "HttpRequestUriInvalid", "a user or password");
    let mut tunnel = wish(&authority, "/");
    tunnel["method"] = json!("CONNECT");
    assert_denied(&place, &tunnel, "HttpRequestMethodInvalid", "CONNECT is not allowed");
    let mut other = wish(&authority, "/");
    other["scheme"] = json!("gopher");
    assert_error(&ask(&place, &other), "HttpProtocolError");
    assert_eq!(server.got(), Vec::<String>::new());
}

#[test]
fn names_that_mean_this_machine_are_refused_unless_private_addresses_are_allowed() {
    let server = Server::at("127.0.0.1:0");
    let name = format!("localhost:{}", server.address.port());
    let place = allowed(&format!("http://{name}"), "");
    assert_denied(&place, &wish(&name, "/"), "DestinationIpProhibited", "private");
    assert_eq!(server.got(), Vec::<String>::new());
    let place = allowed(&format!("http://{name}"), "private = true");
    assert_eq!(ask(&place, &wish(&name, "/"))["status"], 200);
}

#[test]
fn addresses_that_are_no_host_are_refused_even_if_they_are_named() {
    let server = Server::start();
    for host in ["0.0.0.0", "[::]", "224.0.0.1", "[::ffff:0.0.0.0]"] {
        let authority = format!("{host}:{}", server.address.port());
        let place = allowed(&format!("http://{authority}"), "private = true");
        assert_denied(&place, &wish(&authority, "/"), "DestinationIpProhibited", "not the address of a host");
    }
    assert_eq!(server.got(), Vec::<String>::new());
}

#[test]
fn our_own_redis_and_admin_api_are_out_of_reach() {
    // In the place of Redis, so that a request would be seen.
    let server = Server::at("0.0.0.0:0");
    let port = server.address.port();
    let other = free_port();
    for own in [
        format!("[redis]\nurl = \"redis://127.0.0.1:{port}\"\n[admin]\nlisten = \"127.0.0.1:{other}\""),
        format!("[redis]\nurl = \"redis://localhost:{port}\"\n[admin]\nlisten = \"127.0.0.1:{other}\""),
        format!("[redis]\nurl = \"redis://127.0.0.1:{other}\"\n[admin]\nlisten = \"127.0.0.1:{port}\""),
    ] {
        let names = ["127.0.0.1", "127.0.0.9", "localhost", "[::ffff:127.0.0.1]"];
        let allow: Vec<String> = names.iter().map(|name| format!("\"http://{name}:{port}\"")).collect();
        let sections = format!("[handlers.outside.http]\nprivate = true\nallow = [{}]\n{own}", allow.join(", "));
        let place = granted("", &sections);
        for name in names {
            let wish = wish(&format!("{name}:{port}"), "/");
            assert_denied(&place, &wish, "DestinationIpProhibited", "an address of wasmill itself");
        }
    }
    assert_eq!(server.got(), Vec::<String>::new());
}

#[test]
fn redirects_are_answers_like_any_other() {
    let (server, elsewhere) = (Server::start(), Server::start());
    let place = allowed(&server.origin(), "");
    let answer = ask(&place, &wish(&server.address.to_string(), &format!("/redirect-{}", elsewhere.address)));
    assert_eq!(answer["status"], 302, "{answer}");
    assert_eq!((server.got().len(), elsewhere.got().len()), (1, 0));
}

#[test]
fn requests_and_their_bodies_are_bounded_per_delivery() {
    let server = Server::start();
    let place = allowed(&server.origin(), "requests = 3\nrequest_bytes = 9000");
    let authority = server.address.to_string();
    let mut many = wish(&authority, "/");
    many["times"] = json!(5);
    let (answers, document) = ask_all(&place, &many, &[]);
    let statuses: Vec<&Value> = answers.iter().map(|answer| &answer["status"]).collect();
    assert_eq!(statuses[..3], [200, 200, 200]);
    assert_error(&answers[3], "HttpRequestDenied");
    assert!(document["logs"].to_string().contains("handlers.NAME.http.requests"), "{document}");
    assert_eq!(server.got().len(), 3);

    let mut large = wish(&authority, "/");
    large["method"] = json!("POST");
    large["body"] = json!(9000);
    assert_eq!(ask(&place, &large)["status"], 200);
    large["body"] = json!(9001);
    assert_error(&ask(&place, &large), "HttpRequestBodySize(Some(9000))");
    large["headers"] = json!({"content-length": "9001"});
    assert_error(&ask(&place, &large), "HttpRequestBodySize(Some(9000))");
    // Together.
    let mut twice = wish(&authority, "/");
    twice["method"] = json!("POST");
    twice["body"] = json!(4501);
    twice["times"] = json!(2);
    let (answers, _) = ask_all(&place, &twice, &[]);
    assert_eq!(answers[0]["status"], 200);
    assert_error(&answers[1], "HttpRequestBodySize");
}

#[test]
fn responses_are_bounded_per_delivery() {
    let server = Server::start();
    let place = allowed(&server.origin(), "response_bytes = 5000");
    let authority = server.address.to_string();
    for path in ["bytes", "chunks"] {
        assert_eq!(ask(&place, &wish(&authority, &format!("/{path}-5000")))["bytes"], 5000);
        let over = ask(&place, &wish(&authority, &format!("/{path}-5001")));
        assert_error(&over, "HttpResponseBodySize(Some(5000))");
        let mut twice = wish(&authority, &format!("/{path}-2501"));
        twice["times"] = json!(2);
        let (answers, _) = ask_all(&place, &twice, &[]);
        assert_eq!(answers[0]["bytes"], 2501);
        assert_error(&answers[1], "HttpResponseBodySize(Some(5000))");
    }
    assert_error(&ask(&place, &wish(&authority, "/head-90")), "HttpResponseHeaderSectionSize");
}

#[test]
fn servers_that_fail_are_told_by_the_standard_codes() {
    let server = Server::start();
    let authority = server.address.to_string();
    let place = allowed(&server.origin(), "timeout = \"300ms\"");
    assert_error(&ask(&place, &wish(&authority, "/half-")), "HttpResponseIncomplete");
    assert_error(&ask(&place, &wish(&authority, "/garbage-")), "HttpProtocolError");
    let begin = Instant::now();
    assert_error(&ask(&place, &wish(&authority, "/hang-")), "ConnectionReadTimeout");
    assert_error(&ask(&place, &wish(&authority, "/stall-")), "ConnectionReadTimeout");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());

    let nobody = format!("127.0.0.1:{}", free_port());
    assert_error(&ask(&allowed(&format!("http://{nobody}"), ""), &wish(&nobody, "/")), "ConnectionRefused");
    let unknown = "no-such-host.invalid";
    assert_error(&ask(&allowed(&format!("http://{unknown}"), ""), &wish(unknown, "/")), "DnsError");
    // Not TLS at all.
    let mut secure = wish(&authority, "/");
    secure["scheme"] = json!("https");
    assert_error(&ask(&allowed(&format!("https://{authority}"), ""), &secure), "TlsProtocolError");
}

#[test]
fn a_request_ends_with_its_delivery() {
    let server = Server::start();
    let place = allowed(&server.origin(), "timeout = \"60s\"\n[handlers.outside.limits]\ndeadline = \"300ms\"");
    let wish = wish(&server.address.to_string(), "/hang-");
    let begin = Instant::now();
    let document = invoke(&place, &event("http", &wish.to_string()), &[]);
    // The request ends when the delivery does, and either of the two may be seen first.
    assert!(["timeout", "ack"].contains(&document["outcome"].as_str().unwrap()), "{document}");
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let place = tempfile::tempdir().unwrap();
    let [certificate, key] = ["certificate.pem", "key.pem"].map(|name| place.path().join(name));
    std::fs::write(&certificate, certified.cert.pem()).unwrap();
    std::fs::write(&key, certified.signing_key.serialize_pem()).unwrap();
    let (port, files) = (free_port(), [&certificate, &key].map(|path| path.to_str().unwrap()));
    // Redis serves here as any server that speaks TLS.
    let _server = RedisServer::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        files[0],
        "--tls-key-file",
        files[1],
        "--tls-ca-cert-file",
        files[0],
        "--tls-auth-clients",
        "no",
    ]);
    let authority = format!("localhost:{port}");
    let mut wish = wish(&authority, "/");
    wish["scheme"] = json!("https");
    let place = allowed(&format!("https://{authority}"), "private = true");
    assert_error(&ask(&place, &wish), "TlsCertificateError");
}

#[test]
fn denied_requests_are_counted() {
    let server = Server::start();
    let mut mill = Mill::new(&format!("isolation = \"reuse\"\nhttp.allow = [\"{}\"]", server.origin()));
    for (id, authority) in [("1", "example.com"), ("2", &*server.address.to_string()), ("3", "example.com")] {
        mill.add(id, "http", &wish(authority, "/").to_string());
    }
    let answers = mill.wait_for(3);
    assert_eq!(answers.iter().filter(|entry| entry["data"].contains("\"status\":200")).count(), 1, "{answers:?}");
    assert_eq!(server.got().len(), 1);
    let mut stream = TcpStream::connect(("127.0.0.1", mill.admin)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("wasmill_http_denied_total{handler=\"outside\"} 2"), "{text}");
}
