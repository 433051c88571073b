//! Compiled components on disk, keyed by digest and engine.
//!
//! Compiled code runs outside of any sandbox if it has been tampered with. So it is only ever loaded from a directory
//! that nobody but the user can write, and only if it still has the checksum that it was written with.

use std::fs::{self, File, Permissions};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmtime::component::Component as Compiled;

use super::component::Digest;
use super::engine::Engine;

/// The length of the checksum before the compiled code.
const CHECKSUM: usize = 32;

/// The cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory cannot be made or looked at.
    #[error("the cache directory {path}: {cause}")]
    Directory {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// Somebody else could put code there.
    #[error("the cache directory {path} can be written by others or belongs to another user; run: chmod 700 {path}")]
    Unsafe { path: PathBuf },
}

/// A directory of compiled components.
#[derive(Clone, Debug)]
pub struct CompiledCache {
    directory: PathBuf,
}

impl CompiledCache {
    /// Opens the directory, and makes it if it does not exist. Refuses one that others can write.
    pub fn open(directory: &Path) -> Result<CompiledCache, CacheError> {
        let fault = |cause| CacheError::Directory { path: directory.to_owned(), cause };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fault)?;
        let metadata = fs::metadata(directory).map_err(fault)?;
        let owned = metadata.uid() == rustix::process::geteuid().as_raw();
        if !owned || metadata.permissions().mode() & 0o022 != 0 {
            return Err(CacheError::Unsafe { path: directory.to_owned() });
        }
        Ok(CompiledCache { directory: directory.to_owned() })
    }

    fn path(&self, engine: &Engine, digest: &Digest) -> PathBuf {
        // Stable within one build of wasmill, which is all that is needed: another build asks for another name.
        let mut hasher = std::hash::DefaultHasher::new();
        engine.engine.precompile_compatibility_hash().hash(&mut hasher);
        self.directory.join(format!("{}-{:016x}.cwasm", digest.hex(), hasher.finish()))
    }

    /// The compiled component, if it is there and whole. A damaged entry is removed.
    pub(super) fn load(&self, engine: &Engine, digest: &Digest) -> Option<Compiled> {
        let path = self.path(engine, digest);
        let file = fs::read(&path).ok()?;
        let whole = file.split_at_checked(CHECKSUM).filter(|(sum, code)| Sha256::digest(code).as_slice() == *sum);
        let compiled = whole.and_then(|(_, code)| {
            // From `store` below: the directory can be written by this user only (checked in `open`), and the checksum
            // says that the bytes are unchanged.
            from_compiler(engine, code).ok()
        });
        if compiled.is_none() {
            tracing::warn!(path = %path.display(), "a damaged entry of the compiled cache is thrown away");
            // If it cannot be removed, it is overwritten or ignored next time.
            let _ = fs::remove_file(&path);
        }
        compiled
    }

    /// Writes the code of a component. Failing to is no fault: it costs the next start a compilation.
    pub(super) fn store(&self, engine: &Engine, digest: &Digest, code: &[u8]) {
        if let Err(error) = self.try_store(engine, digest, code) {
            tracing::warn!(directory = %self.directory.display(), "cannot write the compiled cache: {error}");
        }
    }

    fn try_store(&self, engine: &Engine, digest: &Digest, code: &[u8]) -> io::Result<()> {
        let path = self.path(engine, digest);
        // Written beside it and renamed, so that no reader ever sees half an entry.
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let mut file = File::create(&temporary)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&Sha256::digest(code))?;
        file.write_all(code)?;
        drop(file);
        fs::rename(&temporary, &path)
    }
}

/// A component of code that our own compiler wrote: just now ([`super::compile`]), or when it was put into the cache. Fails if
/// another version of the compiler or other settings made it.
pub(super) fn from_compiler(engine: &Engine, code: &[u8]) -> wasmtime::Result<Compiled> {
    // SAFETY: both callers have the bytes from this engine's own compiler, unchanged: through memory that nobody else has, or
    // through a directory that nobody else can write, with a checksum.
    #[expect(unsafe_code, reason = "wasmtime cannot verify compiled code; see SAFETY")]
    unsafe {
        Compiled::deserialize(&engine.engine, code)
    }
}
