//! temporary
mod bench;
use clap::Parser;
#[derive(Parser)]
enum Cli {
    Bench(bench::BenchArgs),
}
fn main() {
    let Cli::Bench(args) = Cli::parse();
    if let Err(e) = bench::run(std::path::Path::new("/work/main"), &args) {
        eprintln!("error: {e}");
        std::process::exit(1)
    }
}
