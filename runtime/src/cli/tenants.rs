//! `wasmill tenants`: who shares the workers.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use serde_json::json;
use wasmill::app;
use wasmill::broker::keys::DEFAULT_TENANT;
use wasmill::config::Config;
use wasmill::ops::{QuotaUsage, TenantReport};

use super::table::{self, count, plain};
use super::{Context, Report, block_on, print_json};

/// Arguments of `tenants`.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Show what a tenant uses of what it may
    Show {
        /// The tenant
        tenant: String,
    },
    /// Print the line by which redis-cli sets up the Redis user of a tenant
    Acl {
        /// The tenant
        tenant: String,
    },
}

/// Lists them, or shows one.
pub fn run(context: Context, args: &Args) -> Result<ExitCode, Report> {
    match &args.verb {
        None => list(&context),
        Some(Verb::Show { tenant }) => show(Context { tenant: tenant.clone(), ..context }),
        Some(Verb::Acl { tenant }) => acl(Context { tenant: tenant.clone(), ..context }),
    }
}

fn list(context: &Context) -> Result<ExitCode, Report> {
    let tenants = match context.worker()? {
        Some(worker) => block_on(worker.tenants())?,
        None => configured(&context.whole_config()?),
    };
    if context.is_json() {
        print_json(&json!(tenants));
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table::new(["TENANT", "PREFIX", "WEIGHT", "HANDLERS", "REDIS USER", ""]);
    for tenant in &tenants {
        table.add_row([
            plain(&tenant.tenant),
            plain(&tenant.prefix),
            tenant.weight.to_string(),
            count(tenant.handlers.len()),
            plain(tenant.redis_user.as_deref().unwrap_or("-")),
            plain(tenant.fault.as_deref().unwrap_or_default()),
        ]);
    }
    say!("{table}");
    Ok(ExitCode::SUCCESS)
}

/// The tenants of the configuration, those with faults at the end.
fn configured(config: &Config) -> Vec<TenantReport> {
    let tenants = config.of_all_tenants();
    let tenants = tenants.map(|own| TenantReport::new(&own.tenant, own.handlers.keys().map(String::as_str)));
    let faulty = config.faulty_tenants.iter().map(|tenant| TenantReport {
        tenant: tenant.name.clone(),
        fault: Some(tenant.faults.to_string()),
        ..TenantReport::default()
    });
    tenants.chain(faulty).collect()
}

fn show(context: Context) -> Result<ExitCode, Report> {
    let config = context.config_with_log()?;
    let usage = block_on(async { context.target(&config).await?.usage().await })?;
    if context.is_json() {
        print_json(&json!(usage));
        return Ok(ExitCode::SUCCESS);
    }
    let TenantReport { tenant, prefix, weight, redis_user, handlers, .. } = &usage.tenant;
    say!("tenant {}, keys {}*, weight {weight}", plain(tenant), plain(prefix));
    say!("Redis user: {}", plain(redis_user.as_deref().unwrap_or("that of the workers")));
    say!("handlers: {}", plain(&handlers.join(", ")));
    let mut table = table::new(["QUOTA", "USED", "OF"]);
    for QuotaUsage { quota, unit, used, limit } in &usage.quotas {
        let amount = |amount: u64| match unit.as_str() {
            "bytes" => bytesize::ByteSize(amount).display().iec().to_string(),
            unit => format!("{} {}", count(amount as usize), plain(unit)),
        };
        table.add_row([plain(quota), used.map_or("-".to_owned(), amount), limit.map_or("no bound".to_owned(), amount)]);
    }
    say!("{table}");
    Ok(ExitCode::SUCCESS)
}

/// The line, which a person completes by the password.
fn acl(context: Context) -> Result<ExitCode, Report> {
    let config = context.config()?;
    if config.tenant.name == DEFAULT_TENANT {
        let problem = "the tenant `default` belongs to the worker's own user: ARCHITECTURE.md says what that one needs";
        return Err(Report::usage(problem));
    }
    let grants = app::user_grants(&config);
    if context.is_json() {
        let arguments = grants.arguments(">PASSWORD");
        print_json(&json!({"tenant": config.tenant.name, "username": grants.username, "arguments": arguments}));
        return Ok(ExitCode::SUCCESS);
    }
    // It goes to redis-cli: nothing else may stand beside it.
    println!("{grants}");
    if config.tenant.redis.username.is_none() {
        eprintln!(
            "(no user is configured: set username and password_file in [tenants.{}.redis] when it is there)",
            config.tenant.name
        );
    }
    Ok(ExitCode::SUCCESS)
}
