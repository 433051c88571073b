//! What can be seen of a component without compiling it: who made it, what it imports and exports. Reads the outermost
//! structure alone and checks nothing, so that it also works for components that cannot be loaded.

use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, KnownCustom, Parser, Payload, ProducersField, ProducersFieldValue,
};

use crate::outcome::bounded;
use crate::text::printable;

/// Imports and exports, languages and tools that are told of one component, each.
const MAX_ENTRIES: usize = 500;
/// The field of the producers section that names languages, and the one that names tools.
const LANGUAGE: &str = "language";
const TOOL: &str = "processed-by";
/// Tools that tell what a handler was written in, whatever its runtime and its libraries were written in.
const LANGUAGE_OF_TOOL: [(&str, &str); 4] = [
    ("ComponentizeJS", "JavaScript"),
    ("componentize-py", "Python"),
    // What componentize-py leaves of itself.
    ("component-init-transform", "Python"),
    ("wit-bindgen-rust", "Rust"),
];

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
    /// The languages that its largest core module names: that is the handler, the others are adapters.
    main: Vec<String>,
}

impl Anatomy {
    /// Looks at bytes; what comes after a fault is not seen.
    pub fn of(bytes: &[u8]) -> Anatomy {
        let mut anatomy = Anatomy::default();
        // How many components and modules the place that is looked at lies in.
        let mut depth = 0_usize;
        let (mut largest, mut in_largest) = (0, false);
        for payload in Parser::new(0).parse_all(bytes) {
            let Ok(payload) = payload else { break };
            match payload {
                Payload::ModuleSection { unchecked_range: range, .. } => {
                    depth += 1;
                    anatomy.parts += 1;
                    let length = range.end.saturating_sub(range.start);
                    in_largest = length > largest;
                    if in_largest {
                        largest = length;
                        anatomy.main.clear();
                    }
                }
                Payload::ComponentSection { .. } => {
                    depth += 1;
                    anatomy.parts += 1;
                }
                Payload::End(_) => {
                    depth = depth.saturating_sub(1);
                    in_largest = false;
                }
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
                        fields
                            .into_iter()
                            .map_while(Result::ok)
                            .for_each(|field| anatomy.produced_by(&field, in_largest));
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
        told.or(self.main.first().map(String::as_str))
    }

    fn produced_by(&mut self, field: &ProducersField<'_>, in_largest: bool) {
        for ProducersFieldValue { name, version } in field.values.clone().into_iter().map_while(Result::ok) {
            let entry = [name, version].join(" ").trim_end().to_owned();
            match field.name {
                LANGUAGE => {
                    if in_largest {
                        note(&mut self.main, entry.clone());
                    }
                    note(&mut self.languages, entry);
                }
                TOOL => note(&mut self.tools, entry),
                _ => {}
            }
        }
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

/// Any text can be in it: it is told without control characters, and no more of it than of any message.
fn note(list: &mut Vec<String>, entry: String) {
    let entry = bounded(printable(&entry));
    if list.len() < MAX_ENTRIES && !list.contains(&entry) {
        list.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::MAX_MESSAGE_BYTES;

    #[test]
    fn what_is_no_component_has_nothing_to_see() {
        for bytes in [&b""[..], b"\0asm", b"\0asm\x0d\0\x01\0", b"#!/bin/sh", b"\0asm\x0d\0\x01\0\x0a\xff\xff"] {
            assert_eq!(Anatomy::of(bytes), Anatomy::default());
        }
    }

    /// A component of core modules of these sizes, each of which names these languages and tools.
    fn component(modules: &[(usize, &str, &str)]) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).expect("short")][..], text.as_bytes()].concat();
        let section = |id: u8, content: &[u8]| {
            let length = content.len();
            [&[id, (length & 0x7f) as u8 | 0x80, (length >> 7) as u8][..], content].concat()
        };
        let field = |name: &str, value: &str| [text(name), vec![1], text(value), text("1")].concat();
        let modules = modules.iter().map(|(size, language, tool)| {
            let fields = [vec![2], field(LANGUAGE, language), field(TOOL, tool)].concat();
            let producers = section(0, &[text("producers"), fields].concat());
            let padding = section(0, &[text("pad"), vec![0; *size]].concat());
            section(1, &[b"\0asm\x01\0\0\0".to_vec(), producers, padding].concat())
        });
        [b"\0asm\x0d\0\x01\0".to_vec(), modules.collect::<Vec<_>>().concat()].concat()
    }

    #[test]
    fn the_language_is_that_of_the_handler_and_not_of_its_runtime() {
        for (modules, language) in [
            (&[(900, "Go", "compile"), (100, "Rust", "rustc")][..], Some("Go 1")),
            (&[(100, "Rust", "rustc"), (900, "Go", "compile")], Some("Go 1")),
            (&[(900, "C11", "clang"), (100, "Rust", "ComponentizeJS")], Some("JavaScript")),
            (&[(900, "C11", "wit-bindgen-rust")], Some("Rust")),
            (&[(900, "C11", "wit-bindgen-rustlike")], Some("C11 1")),
        ] {
            let anatomy = Anatomy::of(&component(modules));
            assert_eq!((anatomy.language(), anatomy.parts), (language, modules.len()), "{anatomy:?}");
            assert_eq!((anatomy.languages.len(), anatomy.tools.len()), (modules.len(), modules.len()), "{anatomy:?}");
        }
    }

    #[test]
    fn what_a_component_says_of_itself_cannot_pass_for_our_own_words() {
        let anatomy = Anatomy::of(&component(&[(9, "C\n\u{1b}[2J", "cc")]));
        assert_eq!(anatomy.languages, ["C  [2J 1"]);
        let mut list = Vec::new();
        note(&mut list, "x".repeat(MAX_MESSAGE_BYTES + 1));
        assert_eq!(list[0].len(), MAX_MESSAGE_BYTES);
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
