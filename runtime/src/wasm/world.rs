//! What a component may import: every interface that wasmill knows, and who may have it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A group of host interfaces that is granted to a handler by name, in `grants` of its section.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Capability {
    /// `wasi:logging`.
    Logging,
    /// `wasi:clocks`.
    Clocks,
    /// `wasi:random`.
    Random,
    /// `wasi:config`.
    Config,
    /// `wasi:messaging`.
    Messaging,
    /// `wasi:http`, outgoing.
    Http,
    /// `wasi:keyvalue`: what the handler remembers between events.
    State,
}

impl Capability {
    /// What a handler has that does not say otherwise: the runtimes of most languages do not start without it.
    pub const DEFAULT: [Capability; 3] = [Capability::Logging, Capability::Clocks, Capability::Random];
    /// What cannot reach outside of the worker.
    pub const INSIDE: [Capability; 6] = [
        Capability::Logging,
        Capability::Clocks,
        Capability::Random,
        Capability::Config,
        Capability::Messaging,
        Capability::State,
    ];

    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Capability::Logging => "logging",
            Capability::Clocks => "clocks",
            Capability::Random => "random",
            Capability::Config => "config",
            Capability::Messaging => "messaging",
            Capability::Http => "http",
            Capability::State => "state",
        }
    }

    /// How to grant it, as an operator is told.
    pub fn remedy(self) -> String {
        let grant = format!("add \"{}\" to handlers.NAME.grants", self.as_str());
        match self {
            Capability::Config => format!("{grant}; the values are those of [handlers.NAME.config]"),
            Capability::Http => format!("{grant} and name the hosts in [handlers.NAME.http] allow"),
            _ => grant,
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who may import an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Every handler.
    Always,
    /// Handlers that this is granted to.
    Grant(Capability),
    /// None: wasmill does not provide it.
    Never,
}

/// One interface, or all of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// What the names of its imports begin with.
    pub prefix: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// Who may import it.
    pub access: Access,
}

const fn interface(prefix: &'static str, access: Access, about: &'static str) -> Interface {
    Interface { prefix, about, access }
}

/// Our own package, and what the versions begin with that go with each other.
const OWN_PACKAGE: &str = "wasmill:events/";
const OWN_VERSION: &str = "0.1.";

/// Every interface that wasmill knows. Of several prefixes that fit a name, the longest one counts.
pub const INTERFACES: [Interface; 19] = [
    interface("wasmill:events/", Access::Always, "the event, and publishing of follow-ups"),
    interface("wasi:cli/", Access::Always, "no arguments and no environment; stdout and stderr go to the log"),
    interface("wasi:io/", Access::Always, "streams and waiting"),
    interface("wasi:filesystem/", Access::Always, "there, but without any file"),
    interface("wasi:sockets/", Access::Always, "there, but closed"),
    interface("wasi:logging/", Access::Grant(Capability::Logging), "log lines with a level"),
    interface("wasi:clocks/", Access::Grant(Capability::Clocks), "the time, and sleeping"),
    interface("wasi:random/", Access::Grant(Capability::Random), "randomness, bounded"),
    interface("wasi:config/", Access::Grant(Capability::Config), "configuration values of the handler"),
    interface("wasi:http/", Access::Grant(Capability::Http), "HTTP requests to hosts that are named"),
    interface("wasi:http/incoming-handler", Access::Never, "HTTP requests of others"),
    interface("wasi:messaging/", Access::Grant(Capability::Messaging), "publishing of follow-ups as messages"),
    interface("wasi:messaging/request-reply", Access::Never, "waiting for the answer to a message"),
    interface("wasi:keyvalue/", Access::Grant(Capability::State), "what the handler remembers between events"),
    interface(
        "wasi:keyvalue/atomics",
        Access::Never,
        "stored values that change at once, whatever becomes of the event",
    ),
    interface("wasi:keyvalue/watcher", Access::Never, "being told of changes of stored values"),
    interface("wasi:blobstore/", Access::Never, "stored objects"),
    interface("wasi:tls/", Access::Never, "TLS over sockets"),
    interface("wasi:nn/", Access::Never, "machine learning"),
];

