//! Where components come from: files, and registries.

use std::path::Path;

use crate::oci::{self, Artifact, FetchLimits, OciError};
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
}

/// Bytes, and where they came from.
pub struct Fetched {
    /// The bytes of the component.
    pub bytes: Vec<u8>,
    /// As the versions of a handler show it: the name of the file, or the reference.
    pub source: String,
}

/// The reference that a configured component is, if it is no file.
pub fn reference(component: &Path) -> Option<&str> {
    component.to_str().filter(|text| oci::is_reference(text))
}

/// Gets a component from its file or registry. Blocks the thread.
pub fn fetch(component: &Path) -> Result<Fetched, SourceError> {
    let Some(text) = reference(component) else {
        let name = component.file_name().unwrap_or(component.as_os_str()).to_string_lossy();
        let source = name.chars().filter(|c| !c.is_control()).collect();
        return Ok(Fetched { bytes: read_component(component)?, source });
    };
    let bytes = oci::blocking(async { Artifact::find(text, FetchLimits::default()).await?.fetch().await })?;
    Ok(Fetched { bytes, source: text.to_owned() })
}

/// Gets, compiles and checks a component. Of one in a registry that is in the compiled cache, only the manifest is read.
/// Blocks the thread; a Python component takes many seconds.
pub fn load(engine: &Engine, cache: Option<&CompiledCache>, component: &Path) -> Result<Component, SourceError> {
    let Some(text) = reference(component) else {
        return Ok(Component::new(engine, cache, &read_component(component)?)?);
    };
    let artifact = oci::blocking(Artifact::find(text, FetchLimits::default()))?;
    if let Some(component) = cache.and_then(|cache| Component::cached(engine, cache, artifact.digest, artifact.size)) {
        return Ok(component);
    }
    let bytes = oci::blocking(artifact.fetch())?;
    Ok(Component::new(engine, cache, &bytes)?)
}

/// The same for what may be what `known` is, which was named `was`: then it is not compiled again.
pub fn load_again(
    known: &Component,
    was: &Path,
    cache: Option<&CompiledCache>,
    component: &Path,
) -> Result<Component, SourceError> {
    if reference(component).is_some() {
        // What is pinned in a registry does not change.
        return if component == was { Ok(known.clone()) } else { load(known.engine(), cache, component) };
    }
    let bytes = read_component(component)?;
    match Digest::of(&bytes) == known.digest {
        true => Ok(known.clone()),
        false => Ok(Component::new(known.engine(), cache, &bytes)?),
    }
}
