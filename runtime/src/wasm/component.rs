//! From bytes to a component that is known to fit the world.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use wasmtime::component::Component as Compiled;
use wasmtime::component::types::ComponentItem;

use super::bindings::EventHandlerPre;
use super::cache::{self, CompiledCache};
use super::compile::{CompileError, told};
use super::engine::Engine;
use super::host::Host;
use super::messaging_bindings::MessagingCorePre;
use super::world::{Access, Capability, Import, interface_of};
use crate::event::write_hex;
use crate::outcome::bounded;

/// The largest component that is loaded, in bytes. A Python component has about 18 MiB.
pub const MAX_COMPONENT_BYTES: u64 = 64 << 20;
/// How many imports or exports an error names.
const MAX_NAMED: usize = 20;
/// What a component has to export.
const HANDLER: &str = "wasmill:events/handler@0.1.0";
/// What it may export instead.
const MESSAGING: &str = "wasi:messaging/incoming-handler@0.2.0-draft";

/// A component that is linked, by what it exports.
pub(super) enum Entry {
    /// [`HANDLER`].
    Events(EventHandlerPre<Host>),
    /// [`MESSAGING`].
    Messaging(MessagingCorePre<Host>),
}

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

/// What to do about a component that cannot be read.
fn remedy(cause: &std::io::Error) -> &'static str {
    match cause.kind() {
        std::io::ErrorKind::NotFound => "; `wasmill build` makes it, if its handler has a section `build`",
        _ => "",
    }
}

/// The bytes are no component that can handle events.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("the file cannot be read: {cause}{}", remedy(cause))]
    Unreadable {
        path: PathBuf,
        #[source]
        cause: std::io::Error,
    },
    /// More than [`MAX_COMPONENT_BYTES`].
    #[error("the component has {0} bytes; {MAX_COMPONENT_BYTES} are allowed")]
    TooLarge(u64),
    /// More than the handler may have.
    #[error("the component has {size} bytes; limits.component_bytes of the handler allows {allowed}")]
    OverLimit { size: u64, allowed: u64 },
    /// The bytes are not those that were asked for.
    #[error("its bytes were changed where they are kept: they have the digest {0}")]
    Altered(Digest),
    /// Not WebAssembly at all.
    #[error("not a WebAssembly file: it does not begin with \\0asm")]
    NotWasm,
    /// A core module.
    #[error(
        "a core module, not a component. Build for a component target (Rust: --target wasm32-wasip2) or componentize it"
    )]
    CoreModule,
    /// It cannot be compiled.
    #[error(transparent)]
    Compile(#[from] CompileError),
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

/// The first of them; a component can have any number, with names of any length.
fn list<T: fmt::Display>(all: &[T]) -> String {
    let named = bounded(all.iter().take(MAX_NAMED).map(T::to_string).collect::<Vec<_>>().join(", "));
    match all.len().saturating_sub(MAX_NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn exports(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { list(names) }
}

/// A component that fits the world, compiled and linked. Cheap to clone.
#[derive(Clone)]
pub struct Component {
    pub(super) engine: Engine,
    pub(super) entry: Arc<Entry>,
    /// The identity of its bytes.
    pub digest: Digest,
    /// The same as text: each follow-up carries it.
    pub(super) digest_text: Arc<str>,
    /// The size of its bytes.
    pub size: usize,
    /// What it imports, such as `wasi:cli/stdout@0.2.6`.
    pub imports: Arc<[String]>,
}

impl Component {
    /// Whether a handler that has these grants may have everything that the component imports.
    pub fn check_grants(&self, grants: &[Capability]) -> Result<(), LoadError> {
        refuse(&self.imports, grants)
    }

    /// Reads, compiles and checks a file. Compiling blocks the thread; a Python component takes many seconds.
    pub fn from_file(
        engine: &Engine,
        cache: Option<&CompiledCache>,
        path: &std::path::Path,
    ) -> Result<Component, LoadError> {
        Component::new(engine, cache, &read_component(path)?)
    }

    /// Compiles and checks bytes.
    pub fn new(engine: &Engine, cache: Option<&CompiledCache>, bytes: &[u8]) -> Result<Component, LoadError> {
        if bytes.len() as u64 > MAX_COMPONENT_BYTES {
            return Err(LoadError::TooLarge(bytes.len() as u64));
        }
        check_header(bytes)?;
        let digest = Digest::of(bytes);
        if let Some(component) = engine.loaded.get(engine, digest) {
            return Ok(component);
        }
        let cached = cache.and_then(|cache| cache.load(engine, &digest));
        let compiled = match cached {
            Some(compiled) => compiled,
            None => {
                let code = engine.compiler.compile(&engine.engine, bytes, &engine.tenant, &engine.stop_compiling)?;
                if let Some(cache) = cache {
                    cache.store(engine, &digest, &code);
                }
                cache::from_compiler(engine, &code).map_err(|error| LoadError::Mismatch(told(&error)))?
            }
        };
        Component::link(engine, &compiled, digest, bytes.len())
    }

    /// The component of this digest and size from the compiled cache, if it is there and fits.
    pub fn cached(engine: &Engine, cache: &CompiledCache, digest: Digest, size: u64) -> Option<Component> {
        if let Some(component) = engine.loaded.get(engine, digest) {
            return Some(component);
        }
        let compiled = cache.load(engine, &digest)?;
        Component::link(engine, &compiled, digest, usize::try_from(size).ok()?).ok()
    }

    /// The engine that runs it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    fn link(engine: &Engine, compiled: &Compiled, digest: Digest, size: usize) -> Result<Component, LoadError> {
        let imports = check_imports(engine, compiled)?;
        let exported = check_exports(engine, compiled)?;
        let linked = engine.linker.instantiate_pre(compiled).and_then(|pre| match exported {
            Exported::Events => EventHandlerPre::new(pre).map(Entry::Events),
            Exported::Messaging => MessagingCorePre::new(pre).map(Entry::Messaging),
        });
        let entry = linked.map_err(|error| LoadError::Mismatch(told(&error)))?;
        let digest_text = digest.to_string().into();
        let component =
            Component { engine: engine.clone(), entry: Arc::new(entry), digest, digest_text, size, imports };
        engine.loaded.put(&component);
        Ok(component)
    }

    /// Whether both are the same code in memory, as components of the same bytes are while a handler holds one.
    pub fn shares_code_with(&self, other: &Component) -> bool {
        Arc::ptr_eq(&self.entry, &other.entry)
    }
}

/// The bytes of a file, if a component may have so many.
pub fn read_component(path: &std::path::Path) -> Result<Vec<u8>, LoadError> {
    let unreadable = |cause| LoadError::Unreadable { path: path.to_owned(), cause };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    if length > MAX_COMPONENT_BYTES {
        return Err(LoadError::TooLarge(length));
    }
    // It may grow while it is read, or have no length at all, as a pipe.
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_COMPONENT_BYTES + 1), &mut bytes)
        .map_err(unreadable)?;
    match bytes.len() as u64 {
        length if length > MAX_COMPONENT_BYTES => Err(LoadError::TooLarge(length)),
        _ => Ok(bytes),
    }
}

