//! Packages of other languages, below `target/tools/`: environments for Python and packages for Node, each as a file in
//! the repository pins them.

use std::fs;
use std::path::Path;
use std::process::Command;

use sha2::{Digest as _, Sha256};

use crate::cmd::{self, Result};

/// The file that says what lies in a folder; written last.
const STAMP: &str = "wasmill.stamp";
/// The oldest Python and Node that have the clients.
const PYTHON: (u32, u32) = (3, 9);
const NODE: (u32, u32) = (18, 0);

/// Installs the Redis clients of the tests, `tests/clients/`, if they are not there yet.
pub fn install_clients(root: &Path) -> Result<()> {
    let (clients, tools) = (root.join("tests/clients"), root.join("target/tools"));
    let requirements = clients.join("requirements.txt");
    install_python("the tests run a Python client", PYTHON, &requirements, &tools.join("py"))?;
    install_node(&clients, &tools.join("js"))
}

/// Makes an environment with what the requirements pin, if it is not there yet. `reason` says what it is for, `oldest`
/// which Python has the packages.
pub fn install_python(reason: &str, oldest: (u32, u32), requirements: &Path, folder: &Path) -> Result<()> {
    let remedy = format!(
        "{reason}: install Python {}.{} or newer with its module venv (Debian, Ubuntu: `apt-get install \
         python3-venv`; elsewhere the package is mostly called python3)",
        oldest.0, oldest.1
    );
    let version = cmd::output("python3", &["-c", "import ensurepip, platform, venv; print(platform.python_version())"]);
    let version = version.ok_or_else(|| format!("python3 is missing, or has no module venv; {remedy}"))?;
    if !is_at_least(&version, oldest) {
        return Err(format!("python3 is {}, which is too old; {remedy}", version.trim()).into());
    }
    let stamp = stamp(&version, &[requirements])?;
    if is_there(folder, &stamp) {
        return Ok(());
    }
    empty(folder)?;
    cmd::run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(requirements);
    cmd::run(&mut pip)?;
    Ok(fs::write(folder.join(STAMP), stamp)?)
}

fn install_node(clients: &Path, folder: &Path) -> Result<()> {
    let remedy = "the tests run a Node client: install Node.js 18 or newer with npm (packages nodejs and npm)";
    let version = cmd::output("node", &["--version"]).ok_or_else(|| format!("node is missing; {remedy}"))?;
    if !is_at_least(version.trim_start_matches('v'), NODE) {
        return Err(format!("node is {}, which is too old; {remedy}", version.trim()).into());
    }
    let files = ["package.json", "package-lock.json"].map(|name| clients.join(name));
    let stamp = stamp(&version, &[&files[0], &files[1]])?;
    if is_there(folder, &stamp) {
        return Ok(());
    }
    if cmd::output("npm", &["--version"]).is_none() {
        return Err(format!("npm is missing; {remedy}").into());
    }
    empty(folder)?;
    for file in &files {
        fs::copy(file, folder.join(file.file_name().expect("these paths end in a name")))?;
    }
    // No package here needs a script of its own, and none may run one.
    let arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"];
    cmd::run(Command::new("npm").current_dir(folder).args(arguments))?;
    Ok(fs::write(folder.join(STAMP), stamp)?)
}

/// What a folder holds, in one word: the version of the language, and what is to be installed.
fn stamp(version: &str, inputs: &[&Path]) -> Result<String> {
    let mut hasher = Sha256::new_with_prefix(version);
    for input in inputs {
        let bytes = fs::read(input).map_err(|error| format!("{} cannot be read: {error}", input.display()))?;
        hasher.update((bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn is_there(folder: &Path, stamp: &str) -> bool {
    fs::read_to_string(folder.join(STAMP)).is_ok_and(|found| found == stamp)
}

/// Makes a folder that has nothing in it.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(fs::create_dir_all(folder)?)
}

/// Whether a version such as `3.11.7` is that one or a newer one.
fn is_at_least(version: &str, (major, minor): (u32, u32)) -> bool {
    let mut numbers = version.trim().split('.').map(|part| part.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next()) >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(is_at_least("3.11.7\n", PYTHON) && is_at_least("3.9", PYTHON) && is_at_least("20.1.0", NODE));
        assert!(!is_at_least("3.8.20", PYTHON) && !is_at_least("2.7.18", PYTHON) && !is_at_least("", NODE));
    }

    #[test]
    fn what_is_there_is_known_by_its_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("requirements.txt");
        fs::write(&input, "redis==1").unwrap();
        let first = stamp("3.11", &[&input]).unwrap();
        assert!(!is_there(dir.path(), &first));
        fs::write(dir.path().join(STAMP), &first).unwrap();
        assert!(is_there(dir.path(), &stamp("3.11", &[&input]).unwrap()));
        assert!(!is_there(dir.path(), &stamp("3.12", &[&input]).unwrap()));
        fs::write(&input, "redis==2").unwrap();
        assert!(!is_there(dir.path(), &stamp("3.11", &[&input]).unwrap()));
        empty(dir.path()).unwrap();
        assert!(!is_there(dir.path(), &first));
        assert!(stamp("3.11", &[&input]).unwrap_err().to_string().contains("requirements.txt"));
    }
}
