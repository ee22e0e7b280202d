//! `sealwire-agent`: flags and configuration in, an exit code out.

use std::{error::Error, io, iter, process::ExitCode, time::Duration};

use agent::{FdStore, LoaderError, LogQueue, access_log, bpf::Pins as PinDirectory, with_causes};
use agent_config::{
    ConfigOrigin, InitConfig, Pins,
    flags::{Command, Environment, Flags, InitFlags},
};
use clap::Parser;
use nix::errno::Errno;

fn main() -> ExitCode {
    if let Some(code) = agent::run_if_asked() {
        return code;
    }
    let flags = Flags::parse();
    let environment = Environment::of_process();
    if let Some(Command::Init(init)) = &flags.command {
        return initialise(init, &environment);
    }
    if flags.detach {
        return detach(&flags, &environment);
    }
    // First: whatever fails from here on gives up what was kept for this agent.
    let store = FdStore::open();
    let take_over = flags.take_over.map(Duration::from_secs);
    let origin = ConfigOrigin::new(flags, environment);
    let config = match origin.load() {
        Ok(config) => config,
        Err(error) => return fail(&error, WRONG_CONFIGURATION),
    };
    // Before there is any other thread.
    let divided = match agent::divide(&config) {
        Ok(divided) => divided,
        Err(error) => return fail(&error, error.exit_code()),
    };
    let log = match access_log::init(config.log_format, config.log_level) {
        Ok(log) => log,
        Err(error) => return fail(&error, FAILED),
    };
    let result = agent::run(divided, config, origin, take_over, store, &log);
    end(result.map_err(|error| (error.exit_code(), error)), &log)
}

/// How long whoever reads the log may take for its end.
const LAST_LINES: Duration = Duration::from_secs(2);

const FAILED: u8 = 1;
const WRONG_CONFIGURATION: u8 = 2;

/// Fetches certificate, key and secret once.
fn initialise(flags: &InitFlags, environment: &Environment) -> ExitCode {
    let config = InitConfig::load(flags, environment);
    let config = match config.and_then(|config| config.check_system().map(|()| config)) {
        Ok(config) => config,
        Err(error) => return fail(&error, WRONG_CONFIGURATION),
    };
    let log = match access_log::init(config.log_format, config.log_level) {
        Ok(log) => log,
        Err(error) => return fail(&error, FAILED),
    };
    end(
        agent::init(&config).map_err(|error| (error.exit_code(), error)),
        &log,
    )
}

/// Lets the last lines out, what went wrong as the last of them.
fn end<E: Error + 'static>(result: Result<(), (u8, E)>, log: &LogQueue) -> ExitCode {
    let code = match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, error)) => {
            log.say(&complaint(&error));
            ExitCode::from(code)
        }
    };
    log.flush(LAST_LINES);
    code
}

/// Removes the instance's pins, which nothing else does.
fn detach(flags: &Flags, environment: &Environment) -> ExitCode {
    let pins = match Pins::load(flags, environment) {
        Ok(pins) => pins,
        Err(error) => return fail(&error, WRONG_CONFIGURATION),
    };
    match PinDirectory::detach(&pins.bpffs, pins.instance.as_str()) {
        Ok(0) => {
            println!(
                "instance {} has no pins: nothing was attached",
                pins.instance
            );
            ExitCode::SUCCESS
        }
        Ok(removed) => {
            println!(
                "removed {removed} pins of instance {}: its workloads are no longer steered, \
                 guarded or refused",
                pins.instance
            );
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error, FAILED),
    }
}

/// Says what went wrong where there is no log.
fn fail(error: &(dyn Error + 'static), code: u8) -> ExitCode {
    eprintln!("{}", complaint(error));
    ExitCode::from(code)
}

/// What went wrong, with every cause, on one line.
fn complaint(error: &(dyn Error + 'static)) -> String {
    let advice = if lacks_files(error) {
        "; raise the hard limit of open files (LimitNOFILE= of its unit, `ulimit -Hn`): a workload \
         takes 11 of them or more, a connection two"
    } else {
        ""
    };
    format!("sealwire-agent: {}{advice}", with_causes(error))
}

/// Whether it is for want of a descriptor.
fn lacks_files(error: &(dyn Error + 'static)) -> bool {
    iter::successors(Some(error), |&error| error.source()).any(|error| {
        let of_system = error.downcast_ref::<io::Error>();
        let of_system = of_system.and_then(io::Error::raw_os_error);
        let of_loader = error.downcast_ref::<LoaderError>();
        of_system == Some(Errno::EMFILE as i32) || of_loader.is_some_and(LoaderError::lacks_files)
    })
}
