//! Medians and spread of a few values.

/// The median; of an even number of values the mean of the two in the middle. 0 of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// The smallest value; 0 of none.
pub fn minimum(values: &[f64]) -> f64 {
    values.iter().copied().min_by(f64::total_cmp).unwrap_or(0.0)
}

/// How far the values lie apart: largest less smallest, over the median.
pub fn spread(values: &[f64]) -> f64 {
    let largest = values.iter().copied().max_by(f64::total_cmp).unwrap_or(0.0);
    let middle = median(values);
    if middle == 0.0 { 0.0 } else { (largest - minimum(values)) / middle }
}

/// What `estimate` makes of `count` samples, and its standard error by the jackknife: from how far it moves when each sample in turn
/// is left out (Efron and Tibshirani, An Introduction to the Bootstrap, §11.2).
pub fn jackknife(count: usize, estimate: impl Fn(Option<usize>) -> f64) -> (f64, f64) {
    let without: Vec<f64> = (0..count).map(|index| estimate(Some(index))).collect();
    let mean = without.iter().sum::<f64>() / count as f64;
    let squares: f64 = without.iter().map(|value| (value - mean).powi(2)).sum();
    (estimate(None), (squares * count.saturating_sub(1) as f64 / count as f64).sqrt())
}

/// The value below which `percent` of the sorted values lie.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_mean_the_jackknife_gives_the_standard_error_of_the_mean() {
        let values = [1.0, 2.0, 4.0, 9.0];
        let (mean, error) = jackknife(values.len(), |left_out| {
            let kept = values.iter().enumerate().filter(|(index, _)| Some(*index) != left_out);
            let (sum, count) = kept.fold((0.0, 0.0), |(sum, count), (_, value)| (sum + value, count + 1.0));
            sum / count
        });
        // The squares of the differences from 4 are 9, 4, 0 and 25: 38 / 3 / 4.
        assert_eq!(mean, 4.0);
        assert!((error - (38.0_f64 / 12.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn medians_percentiles_and_spread() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!((median(&[]), minimum(&[]), spread(&[]), percentile(&[], 99)), (0.0, 0.0, 0.0, 0.0));
        assert_eq!(spread(&[8.0, 10.0, 12.0]), 0.4);
        let sorted: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(
            (percentile(&sorted, 50), percentile(&sorted, 99), percentile(&sorted, 100)),
            (50.0, 99.0, 99.0)
        );
    }
}
