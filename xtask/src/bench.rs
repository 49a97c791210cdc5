pub fn run(_: &Bench) -> anyhow::Result<std::process::ExitCode> { Ok(std::process::ExitCode::SUCCESS) }
#[derive(Debug, clap::Subcommand)]
pub enum Bench { Batch }
