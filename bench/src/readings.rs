//! The readings of a run, as figures.

use serde::Serialize;

use crate::figure::{Quantity, Reading};
use crate::rivals::{self, Rival};
use crate::statistics::Rounds;

/// The readings of all rounds so far.
#[derive(Debug, Default)]
pub(crate) struct Readings(Vec<Column>);

/// One quantity of one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// The scenario.
    pub scenario: String,
    /// What was measured.
    #[serde(flatten)]
    pub quantity: Quantity,
    /// Without agents.
    pub direct: Option<Rounds>,
    /// Through an agent on each side.
    pub sealwire: Option<Rounds>,
    /// The median through agents as a multiple of the median without.
    pub ratio: Option<f64>,
    /// The best rival's figure, of another machine and day.
    pub best_rival: Option<Rival>,
}

/// Whether agents were between the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// No.
    Direct,
    /// One on each side.
    Sealwire,
}

#[derive(Debug)]
struct Column {
    scenario: String,
    quantity: Quantity,
    direct: Vec<f64>,
    sealwire: Vec<f64>,
}

impl Readings {
    /// Adds what a trial read.
    pub(crate) fn add(&mut self, scenario: &str, route: Route, readings: &[Reading]) {
        for Reading { quantity, value } in readings {
            let column = self.column(scenario, *quantity);
            match route {
                Route::Direct => column.direct.push(*value),
                Route::Sealwire => column.sealwire.push(*value),
            }
        }
    }

    /// The figures that they make.
    pub(crate) fn figures(self) -> Vec<Figure> {
        let mut figures: Vec<Figure> = self.0.into_iter().map(Column::figure).collect();
        // Costs of agents come after the first direct trial; a scenario stays together.
        let order: Vec<String> = figures.iter().map(|f| f.scenario.clone()).collect();
        figures.sort_by_key(|figure| order.iter().position(|name| *name == figure.scenario));
        figures
    }

    fn column(&mut self, scenario: &str, quantity: Quantity) -> &mut Column {
        let known = self
            .0
            .iter()
            .position(|column| column.scenario == scenario && column.quantity == quantity);
        let index = known.unwrap_or_else(|| {
            self.0.push(Column {
                scenario: scenario.to_owned(),
                quantity,
                direct: Vec::new(),
                sealwire: Vec::new(),
            });
            self.0.len() - 1
        });
        &mut self.0[index]
    }
}

impl Column {
    fn figure(self) -> Figure {
        let (direct, sealwire) = (Rounds::of(self.direct), Rounds::of(self.sealwire));
        let ratio = match (&direct, &sealwire) {
            (Some(direct), Some(sealwire)) if direct.median > 0.0 => {
                Some(sealwire.median / direct.median)
            }
            _ => None,
        };
        Figure {
            best_rival: rivals::best(&self.scenario, self.quantity.name),
            scenario: self.scenario,
            quantity: self.quantity,
            direct,
            sealwire,
            ratio,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::figure::Better;
    use crate::report::tests::report;

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let figures = report().figures;
        let names: Vec<_> = figures
            .iter()
            .map(|figure| (figure.scenario.as_str(), figure.quantity.name))
            .collect();
        let expected = [
            ("one", "requests"),
            ("one", "CPU of both agents"),
            ("two", "requests"),
        ];
        assert_eq!(names, expected);
        assert_eq!(figures[0].ratio, Some(0.5));
        assert_eq!(figures[1].ratio, None);
        assert_eq!(figures[1].quantity.better, Better::Lower);
        assert_eq!(figures[2].sealwire, None);
    }
}
