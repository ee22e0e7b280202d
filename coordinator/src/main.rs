//! `sealwire-coordinator`: flags in, an exit code out.

#![forbid(unsafe_code)]

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use coordinator::flags::{Flags, LogFormat};
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let flags = Flags::parse();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(flags.log_level))
        .with_target(false)
        .with_writer(std::io::stderr);
    match flags.log_format {
        LogFormat::Text => subscriber
            .with_ansi(std::env::var_os("NO_COLOR").is_none())
            .init(),
        LogFormat::Json => subscriber.json().init(),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, 1),
    };
    match runtime.block_on(coordinator::serve(flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn fail(error: &dyn Error, code: u8) -> ExitCode {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !message.ends_with(&text) {
            message = format!("{message}: {text}");
        }
        source = cause.source();
    }
    eprintln!("sealwire-coordinator: {message}");
    ExitCode::from(code)
}
