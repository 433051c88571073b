//! Redis clients in other languages: the programs in `tests/clients/`.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::workspace;

/// The language of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// redis-py.
    Python,
    /// ioredis.
    Node,
}

impl Client {
    /// All of them.
    pub const ALL: [Client; 2] = [Client::Python, Client::Node];

    /// Runs a program of `tests/clients/`, such as `produce`, and returns the JSON lines that it prints.
    ///
    /// # Panics
    /// When it fails, or is not installed.
    #[track_caller]
    pub fn run(self, program: &str, arguments: &[&str]) -> Vec<Value> {
        let output = self.command(program).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{self:?} cannot be run ({error}): {REMEDY}"));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{self:?} {program} {arguments:?} failed; {REMEDY}; it said:\n{errors}");
        let lines = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect::<Result<_, _>>();
        lines.unwrap_or_else(|error| panic!("{self:?} {program} {arguments:?} does not print JSON: {error}"))
    }

    fn command(self, program: &str) -> Command {
        let (root, tools) = (workspace(), workspace().join("target/tools"));
        let script = |ending: &str| -> PathBuf { root.join(format!("tests/clients/{program}.{ending}")) };
        match self {
            Client::Python => {
                let mut command = Command::new(tools.join("py/bin/python"));
                // Isolated: nothing of the user's packages and variables. No files beside the scripts.
                command.args(["-I", "-B"]).arg(script("py"));
                command
            }
            Client::Node => {
                let mut command = Command::new("node");
                command.arg(script("cjs")).env("NODE_PATH", tools.join("js/node_modules"));
                command
            }
        }
    }
}

/// What to do when a client is missing.
const REMEDY: &str = "`cargo xtask test` installs the clients into target/tools/, or says what it needs for that";
