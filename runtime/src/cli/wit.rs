//! `wasmill wit`: the contract with handlers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use wasmill::project::wit;

use super::{Context, Report, print_json};

/// Arguments of `wit`.
#[derive(Parser)]
pub struct Args {
    /// Write the folder with all files, for generators of bindings, instead of printing one document
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints or writes.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    match &args.out {
        Some(directory) => {
            wit::write(directory).map_err(Report::failure)?;
            let files: Vec<PathBuf> = wit::FILES.iter().map(|(name, _)| directory.join(name)).collect();
            match context.is_json() {
                true => print_json(&json!({"world": wit::WORLD, "files": files})),
                false => files.iter().for_each(|file| say!("{}", file.display())),
            }
        }
        None if context.is_json() => print_json(&json!({"world": wit::WORLD, "wit": wit::text()})),
        None => say!("{}", wit::text().trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
