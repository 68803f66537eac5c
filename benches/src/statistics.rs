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

/// The value below which `percent` of the sorted values lie.
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

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
