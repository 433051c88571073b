//! What a handler is granted, and what stands behind the grants.

use bytesize::ByteSize;

use super::{Check, MAX_EVENT};
use crate::config::interfaces::{ConfigValue, HttpConfig, RESERVED_VALUES};
use crate::config::secret::MAX_SECRET;
use crate::config::sections::HandlerConfig;
use crate::config::units::format_size;
use crate::wasm::Capability;
use crate::wasm::http::origin::Origin;

/// The most HTTP requests that one delivery can be allowed.
const MAX_REQUESTS: u32 = 1000;

impl Check<'_, '_> {
    pub(super) fn interfaces(&mut self, name: &str, handler: &HandlerConfig) {
        for (index, grant) in handler.grants.iter().enumerate() {
            if handler.grants[..index].contains(grant) {
                let index = index.to_string();
                let path = ["handlers", name, "grants", &index];
                self.fault(&path, format!("`{grant}` is there twice"), "leave one out");
            }
        }
        if !handler.config.is_empty() && !handler.grants.contains(&Capability::Config) {
            let problem = "has no effect without the grant of \"config\"";
            self.fault(&["handlers", name, "config"], problem, missing_grant(Capability::Config));
        }
        self.http(name, handler);
        for (key, value) in &handler.config {
            self.value(&["handlers", name, "config", key], key, value);
        }
    }

    fn value(&mut self, path: &[&str], key: &str, value: &ConfigValue) {
        if key.starts_with(RESERVED_VALUES) {
            let problem = format!("names that begin with `{RESERVED_VALUES}` are wasmill's own");
            self.fault(path, problem, "choose another name");
        }
        match value {
            ConfigValue::Text(text) if text.len() > MAX_SECRET => {
                let problem = format!("has {} bytes; the limit is {MAX_SECRET}", text.len());
                self.fault(path, problem, "choose a shorter value");
            }
            ConfigValue::Text(_) => {}
            ConfigValue::Env { env } => self.variable(path, Some(env), "value"),
            ConfigValue::File { file } if file.as_os_str().is_empty() => {
                self.fault(path, "names no file", "write { file = \"PATH\" }");
            }
            ConfigValue::File { .. } => {}
        }
    }

    fn http(&mut self, name: &str, handler: &HandlerConfig) {
        let http = &handler.http;
        let at = |key: &'static str| ["handlers", name, "http", key];
        match handler.grants.contains(&Capability::Http) {
            true if http.allow.is_empty() => {
                let remedy = "add `allow = [\"https://HOST\"]` to this handler's section `http`, or take \"http\" out";
                self.fault(&["handlers", name, "grants"], "\"http\" is granted, but no host is allowed", remedy);
            }
            false if *http != HttpConfig::default() => {
                let problem = "has no effect without the grant of \"http\"";
                self.fault(&["handlers", name, "http"], problem, missing_grant(Capability::Http));
            }
            _ => {}
        }
        for (index, text) in http.allow.iter().enumerate() {
            let index = index.to_string();
            if let Err(error) = Origin::parse(text) {
                // Not shown: it may hold a password.
                let remedy = "write scheme, host and port, such as \"https://api.example.com\"";
                self.fault(&["handlers", name, "http", "allow", &index], error.to_string(), remedy);
            }
        }
        if !(1..=MAX_REQUESTS).contains(&http.requests) {
            let problem = format!("{} is out of bounds", http.requests);
            self.fault(&at("requests"), problem, format!("from 1 to {MAX_REQUESTS}"));
        }
        for (key, size) in [("request_bytes", http.request_bytes), ("response_bytes", http.response_bytes)] {
            if size > MAX_EVENT {
                let remedy = format!("from {} to {}", format_size(ByteSize(0)), format_size(MAX_EVENT));
                self.fault(&at(key), format!("{} is out of bounds", format_size(size)), remedy);
            }
        }
        self.positive(&at("timeout"), http.timeout);
    }
}

/// How to grant what settings are there for.
fn missing_grant(capability: Capability) -> String {
    let defaults = Capability::DEFAULT.map(|capability| format!("\"{capability}\"")).join(", ");
    format!("add \"{capability}\" to this handler's `grants`; they are by default {defaults}")
}