fn check_header(bytes: &[u8]) -> Result<(), LoadError> {
    match bytes {
        [0, b'a', b's', b'm', _, _, 0, 0, ..] => Err(LoadError::CoreModule),
        [0, b'a', b's', b'm', ..] => Ok(()),
        _ => Err(LoadError::NotWasm),
    }
}

/// The names of all imports, if wasmill provides each of them to some handler.
fn check_imports(engine: &Engine, compiled: &Compiled) -> Result<Arc<[String]>, LoadError> {
    let component = compiled.component_type();
    let names: Arc<[String]> = component.imports(&engine.engine).map(|(name, _)| name.to_owned()).collect();
    check_import_names(&names)?;
    Ok(names)
}

fn check_import_names(names: &[String]) -> Result<(), LoadError> {
    let grantable = |name: &str| match interface_of(name).map(|interface| interface.access) {
        Some(Access::Grant(capability)) => Some(capability),
        _ => None,
    };
    let all: Vec<Capability> = names.iter().filter_map(|name| grantable(name)).collect();
    refuse(names, &all)
}

/// Checks by their names alone what a component imports, whatever may be granted to it, and what it exports.
pub fn check_names(imports: &[String], exports: &[String]) -> Result<(), LoadError> {
    check_import_names(imports)?;
    check_export_names(exports).map(drop)
}

fn refuse(names: &[String], grants: &[Capability]) -> Result<(), LoadError> {
    let refused: Vec<Import> = names.iter().filter_map(|name| Import::check(name, grants)).collect();
    if refused.is_empty() { Ok(()) } else { Err(LoadError::Imports(refused)) }
}

/// By what a component takes events.
enum Exported {
    Events,
    Messaging,
}

fn check_exports(engine: &Engine, compiled: &Compiled) -> Result<Exported, LoadError> {
    let component = compiled.component_type();
    let names: Vec<String> = component
        .exports(&engine.engine)
        .filter(|(_, item)| matches!(item.ty, ComponentItem::ComponentInstance(_) | ComponentItem::ComponentFunc(_)))
        .map(|(name, _)| name.to_owned())
        .collect();
    check_export_names(&names)
}

fn check_export_names(names: &[String]) -> Result<Exported, LoadError> {
    if names.iter().any(|name| name == HANDLER) {
        return Ok(Exported::Events);
    }
    if names.iter().any(|name| name == MESSAGING) {
        return Ok(Exported::Messaging);
    }
    match names.iter().find(|name| name.starts_with("wasmill:events/handler@")) {
        Some(other) => Err(LoadError::OtherVersion(other.clone())),
        None => Err(LoadError::MissingExport(names.to_vec())),
    }
}
