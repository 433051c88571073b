//! A container registry of one's own, and pushing components to it.

use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::OciImageManifest;
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tempfile::TempDir;

use crate::process::Process;
use crate::redis_server::{first_answer, free_port};

/// How long the registry may take to answer.
const DEADLINE: Duration = Duration::from_secs(20);
/// How many free ports are tried: another process may take one between finding and using it.
const PORT_ATTEMPTS: usize = 8;
/// The media type of the configuration of a Wasm OCI artifact.
const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// The media type of its layer.
pub const WASM: &str = "application/wasm";

/// Debian's docker-registry on a free port, in a directory of its own. Killed on drop.
pub struct Registry {
    // Before the directory: dropped first.
    _process: Process,
    _dir: TempDir,
    port: u16,
}

impl Registry {
    /// Starts a registry for everybody; returns when it answers.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start() -> Registry {
        Registry::start_with("")
    }

    /// The same with further lines of its configuration.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start_with(settings: &str) -> Registry {
        for _ in 0..PORT_ATTEMPTS {
            if let Some(registry) = Registry::launch(settings, free_port()) {
                return registry;
            }
        }
        panic!("docker-registry does not start");
    }

    fn launch(settings: &str, port: u16) -> Option<Registry> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:{port}\n{settings}",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).expect("its configuration can be written");
        let log = File::create(dir.path().join("log")).expect("a log file");
        let errors = log.try_clone().expect("a second handle");
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(log).stderr(errors);
        let mut process = match Process::spawn(&mut command) {
            Ok(process) => process,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                panic!("docker-registry is not installed: run `cargo xtask test`, which installs it")
            }
            Err(error) => panic!("docker-registry cannot be run: {error}"),
        };
        let is_up = crate::eventually("docker-registry to answer", DEADLINE, || {
            if process.try_wait().is_some() {
                return Some(false);
            }
            answers(port).then_some(true)
        });
        is_up.then_some(Registry { _process: process, _dir: dir, port })
    }

    /// Host and port, as references name it.
    pub fn name(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Pushes an artifact with these layers, each a media type and bytes, and annotations of its manifest; the reference
    /// to it, without a digest, and the digest.
    ///
    /// # Panics
    /// When it cannot be pushed.
    pub fn push(&self, name: &str, layers: &[(&str, &[u8])], annotations: &[(&str, &str)]) -> (String, String) {
        let reference: Reference = format!("{}/{name}", self.name()).parse().expect("a reference");
        let layers =
            layers.iter().map(|(media_type, bytes)| ImageLayer::new(bytes.to_vec(), (*media_type).into(), None));
        let layers: Vec<ImageLayer> = layers.collect();
        let config = Config::new(b"{}".as_slice(), CONFIG_TYPE.to_owned(), None);
        let annotations: BTreeMap<String, String> =
            annotations.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let manifest = OciImageManifest::build(&layers, &config, Some(annotations));
        wasmill::oci::use_ring();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let digest = runtime.block_on(async {
            let auth = RegistryAuth::Anonymous;
            client.push(&reference, &layers, config, &auth, Some(manifest)).await.expect("it can be pushed");
            client.fetch_manifest_digest(&reference, &auth).await.expect("it is there")
        });
        (format!("oci://{reference}"), digest)
    }

    /// Pushes a component as it should be; the pinned reference to it.
    ///
    /// # Panics
    /// When it cannot be pushed.
    pub fn push_component(&self, name: &str, bytes: &[u8], annotations: &[(&str, &str)]) -> String {
        let (reference, digest) = self.push(name, &[(WASM, bytes)], annotations);
        format!("{reference}@{digest}")
    }
}

/// Whether the server there speaks HTTP.
fn answers(port: u16) -> bool {
    first_answer(port, b"GET /v2/ HTTP/1.0\r\n\r\n", DEADLINE).is_ok_and(|answer| answer.starts_with(b"HTTP/"))
}
