//! Where components come from: files, and registries.

use std::path::Path;

use super::signature::{PublicKeys, Signature, SignatureError};
use crate::oci::{self, Artifact, FetchLimits, OciError, SIGNATURE_ANNOTATION};
use crate::wasm::{CompiledCache, Component, Digest, Engine, LoadError, read_component};

/// A component cannot be had, or not be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is no component that can handle events.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// It is not to be had from its registry.
    #[error(transparent)]
    Registry(#[from] OciError),
    /// It is not signed as it must be.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// Bytes, and where they came from.
pub struct Fetched {
    /// The bytes of the component.
    pub bytes: Vec<u8>,
    /// As the versions of a handler show it: the name of the file, or the reference.
    pub source: String,
    /// The signature that came with them, not checked.
    pub signature: Option<Signature>,
}

/// The reference that a configured component is, if it is no file.
pub fn reference(component: &Path) -> Option<&str> {
    component.to_str().filter(|text| oci::is_reference(text))
}

/// Gets a component from its file or registry, and its signature from where that usually is, unless a file is named. Blocks
/// the thread.
pub fn fetch(component: &Path, signed_by: Option<&Path>) -> Result<Fetched, SourceError> {
    let given = signed_by.map(Signature::read).transpose()?;
    let Some(text) = reference(component) else {
        let name = component.file_name().unwrap_or(component.as_os_str()).to_string_lossy();
        let source = name.chars().filter(|c| !c.is_control()).collect();
        let bytes = read_component(component)?;
        let signature = if given.is_some() { given } else { Signature::beside(component)? };
        return Ok(Fetched { bytes, source, signature });
    };
    let artifact = oci::blocking(Artifact::find(text, FetchLimits::default()))?;
    let bytes = oci::blocking(artifact.fetch())?;
    let signature = if given.is_some() { given } else { signature(&artifact, text)? };
    Ok(Fetched { bytes, source: text.to_owned(), signature })
}

/// Gets, compiles and checks a component, which must be signed by one of `keys` if there are any. Of one in a registry that
/// is in the compiled cache, only the manifest is read, unless a signature is to be checked. Blocks the thread; a Python
/// component takes many seconds.
pub fn load(
    engine: &Engine,
    cache: Option<&CompiledCache>,
    keys: &PublicKeys,
    component: &Path,
) -> Result<Component, SourceError> {
    let Some(text) = reference(component) else {
        return Ok(Component::new(engine, cache, &read_signed(component, keys)?)?);
    };
    let is_unwanted = engine.is_stopped();
    let artifact = oci::blocking_unless(is_unwanted, Artifact::find(text, FetchLimits::default()))?;
    let cache_is_enough = cache.filter(|_| keys.is_empty());
    let cached = cache_is_enough.and_then(|cache| Component::cached(engine, cache, artifact.digest, artifact.size));
    if let Some(component) = cached {
        return Ok(component);
    }
    let bytes = oci::blocking_unless(is_unwanted, artifact.fetch())?;
    if !keys.is_empty() {
        keys.verify(&bytes, signature(&artifact, text)?.as_ref())?;
    }
    Ok(Component::new(engine, cache, &bytes)?)
}

/// The same for what may be what `known` is, which was named `was`: then it is not compiled again. A file must be signed
/// now, whatever it was then; what is pinned in a registry was verified by the same keys when it was loaded.
pub fn load_again(
    known: &Component,
    was: &Path,
    cache: Option<&CompiledCache>,
    keys: &PublicKeys,
    component: &Path,
) -> Result<Component, SourceError> {
    if reference(component).is_some() {
        // What is pinned in a registry does not change.
        return if component == was { Ok(known.clone()) } else { load(known.engine(), cache, keys, component) };
    }
    let bytes = read_signed(component, keys)?;
    match Digest::of(&bytes) == known.digest {
        true => Ok(known.clone()),
        false => Ok(Component::new(known.engine(), cache, &bytes)?),
    }
}

/// The bytes of a file, if they are signed by one of the keys. Without keys its signature is not even read.
fn read_signed(component: &Path, keys: &PublicKeys) -> Result<Vec<u8>, SourceError> {
    let bytes = read_component(component)?;
    if !keys.is_empty() {
        keys.verify(&bytes, Signature::beside(component)?.as_ref())?;
    }
    Ok(bytes)
}

fn signature(artifact: &Artifact, reference: &str) -> Result<Option<Signature>, SignatureError> {
    let place = || format!("{reference}, its annotation `{SIGNATURE_ANNOTATION}`");
    artifact.signature.as_deref().map(|text| Signature::parse(text, &place())).transpose()
}
