//! Enrolments, as many as the Coordinator's core can do, or one at a time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use api::v1;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::client::{Client, Key};
use super::deployment::Deployment;
use super::verification::Verification;
use crate::figure::{Quantity, Reading};
use crate::statistics::quantile;

/// What enrolments came to.
#[derive(Clone, Debug)]
pub(crate) struct Enrolments {
    count: usize,
    elapsed: Duration,
    /// Seconds of CPU time of the Coordinator.
    cpu: f64,
    /// Milliseconds from connect to certificate, sorted.
    times: Vec<f64>,
}

impl Enrolments {
    /// Has this many clients enrol again and again, each time on a connection of its own, with new
    /// evidence and a new key.
    pub(crate) async fn measure(
        deployment: &Deployment,
        client: &Arc<Client>,
        clients: u32,
        duration: Duration,
    ) -> Result<Self> {
        let begin = Instant::now() + WARM_UP;
        let end = begin + duration;
        let mut running = JoinSet::new();
        for number in 0..clients {
            let client = Arc::clone(client);
            running.spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let start = Instant::now();
                    enrol(&client, number).await?;
                    // Those that straddle the beginning stand for those that straddle the end.
                    if (begin..end).contains(&Instant::now()) {
                        times.push(start.elapsed().as_secs_f64() * 1e3);
                    }
                }
                anyhow::Ok(times)
            });
        }
        sleep_until(begin).await;
        let (before, started) = (deployment.cpu()?, Instant::now());
        sleep_until(end).await;
        let (cpu, elapsed) = (deployment.cpu()? - before, started.elapsed());
        let mut times = Vec::new();
        while let Some(client) = running.join_next().await {
            times.extend(client??);
        }
        ensure!(!times.is_empty(), "nobody enrolled within {duration:?}");
        times.sort_by(f64::total_cmp);
        Ok(Self {
            count: times.len(),
            elapsed,
            cpu,
            times,
        })
    }

    /// Microseconds of the Coordinator's CPU time for one.
    pub(crate) fn cost(&self) -> f64 {
        self.cpu * 1e6 / self.count as f64
    }

    pub(crate) fn readings(&self, verification: Option<Verification>) -> Result<Vec<Reading>> {
        let elapsed = self.elapsed.as_secs_f64();
        let time = |share| quantile(&self.times, share).context("nobody enrolled");
        let mut readings = vec![
            Quantity::more("enrolments, as measured", PER_SECOND).of(self.count as f64 / elapsed),
            Quantity::less("an enrolment, p50", "ms").of(time(0.5)?),
            Quantity::less("an enrolment, p99", "ms").of(time(0.99)?),
            Quantity::less("CPU of the Coordinator", "us/enrolment").of(self.cost()),
            Quantity::more("the Coordinator's share of its core", "%").of(self.cpu / elapsed * 1e2),
        ];
        if let Some(Verification {
            simulated,
            sev_snp,
            tdx,
        }) = verification
        {
            let rest = self.cost() / 1e6 - simulated;
            readings.extend([
                SIMULATED.of(1.0 / (rest + simulated)),
                SEV_SNP.of(1.0 / (rest + sev_snp)),
                TDX.of(1.0 / (rest + tdx)),
            ]);
        }
        Ok(readings)
    }
}

/// What an agent does: a connection on which both sides prove themselves, and one request.
async fn enrol(client: &Client, number: u32) -> Result<()> {
    let key = Key::generate()?;
    let mut api = client.connect(number, Some(&key)).await?;
    let request = v1::EnrolRequest {
        keys: vec![key.request()],
        instance: u128::from(number).to_be_bytes().to_vec(),
        known: Vec::new(),
    };
    let answer = api.enrol(request).await?.into_inner();
    ensure!(answer.certificates.len() == 1, "no certificate was issued");
    Ok(())
}

const PER_SECOND: &str = "1/s";
const SIMULATED: Quantity = Quantity::more("a whole core: simulated (1 / CPU)", PER_SECOND);
const SEV_SNP: Quantity = Quantity::more(
    "a whole core: SEV-SNP (derived: the vector's verification in place of the simulated)",
    PER_SECOND,
);
const TDX: Quantity = Quantity::more(
    "a whole core: TDX (derived: the vector's verification in place of the simulated)",
    PER_SECOND,
);
const WARM_UP: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_kinds_cost_what_their_verification_costs_more() {
        let enrolments = Enrolments {
            count: 100,
            elapsed: Duration::from_secs(1),
            cpu: 0.1,
            times: (1..=100).map(f64::from).collect(),
        };
        let verification = Verification {
            simulated: 0.000_2,
            sev_snp: 0.001_2,
            tdx: 0.004_2,
        };
        let readings = enrolments.readings(Some(verification)).unwrap();
        let value = |quantity: Quantity| {
            let reading = readings.iter().find(|it| it.quantity == quantity);
            reading.unwrap().value.round() as i64
        };
        assert_eq!([SIMULATED, SEV_SNP, TDX].map(value), [1000, 500, 200]);
        assert_eq!(value(Quantity::less("an enrolment, p99", "ms")), 99);
    }
}
