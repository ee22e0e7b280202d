//! The unmodified program of the tests: both ends of a conversation over TCP.
//!
//! Knows nothing of Sealwire. Says what it saw as lines of JSON on standard output.

mod connect;
mod conversation;
mod many;
mod raw;
mod serve;

use std::io::Write;

use anyhow::Result;
use clap::Parser;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use testbed::Report;

/// Both ends of a conversation over TCP.
#[derive(Parser)]
enum Command {
    /// Accept connections, and hold a conversation on each.
    Serve(serve::Serve),
    /// Connect, and hold a conversation.
    Connect(connect::Connect),
    /// Many short conversations with an echo server.
    Many(many::ManyConnections),
    /// Send TCP segments with plaintext through a raw socket.
    Raw(raw::Raw),
}

fn main() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    match Command::parse() {
        Command::Serve(serve) => serve.run(),
        Command::Connect(mut connect) => connect.run(),
        Command::Many(many) => many.run(),
        Command::Raw(raw) => raw.run(),
    }
}

fn report(report: &Report) -> Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    Ok(std::io::stdout().lock().write_all(&line)?)
}

fn errno(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => format!("{:?}", Errno::from_raw(code)),
        None => format!("{:?}", error.kind()),
    }
}
