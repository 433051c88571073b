//! Components from registries: a real one, and one that lies.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use wasmill::deploy::PublicKeys;
use wasmill::deploy::source::{self, SourceError};
use wasmill::oci::{self, Artifact, FetchLimits, OciError};
use wasmill::wasm::{CompiledCache, Digest, Engine, EngineSettings, MAX_COMPONENT_BYTES};
use wasmill_tests::guests;
use wasmill_tests::mill::{Mill, Way};
use wasmill_tests::on_every_way;
use wasmill_tests::redis_server::free_port;
use wasmill_tests::registry::{Registry, WASM};

use crate::invoke::{Place, code, said};
use crate::oci as subject;

/// Finds and fetches with these limits.
fn fetch_with(reference: &str, limits: FetchLimits) -> Result<Vec<u8>, OciError> {
    oci::blocking(async { Artifact::find(reference, limits).await?.fetch().await })
}

fn fetch(reference: &str) -> Result<Vec<u8>, OciError> {
    fetch_with(reference, FetchLimits::default())
}

#[track_caller]
fn refused(reference: &str, why: &str) {
    let error = fetch(reference).expect_err(reference).to_string();
    assert!(error.contains(why), "{reference}: {error}");
}

/// A registry that answers as the test says: a path, and what is sent.
struct Liar {
    name: String,
    asked: Arc<AtomicUsize>,
}

impl Liar {
    fn start(answers: impl IntoIterator<Item = (String, Vec<u8>)>) -> Liar {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let name = listener.local_addr().unwrap().to_string();
        let answers: HashMap<String, Vec<u8>> = answers.into_iter().collect();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if answer(stream, &answers).is_some_and(|path| path.contains("/blobs/")) {
                    count.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Liar { name, asked }
    }

    /// One that has a manifest and, under the digest that it names, these bytes.
    fn with(manifest: &str, layer: &Digest, bytes: Vec<u8>) -> (Liar, String) {
        let digest = Digest::of(manifest.as_bytes());
        let answers = [
            (format!("/v2/p/manifests/{digest}"), manifest.as_bytes().to_vec()),
            (format!("/v2/p/blobs/{layer}"), bytes),
        ];
        let liar = Liar::start(answers);
        let reference = format!("oci://{}/p@{digest}", liar.name);
        (liar, reference)
    }
}

/// Answers one request; the path. What is not known is not found, and `hang` is never answered.
fn answer(mut stream: TcpStream, answers: &HashMap<String, Vec<u8>>) -> Option<String> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    while !lines.next()?.ok()?.is_empty() {}
    let (status, body) = match answers.get(&path) {
        Some(body) if body == b"hang" => {
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(60));
                drop(stream);
            });
            return Some(path);
        }
        Some(body) => ("200 OK", body.as_slice()),
        None if path == "/v2/" => ("200 OK", &b"{}"[..]),
        None => ("404 Not Found", &b"{}"[..]),
    };
    // Without a length: how much it is shows while it is read.
    let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n").as_bytes());
    let _ = stream.write_all(body);
    Some(path)
}

