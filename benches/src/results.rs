//! What was measured: figures of subjects, round by round.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::micro::Step;
use crate::statistics::median;

/// Named values of one sample.
pub type Figures = BTreeMap<String, f64>;

/// Joins names and values.
pub fn figures<const COUNT: usize>(values: [(&str, f64); COUNT]) -> Figures {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What one load showed of one subject in one round.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// The round, from 0.
    pub round: u32,
    /// The load.
    pub load: String,
    /// Whom it met: a contender.
    pub subject: String,
    /// What came of it.
    pub figures: Figures,
    /// Share of the processors that had nothing to do with the measurement.
    pub foreign_share: f64,
    /// Whether the figures count: others left the machine alone.
    pub undisturbed: bool,
    /// Why there are no figures.
    pub error: Option<String>,
}

/// All figures, as they are written to the JSON file.
#[derive(Debug, Default, Serialize)]
pub struct Results {
    /// The running kernel.
    pub kernel: String,
    /// How TCP decides how fast it sends: `net.ipv4.tcp_congestion_control`.
    pub congestion_control: String,
    /// Number of processors.
    pub processors: f64,
    /// Which they are.
    pub processor_name: String,
    /// Number of rounds asked for.
    pub rounds: u32,
    /// Length of each TCP transfer in seconds.
    pub seconds: u32,
    /// Name and version of each contender, in the order of the tables.
    pub contenders: Vec<(String, String)>,
    /// Everything that was measured between two hosts, in the order in which it was.
    pub samples: Vec<Sample>,
    /// The steps of the data path.
    pub steps: Vec<Step>,
}

impl Results {
    /// A figure of a subject in one round, if it counts: the median, where it was measured several times.
    pub fn in_round(&self, round: u32, subject: &str, figure: &str) -> Option<f64> {
        let counts =
            |sample: &&Sample| sample.round == round && sample.subject == subject && sample.undisturbed;
        let values = self.samples.iter().filter(counts).filter_map(|sample| sample.figures.get(figure));
        let values: Vec<f64> = values.copied().collect();
        (!values.is_empty()).then(|| median(&values))
    }

    /// What `value` gives for each round in which it gives something finite.
    pub fn by_round(&self, value: impl Fn(u32) -> Option<f64>) -> Vec<f64> {
        (0..self.rounds).filter_map(value).filter(|value| value.is_finite()).collect()
    }

    /// A figure of a subject in every round in which it counts.
    pub fn values(&self, subject: &str, figure: &str) -> Vec<f64> {
        self.by_round(|round| self.in_round(round, subject, figure))
    }

    /// How many times the figure of `base` that of `subject` is, taken within rounds.
    pub fn ratios(&self, subject: &str, base: &str, figure: &str) -> Vec<f64> {
        self.by_round(|round| {
            Some(self.in_round(round, subject, figure)? / self.in_round(round, base, figure)?)
        })
    }

    /// The median of a figure, where there is one.
    pub fn median(&self, subject: &str, figure: &str) -> Option<f64> {
        let values = self.values(subject, figure);
        (!values.is_empty()).then(|| median(&values))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(round: u32, subject: &str, figure: &str, value: f64) -> Sample {
        Sample {
            round,
            load: "load".into(),
            subject: subject.into(),
            figures: figures([(figure, value)]),
            foreign_share: 0.0,
            undisturbed: true,
            error: None,
        }
    }

    #[test]
    fn ratios_are_taken_within_rounds_and_disturbed_samples_do_not_count() {
        let disturbed = Sample { undisturbed: false, ..sample(1, "b", "speed", 100.0) };
        let samples = vec![
            sample(0, "a", "speed", 1.0),
            sample(0, "b", "speed", 3.0),
            sample(1, "a", "speed", 2.0),
            disturbed,
            sample(2, "a", "speed", 4.0),
            sample(2, "b", "speed", 4.0),
            sample(2, "b", "other", 7.0),
        ];
        let results = Results { rounds: 3, samples, ..Results::default() };
        assert_eq!(results.ratios("b", "a", "speed"), [3.0, 1.0]);
        assert_eq!(results.median("a", "speed"), Some(2.0));
        assert_eq!(results.median("b", "speed"), Some(3.5));
        assert_eq!(results.median("c", "speed"), None);
        assert_eq!(results.values("b", "other"), [7.0]);
    }

    #[test]
    fn a_division_by_nothing_is_no_ratio() {
        let samples = vec![sample(0, "a", "speed", 0.0), sample(0, "b", "speed", 3.0)];
        let results = Results { rounds: 1, samples, ..Results::default() };
        assert!(results.ratios("b", "a", "speed").is_empty());
    }
}
