//! `wasmill new`: a new handler project.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use serde_json::json;
use wasmill::project::Lang;
use wasmill::project::templates::{self, NewError};

use super::{Context, Report, print_json};

/// Arguments of `new`.
#[derive(Parser)]
pub struct Args {
    /// The name of the handler
    name: String,
    /// The language to write it in
    #[arg(long, value_parser = PossibleValuesParser::new(Lang::ALL.map(Lang::as_str)).try_map(|name| name.parse::<Lang>()))]
    lang: Lang,
    /// The folder, which must be empty or not be there [default: the name]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Writes the project, and says how to go on.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let directory = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let files = templates::create(&args.name, args.lang, &directory).map_err(|error| match error {
        NewError::Folder { .. } | NewError::Files(_) => Report::failure(error),
        NewError::Name(_) | NewError::PackageName(..) | NewError::NotEmpty(_) => Report::usage(error),
    })?;
    let shown = directory.display();
    if context.is_json() {
        print_json(&json!({"handler": args.name, "lang": args.lang, "directory": directory, "files": files}));
        return Ok(ExitCode::SUCCESS);
    }
    say!("{shown} is a handler in {}, with a README.md. Go on with:", args.lang);
    say!("    cd {shown}");
    say!("    wasmill test    # builds it, and runs events/*.json");
    say!("    wasmill dev     # runs it, and builds again at each save");
    Ok(ExitCode::SUCCESS)
}
