//! A worker that serves tenants, and what it says of itself.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::measure::{Process, Server, free_port, get, rss_mib, run_worker, wait};
use crate::cmd::Result;

/// A running worker with tenants.
pub struct Worker {
    process: Process,
    admin: u16,
    _directory: tempfile::TempDir,
}

impl Worker {
    /// Starts one with these tenants, in the form of its configuration, on an empty server; ready when it returns.
    pub fn start(root: &Path, server: &Server, tenants: &str) -> Result<Worker> {
        redis::cmd("FLUSHALL").query::<()>(&mut server.connection()?)?;
        let (directory, admin) = (tempfile::tempdir()?, free_port()?);
        let config = format!(
            "[redis]\nurl = \"{}\"\n[log]\nlevel = \"off\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n[worker]\n\
             cache_dir = \"{}\"\n{tenants}",
            server.url(),
            root.join("target/bench-cache").display(),
        );
        let process = Process(run_worker(&root.join("target/release"), directory.path(), &config)?);
        wait("the worker is ready", || {
            Ok(get(admin, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")).then_some(()))
        })?;
        Ok(Worker { process, admin, _directory: directory })
    }

    /// The time that the handlers of each tenant have used, in seconds.
    pub fn cpu_seconds(&self) -> Result<BTreeMap<String, f64>> {
        let metrics = get(self.admin, "/metrics")?;
        let mut used = BTreeMap::new();
        for line in metrics.lines().filter(|line| line.starts_with("wasmill_handler_cpu_seconds_total{")) {
            let tenant = line.split_once("tenant=\"").and_then(|(_, rest)| rest.split_once('"'));
            let (tenant, _) = tenant.ok_or_else(|| format!("no tenant in `{line}`"))?;
            let seconds = line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok());
            *used.entry(tenant.to_owned()).or_default() += seconds.ok_or_else(|| format!("no number in `{line}`"))?;
        }
        Ok(used)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Its resident memory.
    pub fn rss_mib(&self) -> Result<f64> {
        rss_mib(self.pid())
    }
}
