//! The files of `tenants_dir`: `NAME.toml` says of a tenant what `[tenants.NAME]` would.
//!
//! A file that is at fault is a matter of its tenant alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::errors::{ConfigError, ConfigErrors};
use super::parse::Document;
use super::tenants::{FaultyTenant, TenantConfig};
use super::{Config, join, validate};
use crate::broker::keys::DEFAULT_TENANT;

/// The longest file, in bytes: handlers in the hundreds.
const MAX_FILE: u64 = 1 << 20;
/// The most tenants.
const MAX_TENANTS: usize = 10_000;

/// A file that has been read, for faults that are found later.
struct TenantFile {
    path: PathBuf,
    text: String,
}

impl Config {
    /// Adds the tenants of `tenants_dir`, and checks what tenants want of one another. `text` is what the configuration was
    /// read from. Faults of what stands in it are returned; those of a tenant's own file are kept beside its name.
    pub(super) fn complete_tenants(&mut self, file: Option<&Path>, text: &str) -> Result<(), ConfigErrors> {
        let files = match self.tenants_dir.clone() {
            Some(directory) => self.read_tenants(&directory).map_err(|problem| {
                let remedy = Some("make the directory, or leave the key out".to_owned());
                let field = "tenants_dir".to_owned();
                let fault =
                    ConfigError { file: file.map(Path::to_owned), field, problem, remedy, ..ConfigError::default() };
                ConfigErrors(vec![fault])
            })?,
            None => BTreeMap::new(),
        };
        let document = Document::parse(file, text)?;
        // Those that name a tenant which is taken out here are found when that one has been. Of two that meet both are.
        loop {
            let mut faulty = Vec::new();
            for (name, TenantFile { path, text }) in files.iter().filter(|(name, _)| self.tenants.contains_key(*name)) {
                let Ok(document) = Document::parse(Some(path), text) else { continue };
                let faults = validate::sharing(name, self, &document, &[]);
                if !faults.is_empty() {
                    faulty.push(FaultyTenant { name: name.clone(), faults: ConfigErrors(faults) });
                }
            }
            if faulty.is_empty() {
                break;
            }
            for tenant in faulty {
                self.tenants.remove(&tenant.name);
                self.faulty_tenants.push(tenant);
            }
        }
        // What a file has wrong is its own matter: it has been taken out before the others are looked at.
        let mut faults = validate::sharing(DEFAULT_TENANT, self, &document, &[]);
        for name in self.tenants.keys().filter(|name| !files.contains_key(*name)) {
            faults.extend(validate::sharing(name, self, &document, &["tenants", name]));
        }
        self.faulty_tenants.sort_by(|a, b| a.name.cmp(&b.name));
        if faults.is_empty() { Ok(()) } else { Err(ConfigErrors(faults)) }
    }

    /// Reads all files; those that cannot be used are noted.
    fn read_tenants(&mut self, directory: &Path) -> Result<BTreeMap<String, TenantFile>, String> {
        let unreadable = |cause: std::io::Error| format!("`{}` cannot be read: {cause}", directory.display());
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(directory).map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !is_hidden && path.extension().is_some_and(|extension| extension == "toml") {
                paths.push(path);
            }
        }
        if paths.len() + self.tenants.len() > MAX_TENANTS {
            return Err(format!("there are more than {MAX_TENANTS} tenants"));
        }
        paths.sort();
        let mut files = BTreeMap::new();
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match self.read_tenant(&name, &path) {
                Ok((tenant, text)) => {
                    self.tenants.insert(name.clone(), tenant);
                    files.insert(name, TenantFile { path, text });
                }
                Err(faults) => self.faulty_tenants.push(FaultyTenant { name, faults }),
            }
        }
        Ok(files)
    }

    fn read_tenant(&self, name: &str, path: &Path) -> Result<(TenantConfig, String), ConfigErrors> {
        let fault = |problem: String, remedy: &str| {
            let (file, remedy) = (Some(path.to_owned()), Some(remedy.to_owned()));
            ConfigErrors(vec![ConfigError { file, problem, remedy, ..ConfigError::default() }])
        };
        if self.tenants.contains_key(name) {
            return Err(fault(format!("tenants.{name} stands in the configuration file as well"), "leave one out"));
        }
        let size = std::fs::metadata(path).map(|metadata| metadata.len());
        if size.is_ok_and(|size| size > MAX_FILE) {
            return Err(fault(format!("has more than {MAX_FILE} bytes"), "make several tenants of it"));
        }
        let text = std::fs::read_to_string(path);
        let text =
            text.map_err(|cause| fault(format!("the file cannot be read: {cause}"), "let the worker read it"))?;
        let mut document = Document::parse(Some(path), &text)?;
        let check = |tenant: &TenantConfig, document: &Document<'_>| validate::tenant(name, tenant, self, document);
        let mut tenant: TenantConfig = document.read(Vec::new(), check)?;
        let directory = path.parent().unwrap_or(Path::new(""));
        tenant.paths_mut().for_each(|path| join(directory, path));
        Ok((tenant, text))
    }
}
