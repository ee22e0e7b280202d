//! The life of the program: agent, program, and in the end what is left of both.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::agent::{Agent, AgentCommand};
use super::place::Place;
use super::program::{Program, Started};
use super::signals::{Heard, Signals, stand_still};
use crate::failure::Failure;

/// Runs the program under an agent; its exit code. Neither runs any more then.
pub(super) fn run(
    place: &Place,
    agent: &AgentCommand,
    program: &Program,
    signals: &Signals,
) -> Result<u8, Failure> {
    let mut agent = Agent::start(agent, place, signals)?;
    let ended = program
        .start(&place.program)
        .and_then(|mut started| watch(&mut agent, &mut started, signals));
    // Without the agent it would only be refused while it ends.
    let left = place.end_program(signals);
    agent.end(signals)?;
    left?;
    Ok(ended?)
}

/// Until the program has ended.
fn watch(agent: &mut Agent<'_>, program: &mut Started, signals: &Signals) -> anyhow::Result<u8> {
    loop {
        while let Some(Heard { signal, is_sent }) = signals.next()? {
            if is_sent {
                program.signal(signal);
            }
            if signal == Signal::SIGTSTP {
                stand_still()?;
            }
        }
        if let Some(code) = program.try_wait()? {
            return Ok(code);
        }
        let due: Option<Duration> = agent.look_after()?;
        signals.wait(Some(agent.notices()), due)?;
    }
}
