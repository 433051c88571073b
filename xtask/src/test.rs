//! `cargo xtask test`: what the tests need, and the tests.

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::cmd::{self, Result};
use crate::{guests, packages};

/// The oldest Redis that wasmill works with.
const REDIS_MAJOR: u32 = 7;
/// Package managers: the program, what refreshes its lists, what installs, and the name of the package.
const MANAGERS: [(&str, &[&str], &[&str], &str); 6] = [
    ("apt-get", &["update"], &["install", "-y", "--no-install-recommends"], "redis-server"),
    ("dnf", &[], &["install", "-y"], "redis"),
    ("yum", &[], &["install", "-y"], "redis"),
    ("apk", &["update"], &["add"], "redis"),
    ("pacman", &[], &["-Sy", "--noconfirm"], "redis"),
    ("brew", &[], &["install"], "redis"),
];

/// Installs, builds and tests.
pub fn run(root: &Path, arguments: &[String]) -> Result<ExitCode> {
    install_redis()?;
    install_registry()?;
    packages::install_clients(root)?;
    guests::build(root)?;
    cmd::run(
        cmd::cargo(&root.join("guest-examples"))
            .args(["test", "--locked", "--target-dir"])
            .arg(root.join("target/guests-build")),
    )?;
    eprintln!("$ cargo test --workspace");
    cmd::exit_code(cmd::cargo(root).args(["test", "--workspace", "--locked"]).args(arguments))
}

/// Installs redis-server where there is none.
fn install_redis() -> Result<()> {
    if let Some(version) = redis_version() {
        return check_version(&version);
    }
    let manager = MANAGERS.iter().find(|(program, ..)| cmd::output(program, &["--version"]).is_some());
    let Some((program, refresh, install, package)) = manager else {
        return Err("redis-server is missing, and no known package manager is there: install Redis 7.0 or newer".into());
    };
    install_package(program, refresh, install, package)?;
    let version = redis_version().ok_or("redis-server is still missing after it was installed")?;
    check_version(&version)
}

/// Installs docker-registry, the registry that the tests start, where there is none.
fn install_registry() -> Result<()> {
    let is_there = || cmd::output("docker-registry", &["--version"]).is_some();
    let (program, refresh, install, _) = MANAGERS[0];
    if is_there() {
        return Ok(());
    }
    if cmd::output(program, &["--version"]).is_none() {
        return Err("docker-registry is missing: install the CNCF Distribution registry under that name".into());
    }
    install_package(program, refresh, install, "docker-registry")?;
    if is_there() { Ok(()) } else { Err("docker-registry is still missing after it was installed".into()) }
}

/// Installs a package as root.
fn install_package(program: &str, refresh: &[&str], install: &[&str], package: &str) -> Result<()> {
    let is_root = cmd::output("id", &["-u"]).is_some_and(|id| id.trim() == "0");
    let command = || match is_root || program == "brew" {
        true => Command::new(program),
        false => {
            let mut sudo = Command::new("sudo");
            sudo.arg(program);
            sudo
        }
    };
    if !refresh.is_empty() {
        cmd::run(command().args(refresh))?;
    }
    cmd::run(command().args(install).arg(package))
}

fn redis_version() -> Option<String> {
    cmd::output("redis-server", &["--version"])
}

/// Refuses a server that is too old. The text is `Redis server v=7.0.15 sha=...`.
fn check_version(text: &str) -> Result<()> {
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v=")).unwrap_or_default();
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major < REDIS_MAJOR {
        return Err(format!("redis-server {version} is too old: the tests need {REDIS_MAJOR}.0 or newer").into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_redis_prints() {
        assert!(check_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64").is_ok());
        assert!(check_version("Redis server v=6.2.1 sha=0").is_err());
        assert!(check_version("").is_err());
    }
}