fn manifest(layer: &Digest, size: u64) -> String {
    let config =
        format!(r#"{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"{}","size":2}}"#, Digest::of(b"{}"));
    format!(
        r#"{{"schemaVersion":2,"config":{config},"layers":[{{"mediaType":"{WASM}","digest":"{layer}","size":{size}}}]}}"#
    )
}

#[test]
fn what_was_pushed_comes_back() {
    let registry = Registry::start();
    let pinned = registry.push_component("shop/payment:1", b"bytes", &[]);
    assert_eq!(fetch(&pinned).unwrap(), b"bytes");
    let (reference, digest) = registry.push("legacy:1", &[("application/vnd.wasm.content.layer.v1+wasm", b"old")], &[]);
    assert_eq!(fetch(&format!("{reference}@{digest}")).unwrap(), b"old");
    // The digest alone is enough.
    let (name, digest) = pinned.split_once(":1@").unwrap();
    assert_eq!(fetch(&format!("{name}@{digest}")).unwrap(), b"bytes");
}

#[test]
fn what_is_not_pinned_is_refused_with_the_reference_to_write() {
    let registry = Registry::start();
    let pinned = registry.push_component("payment:1", b"bytes", &[]);
    let (tag, _) = pinned.split_once('@').unwrap();
    refused(tag, &format!("write {pinned}"));
    refused(&format!("{tag}0"), "has no oci://");
}

#[test]
fn what_is_no_component_is_refused() {
    let registry = Registry::start();
    let pin = |layers: &[(&str, &[u8])]| {
        let (reference, digest) = registry.push("p:1", layers, &[]);
        format!("{reference}@{digest}")
    };
    refused(&pin(&[(WASM, b"one"), (WASM, b"two")]), "2 layers, not one");
    refused(&pin(&[("application/vnd.oci.image.layer.v1.tar", b"one")]), "is of type `application/vnd.oci.image.layer");
    refused(&pin(&[]), "no layer");
    let absent = format!("oci://{}/p@{}", registry.name(), Digest::of(b"absent"));
    refused(&absent, "is the name right");
    refused(&absent.replace("/p@", "/other@"), "is the name right");
    refused(&format!("oci://127.0.0.1:{}/p@{}", free_port(), Digest::of(b"")), "cannot be reached");
}

#[test]
fn what_a_registry_gives_is_checked_by_its_digest() {
    let layer = Digest::of(b"bytes");
    let (_liar, reference) = Liar::with(&manifest(&layer, 5), &layer, b"bytes".to_vec());
    assert_eq!(fetch(&reference).unwrap(), b"bytes");
    let (_liar, reference) = Liar::with(&manifest(&layer, 5), &layer, b"BYTES".to_vec());
    refused(&reference, "another layer");
    let (_liar, reference) = Liar::with(&manifest(&layer, 5), &layer, b"byte".to_vec());
    refused(&reference, "another layer");
    let (_liar, reference) = Liar::with(&manifest(&layer, 5), &layer, b"bytes and more".to_vec());
    refused(&reference, "more than the 5 bytes");
    let text = manifest(&layer, 5);
    let wanted = Digest::of(text.as_bytes());
    let other = text.replace("\"size\":5", "\"size\":6");
    let liar = Liar::start([(format!("/v2/p/manifests/{wanted}"), other.into_bytes())]);
    refused(&format!("oci://{}/p@{wanted}", liar.name), "another manifest");
}

#[test]
fn what_is_read_of_a_registry_is_bounded() {
    let layer = Digest::of(b"bytes");
    // The layer, at its edge: by what the manifest says of it, before a byte is asked for.
    for (size, is_allowed) in [(MAX_COMPONENT_BYTES, true), (MAX_COMPONENT_BYTES + 1, false)] {
        let (liar, reference) = Liar::with(&manifest(&layer, size), &layer, b"bytes".to_vec());
        let found = oci::blocking(Artifact::find(&reference, FetchLimits::default()));
        assert_eq!(found.is_ok(), is_allowed, "{found:?}");
        assert_eq!(liar.asked.load(Ordering::SeqCst), 0);
    }
    // The manifest: with white space after it, it is as good as without.
    for (length, is_allowed) in [(oci::MAX_MANIFEST_BYTES, true), (oci::MAX_MANIFEST_BYTES + 1, false)] {
        let mut text = manifest(&layer, 5);
        text.push_str(&" ".repeat(length as usize - text.len()));
        let (_liar, reference) = Liar::with(&text, &layer, b"bytes".to_vec());
        match fetch(&reference) {
            Ok(_) => assert!(is_allowed),
            Err(error) => assert!(!is_allowed && error.to_string().contains("its manifest has more"), "{error}"),
        }
    }
    // Time, of the manifest and of the layer.
    let limits = FetchLimits { time: Duration::from_millis(300), ..FetchLimits::default() };
    let text = manifest(&layer, 5);
    let (_liar, reference) = Liar::with(&text, &layer, b"hang".to_vec());
    assert!(matches!(fetch_with(&reference, limits), Err(OciError::TooSlow { .. })));
    let liar = Liar::start([("/v2/".to_owned(), b"hang".to_vec())]);
    let reference = format!("oci://{}/p@{layer}", liar.name);
    assert!(matches!(fetch_with(&reference, limits), Err(OciError::TooSlow { .. })));
}

#[test]
fn the_compiled_cache_is_asked_before_the_layer() {
    let bytes = std::fs::read(guests::component("faults")).unwrap();
    let digest = Digest::of(&bytes);
    let dir = tempfile::tempdir().unwrap();
    let cache = CompiledCache::open(&dir.path().join("cache")).unwrap();
    let engine = Engine::new(EngineSettings { instances: 1, max_memory: 64 << 20 }).unwrap();
    let (liar, reference) = Liar::with(&manifest(&digest, bytes.len() as u64), &digest, bytes);
    for _ in 0..2 {
        let component = source::load(&engine, Some(&cache), &PublicKeys::default(), Path::new(&reference))
            .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(component.digest, digest);
    }
    assert_eq!(liar.asked.load(Ordering::SeqCst), 1);
}

#[test]
fn a_file_is_bounded_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.wasm");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(MAX_COMPONENT_BYTES + 1).unwrap();
    assert!(matches!(source::fetch(&path, None), Err(SourceError::Load(_))));
    file.set_len(MAX_COMPONENT_BYTES).unwrap();
    assert_eq!(source::fetch(&path, None).map(|fetched| fetched.bytes.len() as u64).ok(), Some(MAX_COMPONENT_BYTES));
}

