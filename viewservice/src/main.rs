//! The program `viewservice`.

use anyhow::Context;
use clap::CommandFactory;
use clap::error::ErrorKind;
use kvprocess::shutdown::{Signals, exit_with, hold_signals};
use kvprocess::{args, listen, logging};
use tokio::runtime::Builder;
use viewservice::config::Config;
use viewservice::home::{Home, HomeError};

fn main() -> ! {
    let config: Config = args::parse();
    logging::init(config.log_format);
    hold_signals().expect("a thread may hold signals");
    let runtime = Builder::new_multi_thread().enable_all().build();
    let outcome = runtime.expect("a process can watch its sockets").block_on(serve(config));
    // Not by leaving here: whoever still waits for a disk that hangs would be waited for.
    exit_with(outcome.map_err(|error| format!("viewservice: {error:#}")))
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let signals = Signals::install().context("listen to signals")?;
    let listeners = listen::bind(&config.addr, config.insecure)?;
    let directory = config.data_dir(listeners.port());
    // All of it is read; the signal to stop is heard meanwhile.
    let open =
        tokio::spawn(async move { Home::open(&directory, &config.settings, config.new).await });
    let Some(opened) = signals.token().run_until_cancelled(open).await else {
        return Ok(());
    };
    let home = match opened? {
        Err(HomeError::Flags(wrong)) => {
            Config::command().error(ErrorKind::ValueValidation, wrong).exit()
        }
        opened => opened?,
    };
    let addresses: Vec<_> = listeners.addresses().iter().map(ToString::to_string).collect();
    logging::say(format!("viewservice ready on {}", addresses.join(", ")));
    viewservice::run(home, listeners, signals.token()).await
}
