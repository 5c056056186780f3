//! The program `viewservice`.

use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap::error::ErrorKind;
use kvprocess::shutdown::Signals;
use kvprocess::{args, listen, logging};
use kvproto::Settings;
use viewservice::config::Config;

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = args::parse();
    logging::init(config.log_format);
    let settings = config.settings().unwrap_or_else(|contradiction| {
        let mut command = Config::command();
        command.error(ErrorKind::ValueValidation, contradiction).exit()
    });
    match serve(&config, settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::say(format!("viewservice: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: &Config, settings: Settings) -> anyhow::Result<()> {
    let signals = Signals::install().context("listen to signals")?;
    let listeners = listen::bind(&config.addr, config.insecure)?;
    let addresses: Vec<_> = listeners.addresses().iter().map(ToString::to_string).collect();
    logging::say(format!("viewservice ready on {}", addresses.join(", ")));
    viewservice::run(settings, listeners, signals.token()).await
}