/// With credentials: as `docker login` leaves them.
#[test]
fn a_registry_may_want_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("htpasswd");
    // `mill` with the password `grain`, by bcrypt.
    std::fs::write(&users, "mill:$2y$05$RHSNxyvjHprZfFRG2CzLAu03WvaN0lq5SzK6fMpAV6f50HJ5lQVe.\n").unwrap();
    let registry =
        Registry::start_with(&format!("auth:\n  htpasswd:\n    realm: mill\n    path: {}\n", users.display()));
    let name = registry.name();
    let reference = format!("oci://{name}/p:1@{}", Digest::of(b"none"));
    let place = Place::new("");
    let login = dir.path().join("config.json");
    let deploy = |auth: &str| {
        std::fs::write(&login, format!(r#"{{"auths":{{"{name}":{{{auth}}}}}}}"#)).unwrap();
        let mut command = place.command(&["inspect", &reference]);
        command.env("DOCKER_CONFIG", dir.path()).output().unwrap()
    };
    let anonymous = deploy("");
    assert!(
        code(&anonymous) == 1 && said(&anonymous).contains(&format!("docker login {name}")),
        "{}",
        said(&anonymous)
    );
    // With the right ones, it can say that there is no such thing.
    let known = deploy(r#""auth":"bWlsbDpncmFpbg==""#);
    assert!(code(&known) == 1 && said(&known).contains("is the name right"), "{}", said(&known));
    let unusable = deploy(r#""auth":"???""#);
    assert!(said(&unusable).contains("cannot be used"), "{}", said(&unusable));
}

on_every_way!(subject::{a_component_is_deployed_from_a_registry});

pub fn a_component_is_deployed_from_a_registry(way: Way) {
    let registry = Registry::start();
    let mill = Mill::start(way, "");
    let bytes = std::fs::read(guests::component("faults")).unwrap();
    let pinned = registry.push_component("faults:2", &[&bytes[..], &[0, 2, 1, b'r']].concat(), &[]);
    let report = mill.json(&["deploy", "faults", &pinned]);
    assert_eq!(report["versions"][0]["source"], *pinned);
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
    let (tag, _) = pinned.split_once('@').unwrap();
    assert!(mill.failure(2, &["deploy", "faults", tag]).contains(&pinned));
}

#[test]
fn a_handler_is_configured_with_a_component_in_a_registry() {
    let registry = Registry::start();
    let bytes = std::fs::read(guests::component("faults")).unwrap();
    let pinned = registry.push_component("faults:1", &bytes, &[]);
    let sections = |component: &str| {
        format!(
            "[handlers.faults]\ncomponent = \"{component}\"\nstreams = [\"faults.in\"]\npublishes = [\"faults.out\"]\n"
        )
    };
    let mill = Mill::start_with(Way::Embedded, &sections(&pinned), None);
    mill.publish("faults.in", "1", "echo", "");
    mill.wait_for("faults.out", 1);
    assert_eq!(mill.text(&["check"]).trim(), "ok: 1 handler");
    // Faults are told with their place: those of the form, and those that the registry shows.
    let (tag, _) = pinned.split_once('@').unwrap();
    let check = |component: &str, more: &str| {
        let output = Place::new(&(sections(component) + more)).run(&["check"]);
        assert_eq!(code(&output), 2, "{}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let unpinned = check(tag, "");
    assert!(unpinned.contains("wasmill.toml:2:") && unpinned.contains(&pinned), "{unpinned}");
    assert!(check("oci://payment", "").contains("handlers.faults.component: `oci://payment` is no reference"));
    assert!(check(&pinned, "[handlers.faults.build]\nlang = \"rust\"\n").contains("is not built here"));
}
