//! The program `viewservice`.

use std::process::ExitCode;

use anyhow::Context;
use clap::CommandFactory;
use clap::error::ErrorKind;
use kvprocess::shutdown::Signals;
use kvprocess::{args, listen, logging};
use viewservice::config::Config;
use viewservice::home::{Home, HomeError};

#[tokio::main]
async fn main() -> ExitCode {
    let config: Config = args::parse();
    logging::init(config.log_format);
    match serve(&config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::say(format!("viewservice: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let signals = Signals::install().context("listen to signals")?;
    let listeners = listen::bind(&config.addr, config.insecure)?;
    let directory = config.data_dir(listeners.port());
    let home = match Home::open(&directory, &config.settings, config.new).await {
        Err(HomeError::Flags(wrong)) => {
            Config::command().error(ErrorKind::ValueValidation, wrong).exit()
        }
        opened => opened?,
    };
    let addresses: Vec<_> = listeners.addresses().iter().map(ToString::to_string).collect();
    logging::say(format!("viewservice ready on {}", addresses.join(", ")));
    viewservice::run(home, listeners, signals.token()).await
}