/// The interface that an import such as `wasi:http/types@0.2.0` belongs to; `None` if wasmill does not know it.
pub fn interface_of(import: &str) -> Option<&'static Interface> {
    INTERFACES
        .iter()
        .filter(|interface| import.starts_with(interface.prefix))
        .max_by_key(|interface| interface.prefix.len())
}

/// Whether this is an interface of our own package in a version that does not go with ours.
fn is_other_version(import: &str) -> bool {
    let version = import.strip_prefix(OWN_PACKAGE).and_then(|rest| rest.split_once('@')).map(|(_, version)| version);
    version.is_some_and(|version| !version.starts_with(OWN_VERSION))
}

/// An import that a component cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Import {
    /// The handler has not been granted it.
    NotGranted(String, Capability),
    /// wasmill knows the interface and grants it to nobody.
    Denied(String),
    /// An interface of wasmill in a version that is not there.
    OtherVersion(String),
    /// wasmill does not know the interface.
    Unknown(String),
}

impl Import {
    /// What is wrong with this import for a handler that has these grants; `None` if nothing is.
    pub fn check(name: &str, grants: &[Capability]) -> Option<Import> {
        match interface_of(name).map(|interface| interface.access) {
            Some(_) if is_other_version(name) => Some(Import::OtherVersion(name.to_owned())),
            Some(Access::Always) => None,
            Some(Access::Grant(capability)) if grants.contains(&capability) => None,
            Some(Access::Grant(capability)) => Some(Import::NotGranted(name.to_owned(), capability)),
            Some(Access::Never) => Some(Import::Denied(name.to_owned())),
            None => Some(Import::Unknown(name.to_owned())),
        }
    }
}

impl fmt::Display for Import {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Import::NotGranted(name, capability) => write!(f, "{name} (not granted: {})", capability.remedy()),
            Import::Denied(name) => write!(f, "{name} (denied: this version of wasmill does not grant it)"),
            Import::OtherVersion(name) => {
                write!(
                    f,
                    "{name} (another version: this wasmill has {OWN_PACKAGE}*@{OWN_VERSION}*; build against its WIT)"
                )
            }
            Import::Unknown(name) => write!(f, "{name} (unknown)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides() {
        let access = |name| interface_of(name).map(|interface| interface.access);
        assert_eq!(access("wasi:http/outgoing-handler@0.2.0"), Some(Access::Grant(Capability::Http)));
        assert_eq!(access("wasi:http/incoming-handler@0.2.0"), Some(Access::Never));
        assert_eq!(access("wasi:messaging/request-reply@0.2.0-draft"), Some(Access::Never));
        assert_eq!(access("wasi:cli/stdout@0.2.6"), Some(Access::Always));
        assert_eq!(access("wasi:httpx/types@0.2.0"), None);
    }

    #[test]
    fn what_is_not_granted_is_told_with_the_setting_that_grants_it() {
        let name = "wasi:http/outgoing-handler@0.2.0";
        assert_eq!(Import::check(name, &[Capability::Http]), None);
        let refused = Import::check(name, &Capability::INSIDE).expect("http is not inside");
        let text = "wasi:http/outgoing-handler@0.2.0 (not granted: add \"http\" to handlers.NAME.grants and name the \
                    hosts in [handlers.NAME.http] allow)";
        assert_eq!(refused.to_string(), text);
        assert_eq!(Import::check("wasmill:events/types@0.1.3", &[]), None);
        let other = "wasmill:events/types@0.2.0";
        assert_eq!(Import::check(other, &[]), Some(Import::OtherVersion(other.into())));
        assert_eq!(Import::check("other:thing/x", &[]), Some(Import::Unknown("other:thing/x".into())));
    }
}
