//! Metrics, log, `/connections`, `/refusals`, `sealwire explain` and the live page agree with the truth:
//! with what a driver did that keeps an account of its own.
//!
//! The script takes about a minute. `SEALWIRE_TEST_HOUR=1` makes it an hour.

mod truth {
    pub(crate) mod account;
    pub(crate) mod audit;
    pub(crate) mod driver;
}

use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::Result;
use testbed::require;

use truth::driver::Driver;

#[test]
fn without_an_agent_the_sniffer_sees_the_plaintext() -> Result<()> {
    require!();
    testbed::pair::assert_plaintext_is_seen_without_agents()
}

#[test]
fn all_that_the_agents_tell_is_the_truth_of_good_and_bad_traffic() -> Result<()> {
    require!("openssl");
    let (script, pause) = match env::var_os("SEALWIRE_TEST_HOUR") {
        Some(_) => (Duration::from_hours(1), Duration::from_mins(1)),
        None => (Duration::from_secs(40), Duration::ZERO),
    };
    let mut driver = Driver::start()?;
    let end = Instant::now() + script;
    let mut round = 0;
    while round < 2 || Instant::now() < end {
        driver.exchange(round)?;
        driver.err_at_the_client(round)?;
        driver.err_at_the_server()?;
        round += 1;
        thread::sleep(pause);
    }
    let held = driver.hold()?;
    driver.audit(Some(&held))?;
    driver.release(held)?;
    driver.audit(None)?;

    // The server's agent begins anew, and with it what it tells; the client's goes on.
    driver.err_without_an_agent()?;
    driver.exchange(round)?;
    driver.audit(None)?;
    driver.assert_sealed()
}
