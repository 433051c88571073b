//! `wasmill doctor`: is everything as it should be?

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;
use wasmill::ops::Level;

use super::table::plain;
use super::{Context, Report, block_on, print_json};

/// There are warnings, and nothing worse.
const WARNINGS: u8 = 3;
/// There are errors.
const ERRORS: u8 = 4;

/// Arguments of `doctor`.
#[derive(Parser)]
#[command(after_help = "Exit codes: 0 all is well, 3 warnings, 4 errors; 1 and 2 when nothing could be looked at.")]
pub struct Args {
    /// Mend what can be mended without any risk
    #[arg(long)]
    fix: bool,
}

/// Looks, and says what it has seen.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let report = block_on(async { context.lazy_target(&config)?.doctor(args.fix).await })?;
    if context.is_json() {
        print_json(&json!(report));
    } else {
        let colours = std::io::stdout().is_terminal();
        for finding in &report.findings {
            let (word, colour) = match (finding.fixed, finding.level) {
                (true, _) => ("fixed", "32"),
                (_, Level::Ok) => ("ok", "32"),
                (_, Level::Warning) => ("warning", "33"),
                (_, Level::Error) => ("error", "31"),
            };
            let word = if colours { format!("\x1b[{colour}m{word}\x1b[0m") } else { word.to_owned() };
            let check = json!(finding.check);
            say!("{word}: {}: {}", check.as_str().unwrap_or_default(), plain(&finding.message));
            if !finding.remedy.is_empty() && !finding.fixed {
                say!("    {}", plain(&finding.remedy));
            }
        }
    }
    Ok(match report.level {
        Level::Ok => ExitCode::SUCCESS,
        Level::Warning => ExitCode::from(WARNINGS),
        Level::Error => ExitCode::from(ERRORS),
    })
}
