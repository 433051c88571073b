//! Components in registries: `oci://REGISTRY/NAME[:TAG]@sha256:DIGEST`.
//!
//! An artifact is a manifest that names one layer, the component. The reference pins the manifest by its digest, the
//! manifest the layer, and both are checked: what a registry answers is never trusted. A tag alone can be moved, so it is
//! refused, with the reference that it stands for now.

mod registry;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oci_client::Reference;
use oci_client::manifest::OciImageManifest;

use self::registry::Registry;
use crate::outcome::bounded;
use crate::wasm::{Digest, MAX_COMPONENT_BYTES};

pub use registry::use_ring;

/// How references begin.
pub const SCHEME: &str = "oci://";
/// The largest manifest that is read, in bytes. One of a component has some hundred.
pub const MAX_MANIFEST_BYTES: u64 = 1 << 20;
/// How long logging in to a registry and reading a manifest may take, and then reading the layer.
pub const MAX_FETCH_TIME: Duration = Duration::from_secs(300);
/// How often it is looked whether a component is still wanted while its registry is asked.
const UNWANTED_POLL: Duration = Duration::from_millis(50);
/// The annotation with the signature of the component, in base64: of the manifest, or of its layer.
pub const SIGNATURE_ANNOTATION: &str = "dev.wasmill.signature";
/// The media types that a layer with a component has: that of Wasm OCI artifacts, and the one before it.
const WASM_LAYERS: [&str; 2] = ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm"];

/// A component cannot be had from a registry. Each says which, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// Not the form of a reference.
    #[error("`{0}` is no reference: write it as oci://REGISTRY/NAME:TAG@sha256:DIGEST")]
    Malformed(String),
    /// It has a tag alone.
    #[error("{reference} is not pinned, and a tag can be moved: write {pinned}, which it is now")]
    Unpinned { reference: String, pinned: String },
    /// The registry does not answer.
    #[error("the registry {registry} cannot be reached: {cause}")]
    Unreachable { registry: String, cause: String },
    /// There is no such manifest or layer.
    #[error("{registry} has no {what}: is the name right, and was it pushed?")]
    Unknown { registry: String, what: String },
    /// It is not for everybody.
    #[error("{registry} refuses it ({cause}): log in with `docker login {registry}`, whose credentials are used")]
    Denied { registry: String, cause: String },
    /// Something else than an answer.
    #[error("{registry} answers with {cause}")]
    Answer { registry: String, cause: String },
    /// Credentials are configured, but cannot be used.
    #[error("the credentials for {registry} in ~/.docker/config.json cannot be used: {cause}")]
    Credentials { registry: String, cause: String },
    /// More than [`MAX_MANIFEST_BYTES`] or [`MAX_COMPONENT_BYTES`].
    #[error("{reference}: its {what} has more than the {max} bytes that are allowed")]
    TooLarge { reference: String, what: &'static str, max: u64 },
    /// The registry gave other bytes than those that were asked for.
    #[error("{reference}: the registry gave another {what} than the one that was asked for: it has the digest {found}")]
    Altered { reference: String, what: &'static str, found: Digest },
    /// Not the manifest of a component.
    #[error(
        "{reference} is no component: {problem}; push it as a Wasm OCI artifact, one layer of type application/wasm"
    )]
    NoComponent { reference: String, problem: String },
    /// It took longer than [`MAX_FETCH_TIME`].
    #[error("{reference}: not there after {time:?}")]
    TooSlow { reference: String, time: Duration },
    /// Nobody waits for it any more.
    #[error("fetching was given up: nobody waits for it any more")]
    Unwanted,
}

/// What fetching may take. The defaults are [`MAX_MANIFEST_BYTES`], [`MAX_COMPONENT_BYTES`] and [`MAX_FETCH_TIME`].
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Bytes of a manifest.
    pub manifest_bytes: u64,
    /// Bytes of a layer.
    pub layer_bytes: u64,
    /// From the first connection to the last byte of the manifest, and the same for the layer.
    pub time: Duration,
}

impl Default for FetchLimits {
    fn default() -> FetchLimits {
        FetchLimits { manifest_bytes: MAX_MANIFEST_BYTES, layer_bytes: MAX_COMPONENT_BYTES, time: MAX_FETCH_TIME }
    }
}

/// Whether a text is meant as a reference to a registry.
pub fn is_reference(text: &str) -> bool {
    text.starts_with(SCHEME)
}

/// Checks the form of a reference, pinned or not.
pub fn check(text: &str) -> Result<(), OciError> {
    parse(text).map(drop)
}

/// A component in a registry, of which the manifest has been read.
pub struct Artifact {
    /// The digest of the component.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its signature, if it has one: base64, not checked.
    pub signature: Option<String>,
    reference: Reference,
    registry: Registry,
    limits: FetchLimits,
}

