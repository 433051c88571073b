//! `cargo xtask`: whatever of building and testing needs logic.

mod bench;
mod ci;
mod cmd;
mod guests;
mod packages;
mod test;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, show, test and measure wasmill.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build everything and run the demo; further arguments go to `wasmill demo`
    Demo {
        /// Such as --events 50000, --rate 2000, --redis redis://127.0.0.1, --output json
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Install what the tests need, and run all of them; further arguments go to `cargo test`
    Test {
        /// Such as the name of a test
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Build the example handlers into target/guests/. A language whose tools are missing is skipped, or with CI in the
    /// environment is an error
    Guests {
        /// Only the projects of these languages
        languages: Vec<guests::Language>,
        /// Only the cargo workspace: the handlers of the demo, and those of tests and benchmarks
        #[arg(long, conflicts_with = "languages")]
        workspace: bool,
    },
    /// Measure wasmill against a native loop, or against redis-benchmark
    Bench(bench::BenchArgs),
    /// Check formatting, lints, documentation and dependencies
    Ci,
}

fn main() -> ExitCode {
    let root = root();
    let result = match Arguments::parse().verb {
        Verb::Demo { arguments } => demo(&root, &arguments),
        Verb::Test { arguments } => test::run(&root, &arguments),
        Verb::Guests { languages, workspace } => guests(&root, &languages, workspace),
        Verb::Bench(args) => bench(&root, &args),
        Verb::Ci => ci::run(&root),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

/// The root of the repository.
fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("the crate lies in the workspace").to_path_buf()
}

fn guests(root: &Path, languages: &[guests::Language], workspace: bool) -> cmd::Result<ExitCode> {
    match (workspace, languages) {
        (true, _) => guests::build_workspace(root)?,
        (false, []) => guests::build(root)?,
        (false, languages) => guests::build_languages(root, languages)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn demo(root: &Path, arguments: &[String]) -> cmd::Result<ExitCode> {
    guests::build_workspace(root)?;
    cmd::run(cmd::cargo(root).args(["build", "--release", "--package", "wasmill"]))?;
    let mut demo = std::process::Command::new(root.join("target/release/wasmill"));
    cmd::exit_code(demo.arg("demo").arg("--guests").arg(root.join("target/guests")).args(arguments))
}

fn bench(root: &Path, args: &bench::BenchArgs) -> cmd::Result<ExitCode> {
    args.build_guests(root)?;
    let packages = ["build", "--release", "--package", "wasmill", "--package", "xtask"];
    cmd::run(cmd::cargo(root).args(packages))?;
    bench::run(root, args).map(|()| ExitCode::SUCCESS)
}
