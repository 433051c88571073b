//! What can be seen of a component without compiling it: who made it, what it imports and exports. Reads the outermost
//! structure alone and checks nothing, so that it also works for components that cannot be loaded.

use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, KnownCustom, Parser, Payload, ProducersField, ProducersFieldValue,
};

/// Imports and exports, languages and tools that are told of one component, each.
const MAX_ENTRIES: usize = 500;
/// The field of the producers section that names languages, and the one that names tools.
const LANGUAGE: &str = "language";
const TOOL: &str = "processed-by";
/// Tools that tell what a handler was written in, whatever its runtime and its libraries were written in.
const LANGUAGE_OF_TOOL: [(&str, &str); 3] =
    [("ComponentizeJS", "JavaScript"), ("componentize-py", "Python"), ("wit-bindgen-rust", "Rust")];

/// What can be seen of a component.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anatomy {
    /// The languages that it says it was written in, with versions where it has them; its libraries may be in others.
    pub languages: Vec<String>,
    /// The compilers and tools that it says it was made with.
    pub tools: Vec<String>,
    /// The names of the interfaces and functions that it imports.
    pub imports: Vec<String>,
    /// The names of the interfaces and functions that it exports.
    pub exports: Vec<String>,
    /// The core modules and components that it consists of.
    pub parts: usize,
}

impl Anatomy {
    /// Looks at bytes; what comes after a fault is not seen.
    pub fn of(bytes: &[u8]) -> Anatomy {
        let mut anatomy = Anatomy::default();
        // How many components and modules the place that is looked at lies in.
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            let Ok(payload) = payload else { break };
            match payload {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                    depth += 1;
                    anatomy.parts += 1;
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    let imports = section.into_iter().map_while(Result::ok);
                    let imports = imports.filter(|import| is_provided(import.ty)).map(|import| import.name.name);
                    imports.for_each(|name| note(&mut anatomy.imports, name.to_owned()));
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    let exports = section.into_iter().map_while(Result::ok);
                    let exports = exports.filter(|export| is_used(export.kind)).map(|export| export.name.name);
                    exports.for_each(|name| note(&mut anatomy.exports, name.to_owned()));
                }
                Payload::CustomSection(section) => {
                    if let KnownCustom::Producers(fields) = section.as_known() {
                        fields.into_iter().map_while(Result::ok).for_each(|field| anatomy.produced_by(&field));
                    }
                }
                _ => {}
            }
        }
        anatomy
    }

    /// The language that the handler itself was written in, as far as it can be told: JavaScript for TypeScript, too.
    pub fn language(&self) -> Option<&str> {
        let made_by = |tool: &str| self.tools.iter().any(|made| made.split(' ').next() == Some(tool));
        let told = LANGUAGE_OF_TOOL.iter().find(|(tool, _)| made_by(tool)).map(|(_, language)| *language);
        told.or(self.languages.first().map(String::as_str))
    }

    fn produced_by(&mut self, field: &ProducersField<'_>) {
        let list = match field.name {
            LANGUAGE => &mut self.languages,
            TOOL => &mut self.tools,
            _ => return,
        };
        let values = field.values.clone().into_iter().map_while(Result::ok);
        values.for_each(|ProducersFieldValue { name, version }| {
            note(list, [name, version].join(" ").trim_end().to_owned());
        });
    }
}

/// Whether an import is something that a host has to provide.
fn is_provided(import: ComponentTypeRef) -> bool {
    !matches!(import, ComponentTypeRef::Type(_))
}

/// Whether an export is something that a host can use.
fn is_used(kind: ComponentExternalKind) -> bool {
    matches!(kind, ComponentExternalKind::Instance | ComponentExternalKind::Func)
}

fn note(list: &mut Vec<String>, entry: String) {
    if list.len() < MAX_ENTRIES && !list.contains(&entry) {
        list.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_has_nothing_to_see() {
        for bytes in [&b""[..], b"\0asm", b"\0asm\x0d\0\x01\0", b"#!/bin/sh", b"\0asm\x0d\0\x01\0\x0a\xff\xff"] {
            assert_eq!(Anatomy::of(bytes), Anatomy::default());
        }
    }

    #[test]
    fn the_language_is_that_of_the_handler_and_not_of_its_runtime() {
        let anatomy = |languages: &[&str], tools: &[&str]| {
            let [languages, tools] =
                [languages, tools].map(|list| list.iter().map(|text| (*text).to_owned()).collect());
            Anatomy { languages, tools, ..Anatomy::default() }
        };
        let javascript =
            anatomy(&["C11", "Rust", "JavaScript"], &["clang 21", "wit-bindgen-rust 0.45", "ComponentizeJS 0.23.0"]);
        assert_eq!(javascript.language(), Some("JavaScript"));
        assert_eq!(anatomy(&[], &["wit-component 0.244.0", "wit-bindgen-rust 0.45.0"]).language(), Some("Rust"));
        assert_eq!(anatomy(&["Go go1.26"], &["Go cmd/compile"]).language(), Some("Go go1.26"));
        assert_eq!(anatomy(&[], &["wit-bindgen-rustlike 1"]).language(), None);
    }

    #[test]
    fn the_lists_are_bounded_and_name_everything_once() {
        let mut list = Vec::new();
        for at in 0..MAX_ENTRIES + 10 {
            note(&mut list, at.to_string());
            note(&mut list, at.to_string());
        }
        assert_eq!((list.len(), list[1].as_str()), (MAX_ENTRIES, "1"));
    }
}