impl fmt::Debug for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {} bytes", shown(&self.reference), self.digest, self.size)
    }
}

impl Artifact {
    /// Reads the manifest that a reference pins. One that is not pinned is looked up, for the error.
    pub async fn find(text: &str, limits: FetchLimits) -> Result<Artifact, OciError> {
        let reference = parse(text)?;
        within(&reference, limits.time, Artifact::read(&reference, limits)).await
    }

    async fn read(reference: &Reference, limits: FetchLimits) -> Result<Artifact, OciError> {
        let registry = Registry::open(reference).await?;
        let bytes = registry.manifest(reference, limits.manifest_bytes).await?;
        let found = Digest::of(&bytes);
        let Some(pinned) = reference.digest() else {
            let pinned = format!("{}@{found}", shown(reference));
            return Err(OciError::Unpinned { reference: shown(reference), pinned });
        };
        if pinned != found.to_string() {
            return Err(OciError::Altered { reference: shown(reference), what: "manifest", found });
        }
        let component = Layer::of(&bytes).map_err(|problem| {
            let problem = bounded(problem);
            OciError::NoComponent { reference: shown(reference), problem }
        })?;
        if component.size > limits.layer_bytes {
            return Err(OciError::TooLarge { reference: shown(reference), what: "layer", max: limits.layer_bytes });
        }
        let Layer { digest, size, signature } = component;
        Ok(Artifact { digest, size, signature, reference: reference.clone(), registry, limits })
    }

    /// The bytes of the component.
    pub async fn fetch(&self) -> Result<Vec<u8>, OciError> {
        let layer = self.registry.layer(&self.reference, &self.digest, self.size);
        let bytes = within(&self.reference, self.limits.time, layer).await?;
        let found = Digest::of(&bytes);
        if found != self.digest {
            return Err(OciError::Altered { reference: shown(&self.reference), what: "layer", found });
        }
        Ok(bytes)
    }
}

/// What a manifest says of the component.
#[derive(Debug, PartialEq, Eq)]
struct Layer {
    digest: Digest,
    size: u64,
    signature: Option<String>,
}

impl Layer {
    /// The only layer of a manifest, or what is wrong.
    fn of(manifest: &[u8]) -> Result<Layer, String> {
        let mut manifest: OciImageManifest =
            serde_json::from_slice(manifest).map_err(|error| format!("its manifest cannot be read: {error}"))?;
        let mut layer = match (manifest.layers.pop(), manifest.layers.len()) {
            (None, _) => return Err("its manifest names no layer".to_owned()),
            (Some(layer), 0) => layer,
            (Some(_), others) => return Err(format!("its manifest names {} layers, not one", others + 1)),
        };
        if !WASM_LAYERS.contains(&layer.media_type.as_str()) {
            return Err(format!("its layer is of type `{}`", layer.media_type.escape_debug()));
        }
        let digest = layer.digest.strip_prefix("sha256:").and_then(Digest::parse);
        let digest = digest.ok_or_else(|| format!("`{}` is no SHA-256", layer.digest.escape_debug()))?;
        let size = u64::try_from(layer.size).map_err(|_| format!("its layer has a size of {}", layer.size))?;
        let annotations = [layer.annotations.as_mut(), manifest.annotations.as_mut()].into_iter().flatten();
        let signature = annotations.filter_map(|annotations| annotations.remove(SIGNATURE_ANNOTATION)).next();
        Ok(Layer { digest, size, signature })
    }
}

/// Reads a reference. The registry must be named: which one is meant should not depend on what some tool adds.
fn parse(text: &str) -> Result<Reference, OciError> {
    let malformed = || OciError::Malformed(bounded(text.escape_debug().to_string()));
    let name = text.strip_prefix(SCHEME).ok_or_else(malformed)?;
    let reference: Reference = name.parse().map_err(|_| malformed())?;
    let is_named = name.split('/').next() == Some(reference.registry());
    let is_sha256 = reference.digest().is_none_or(|digest| {
        digest.strip_prefix("sha256:").is_some_and(|hex| Digest::parse(hex).is_some_and(|known| known.hex() == hex))
    });
    if is_named && is_sha256 { Ok(reference) } else { Err(malformed()) }
}

/// How users write it.
fn shown(reference: &Reference) -> String {
    format!("{SCHEME}{reference}")
}

async fn within<T>(
    reference: &Reference,
    time: Duration,
    work: impl Future<Output = Result<T, OciError>>,
) -> Result<T, OciError> {
    let late = |_| OciError::TooSlow { reference: shown(reference), time };
    tokio::time::timeout(time, work).await.map_err(late)?
}

