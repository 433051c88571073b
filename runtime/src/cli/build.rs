//! `wasmill build`: components from sources.

use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::Parser;
use serde_json::{Value, json};
use wasmill::config::Config;
use wasmill::project::{self, BuildError, Built, Plan};

use super::report::FAILURE;
use super::{Context, Report, print_json, progress, sources};

/// Arguments of `build`.
#[derive(Parser)]
pub struct Args {
    /// The handlers to build [default: all that have a section `build`]
    handlers: Vec<String>,
    /// Write the component there instead, for one handler
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Builds all that was asked for, even after a fault; exit code 1 if something could not be built.
pub fn run(context: &Context, args: &Args) -> Result<ExitCode, Report> {
    let plans = plans(context, args)?;
    let mut is_fine = true;
    let mut documents = Vec::new();
    for plan in &plans {
        let waiting = progress::working();
        let result = project::build(plan, &mut |line| {
            waiting.suspend(|| eprintln!("{}: {line}", plan.name));
            waiting.set_message(line.to_owned());
        });
        waiting.finish_and_clear();
        is_fine &= result.is_ok();
        match context.is_json() {
            true => documents.push(document(plan, &result)),
            false => print(plan, &result),
        }
    }
    if context.is_json() {
        print_json(&json!({"ok": is_fine, "handlers": documents}));
    }
    Ok(if is_fine { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

/// What to build, by the configuration and the arguments.
fn plans(context: &Context, args: &Args) -> Result<Vec<Plan>, Report> {
    if context.file.is_none() {
        let remedy = "begin with `wasmill new NAME --lang LANG`, or name a configuration with --config";
        return Err(Report::usage(format!("there is no wasmill.toml that says what to build: {remedy}")));
    }
    let config = context.config()?;
    let mut plans = match args.handlers.is_empty() {
        true => config.handlers().into_iter().filter_map(|handler| handler.build).collect(),
        false => args.handlers.iter().map(|name| plan_of(&config, name)).collect::<Result<Vec<_>, _>>()?,
    };
    if plans.is_empty() {
        let remedy = "add a section [handlers.NAME.build] with `lang`";
        return Err(Report::usage(format!("no handler of the configuration is built from sources: {remedy}")));
    }
    match (&args.out, &mut plans[..]) {
        (None, _) => {}
        (Some(out), [plan]) => plan.output.clone_from(out),
        (Some(_), several) => {
            let problem = format!("--out is for one handler, and there are {} to build", several.len());
            return Err(Report::usage(format!("{problem}: name one")));
        }
    }
    Ok(plans)
}

fn plan_of(config: &Config, name: &str) -> Result<Plan, Report> {
    let handler = config.handler(name).ok_or_else(|| sources::unknown(config, name))?;
    let remedy = format!("add a section [handlers.{name}.build] with `lang`");
    handler.build.ok_or_else(|| Report::usage(format!("`{name}` is not built from sources: {remedy}")))
}

fn print(plan: &Plan, result: &Result<Built, BuildError>) {
    match result {
        Ok(built) => {
            let size = ByteSize(built.bytes).display().iec();
            let seconds = built.took.as_secs_f64();
            say!("{}: {}, {size} in {seconds:.1} s", plan.name, built.output.display());
        }
        Err(error) => eprintln!("{}: error: {error}", plan.name),
    }
}

fn document(plan: &Plan, result: &Result<Built, BuildError>) -> Value {
    let (name, lang) = (&plan.name, plan.lang);
    match result {
        Ok(built) => json!({
            "handler": name,
            "lang": lang,
            "ok": true,
            "component": built.output,
            "bytes": built.bytes,
            "seconds": (built.took.as_secs_f64() * 1000.0).round() / 1000.0,
        }),
        Err(error) => json!({"handler": name, "lang": lang, "ok": false, "error": error.to_string()}),
    }
}
