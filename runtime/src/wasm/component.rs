//! From bytes to a component that is known to fit the world.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::component::Component as Compiled;
use wasmtime::component::types::ComponentItem;

use super::bindings::EventHandlerPre;
use super::cache::CompiledCache;
use super::engine::Engine;
use super::host::Host;
use crate::event::write_hex;

/// The largest component that is loaded, in bytes. A Python component has about 18 MiB.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;
/// What a component has to export.
const HANDLER: &str = "wasmill:events/handler@0.1.0";
/// The packages that every handler may import.
const PROVIDED: [&str; 8] = [
    "wasmill:events/",
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:filesystem/",
    "wasi:io/",
    "wasi:logging/",
    "wasi:random/",
    "wasi:sockets/",
];
/// Packages that exist and are not granted to handlers.
const DENIED: [&str; 6] =
    ["wasi:http/", "wasi:config/", "wasi:keyvalue/", "wasi:messaging/", "wasi:blobstore/", "wasi:nn/"];

/// The SHA-256 of a component's bytes: the identity of a version.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest of 64 hexadecimal digits.
    pub fn parse(hex: &str) -> Option<Digest> {
        let mut bytes = [0; 32];
        if hex.len() != 2 * bytes.len() || !hex.is_ascii() {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Digest(bytes))
    }

    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.to_string().split_off("sha256:".len())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An import that a component cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Import {
    /// wasmill knows the interface and does not grant it.
    Denied(String),
    /// wasmill does not know the interface.
    Unknown(String),
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Import::Denied(name) => write!(f, "{name} (denied: this version of wasmill does not grant it)"),
            Import::Unknown(name) => write!(f, "{name} (unknown)"),
        }
    }
}

/// The bytes are no component that can handle events.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("the file cannot be read: {cause}")]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// More than [`MAX_COMPONENT_BYTES`].
    #[error("the component has {0} bytes; {MAX_COMPONENT_BYTES} are allowed")]
    TooLarge(u64),
    /// Not WebAssembly at all.
    #[error("not a WebAssembly file: it does not begin with \\0asm")]
    NotWasm,
    /// A core module.
    #[error(
        "a core module, not a component. Build for a component target (Rust: --target wasm32-wasip2) or componentize it"
    )]
    CoreModule,
    /// Truncated, damaged or using a feature that is off.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// Some imports are not there.
    #[error("the component imports what a handler cannot have: {}", list(.0))]
    Imports(Vec<Import>),
    /// An import is there, but in another version or shape.
    #[error("the component does not fit what wasmill provides: {0}")]
    Mismatch(String),
    /// The handler interface is not exported.
    #[error("the component does not export {HANDLER}; it exports {}", exports(.0))]
    MissingExport(Vec<String>),
    /// The handler interface is exported in another version.
    #[error("the component exports {0}; this version of wasmill needs {HANDLER}")]
    OtherVersion(String),
}

fn list(imports: &[Import]) -> String {
    imports.iter().map(Import::to_string).collect::<Vec<_>>().join(", ")
}

fn exports(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

/// A component that fits the world, compiled and linked. Cheap to clone.
#[derive(Clone)]
pub struct Component {
    pub(super) engine: Engine,
    pub(super) pre: Arc<EventHandlerPre<Host>>,
    /// The identity of its bytes.
    pub digest: Digest,
    /// The size of its bytes.
    pub size: usize,
}

impl Component {
    /// Reads, compiles and checks a file. Compiling blocks the thread; a Python component takes many seconds.
    pub fn from_file(
        engine: &Engine,
        cache: Option<&CompiledCache>,
        path: &std::path::Path,
    ) -> Result<Component, LoadError> {
        let unreadable = |cause| LoadError::Unreadable { path: path.to_owned(), cause };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > MAX_COMPONENT_BYTES {
            return Err(LoadError::TooLarge(length));
        }
        Component::new(engine, cache, &std::fs::read(path).map_err(unreadable)?)
    }

    /// Compiles and checks bytes.
    pub fn new(engine: &Engine, cache: Option<&CompiledCache>, bytes: &[u8]) -> Result<Component, LoadError> {
        if bytes.len() as u64 > MAX_COMPONENT_BYTES {
            return Err(LoadError::TooLarge(bytes.len() as u64));
        }
        check_header(bytes)?;
        let digest = Digest::of(bytes);
        let cached = cache.and_then(|cache| cache.load(engine, &digest));
        let compiled = match cached {
            Some(compiled) => compiled,
            None => {
                let compiled = Compiled::from_binary(&engine.engine, bytes)
                    .map_err(|error| LoadError::Invalid(format!("{error:#}")))?;
                if let Some(cache) = cache {
                    cache.store(engine, &digest, &compiled);
                }
                compiled
            }
        };
        check_imports(engine, &compiled)?;
        check_exports(engine, &compiled)?;
        let pre = engine.linker.instantiate_pre(&compiled).and_then(EventHandlerPre::new);
        let pre = pre.map_err(|error| LoadError::Mismatch(format!("{error:#}")))?;
        Ok(Component { engine: engine.clone(), pre: Arc::new(pre), digest, size: bytes.len() })
    }
}

fn check_header(bytes: &[u8]) -> Result<(), LoadError> {
    match bytes {
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(LoadError::NotWasm),
    }
}

fn check_imports(engine: &Engine, compiled: &Compiled) -> Result<(), LoadError> {
    let within = |name: &str, packages: &[&str]| packages.iter().any(|package| name.starts_with(package));
    let component = compiled.component_type();
    let refused: Vec<Import> = component
        .imports(&engine.engine)
        .filter(|(name, _)| !within(name, &PROVIDED))
        .map(|(name, _)| {
            let known = within(name, &DENIED);
            if known { Import::Denied(name.to_owned()) } else { Import::Unknown(name.to_owned()) }
        })
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(LoadError::Imports(refused)) }
}

fn check_exports(engine: &Engine, compiled: &Compiled) -> Result<(), LoadError> {
    let component = compiled.component_type();
    let names: Vec<String> = component
        .exports(&engine.engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_)))
        .map(|(name, _)| name.to_owned())
        .collect();
    if names.iter().any(|name| name == HANDLER) {
        return Ok(());
    }
    match names.iter().find(|name| name.starts_with("wasmill:events/handler@")) {
        Some(other) => Err(LoadError::OtherVersion(other.clone())),
        None => Err(LoadError::MissingExport(names)),
    }
}