/// Waits for a future where there is no runtime, or one that must not be held up: on a thread of its own.
pub fn blocking<T: Send>(work: impl Future<Output = Result<T, OciError>> + Send) -> Result<T, OciError> {
    let failed = |cause: String| OciError::Unreachable { registry: "(any)".to_owned(), cause };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map_err(|error| failed(error.to_string()))?.block_on(work)
        });
        thread.join().unwrap_or_else(|_| Err(failed("fetching ended by a panic: a fault of wasmill".to_owned())))
    })
}

/// The same, given up soon after `is_unwanted` is set.
pub fn blocking_unless<T: Send>(
    is_unwanted: &AtomicBool,
    work: impl Future<Output = Result<T, OciError>> + Send,
) -> Result<T, OciError> {
    blocking(async {
        let unwanted = async {
            while !is_unwanted.load(Ordering::Relaxed) {
                tokio::time::sleep(UNWANTED_POLL).await;
            }
        };
        tokio::select! {
            biased;
            () = unwanted => Err(OciError::Unwanted),
            result = work => result,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_waits_for_is_given_up() {
        let is_unwanted = AtomicBool::new(false);
        assert!(blocking_unless(&is_unwanted, async { Ok(()) }).is_ok());
        let result = std::thread::scope(|scope| {
            let waits = scope.spawn(|| blocking_unless(&is_unwanted, std::future::pending::<Result<(), OciError>>()));
            is_unwanted.store(true, Ordering::Relaxed);
            waits.join().unwrap()
        });
        assert!(matches!(result, Err(OciError::Unwanted)), "{result:?}");
    }

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn references_name_their_registry_and_have_a_sha256_if_any_digest() {
        for good in ["oci://reg.example/shop/payment:1", "oci://localhost/p", "oci://127.0.0.1:5000/p"] {
            assert!(check(good).is_ok(), "{good}");
            assert!(check(&format!("{good}@sha256:{HEX}")).is_ok(), "{good}");
        }
        let upper = format!("oci://reg.example/p@sha256:{}", HEX.to_uppercase());
        let other = format!("oci://reg.example/p@sha512:{HEX}{HEX}");
        let short = format!("oci://reg.example/p@sha256:{}", &HEX[1..]);
        for bad in ["oci://", "oci://payment", "oci://shop/payment", "payment.wasm", &upper, &other, &short] {
            let error = check(bad).unwrap_err().to_string();
            assert!(error.contains("oci://REGISTRY/NAME:TAG@sha256:DIGEST"), "{bad}: {error}");
        }
    }

    fn manifest(layers: &str, annotations: &str) -> String {
        let config =
            format!(r#"{{"mediaType":"application/vnd.wasm.config.v0+json","digest":"sha256:{HEX}","size":2}}"#);
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}],"annotations":{{{annotations}}}}}"#)
    }

    fn layer(media_type: &str, digest: &str, size: i64, annotations: &str) -> String {
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size},"annotations":{{{annotations}}}}}"#)
    }

    #[test]
    fn a_manifest_names_one_layer_with_a_component() {
        let digest = format!("sha256:{HEX}");
        for media_type in WASM_LAYERS {
            let read = Layer::of(manifest(&layer(media_type, &digest, 3, ""), "").as_bytes()).unwrap();
            assert_eq!((read.digest.to_string(), read.size, read.signature), (digest.clone(), 3, None));
        }
        let wasm = layer(WASM_LAYERS[0], &digest, 3, "");
        for (layers, why) in [
            (String::new(), "no layer"),
            (format!("{wasm},{wasm}"), "2 layers"),
            (layer("application/tar", &digest, 3, ""), "`application/tar`"),
            (layer(WASM_LAYERS[0], "sha256:12", 3, ""), "no SHA-256"),
            (layer(WASM_LAYERS[0], &digest, -1, ""), "size of -1"),
        ] {
            let problem = Layer::of(manifest(&layers, "").as_bytes()).unwrap_err();
            assert!(problem.contains(why), "{problem}");
        }
        assert!(Layer::of(b"{}").unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn the_signature_is_an_annotation_of_the_layer_or_of_the_manifest() {
        let digest = format!("sha256:{HEX}");
        let signed = |on_layer: &str, on_manifest: &str| {
            let layer = layer(WASM_LAYERS[0], &digest, 3, on_layer);
            Layer::of(manifest(&layer, on_manifest).as_bytes()).unwrap().signature
        };
        let (one, other) = (r#""dev.wasmill.signature":"one""#, r#""dev.wasmill.signature":"other""#);
        assert_eq!(signed(one, "").as_deref(), Some("one"));
        assert_eq!(signed("", other).as_deref(), Some("other"));
        assert_eq!(signed(one, other).as_deref(), Some("one"));
    }
}
