//! From core modules to components, without any tool: the world is embedded, WASI preview 1 is adapted.

use std::path::Path;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_bindgen_core::Files;
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};

use super::{BuildError, wit};
use crate::wasm::{LoadError, check_names};

/// Writes the C bindings of the WIT folder `wit`: `event_handler.c`, `event_handler.h`, and an object file that holds
/// the world.
pub fn write_c_bindings(wit: &Path, directory: &Path) -> Result<(), BuildError> {
    let (mut resolve, world) = wit::read(wit)?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default()
        .build()
        .generate(&mut resolve, world, &mut files)
        .map_err(|cause| unfit(wit, &format!("{cause:#}")))?;
    files.iter().try_for_each(|(name, bytes)| wit::write_file(&directory.join(name), bytes))
}

/// Makes a component of a core module that follows the world in the WIT folder `wit`, with or without WASI imports.
/// A component is returned as it is. `path` is where `module` comes from, for messages only.
pub fn componentize(path: &Path, mut module: Vec<u8>, wit: &Path) -> Result<Vec<u8>, BuildError> {
    if is_component(&module) {
        return Ok(module);
    }
    let adapter = (WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER);
    let mut encoder = ComponentEncoder::default();
    if !holds_world(&module) {
        let (resolve, world) = wit::read(wit)?;
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8, false)
            .map_err(|cause| unfit(wit, &format!("{cause:#}")))?;
    }
    let mut encode = || encoder.validate(true).module(&module)?.adapter(adapter.0, adapter.1)?.encode();
    let problem = |cause| format!("the module does not follow the world {}: {cause:#}", wit::WORLD);
    encode().map_err(|cause| unfit(path, &problem(cause)))
}

/// Whether a module says already which world it follows: the linker has taken that from the bindings.
fn holds_world(module: &[u8]) -> bool {
    let is_world = |payload: &Payload<'_>| matches!(payload, Payload::CustomSection(section) if section.name().starts_with("component-type"));
    Parser::new(0).parse_all(module).map_while(Result::ok).any(|payload| is_world(&payload))
}

/// Checks that a component imports what handlers can have, and exports what they must have. Compiles nothing.
pub fn check_fit(path: &Path, component: &[u8]) -> Result<(), BuildError> {
    let (resolve, world) = match wit_component::decode(component) {
        Ok(DecodedWasm::Component(resolve, world)) => (resolve, world),
        Ok(DecodedWasm::WitPackage(..)) => return Err(unfit(path, "a WIT package, not a component")),
        Err(cause) => return Err(unfit(path, &format!("not a component: {cause:#}"))),
    };
    let world = &resolve.worlds[world];
    let names = |keys: &mut dyn Iterator<Item = &wit_parser::WorldKey>| -> Vec<String> {
        keys.map(|key| resolve.name_world_key(key)).collect()
    };
    let (imports, exports) = (names(&mut world.imports.keys()), names(&mut world.exports.keys()));
    check_names(&imports, &exports).map_err(|fault: LoadError| unfit(path, &fault.to_string()))
}

fn unfit(path: &Path, problem: &str) -> BuildError {
    BuildError::Unfit { path: path.to_owned(), problem: problem.to_owned() }
}

/// Whether these are the bytes of a component rather than of a core module.
fn is_component(bytes: &[u8]) -> bool {
    matches!(bytes, [0, b'a', b's', b'm', _, _, layer, 0, ..] if *layer != 0)
}
