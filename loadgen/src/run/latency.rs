//! Latencies as figures, and whether they are the server's.

use hdrhistogram::Histogram;

use crate::report::PhaseReport;

/// A latency of which the generator itself may have caused more than this share says little about the server.
const OWN_SHARE: f64 = 0.5;
/// Lags of the generator below this are never the bottleneck, in milliseconds.
const HARMLESS_MS: f64 = 1.0;
/// The percentiles of the curve, as in an HDR plot: each step halves what is left.
const CURVE_STEPS: u32 = 2;

/// Median, 99th percentile and largest of one second, in milliseconds.
#[must_use]
pub(super) fn of_second(latency: &Histogram<u64>) -> Option<(f64, f64, f64)> {
    let at = |quantile: f64| milliseconds(latency.value_at_quantile(quantile));
    (!latency.is_empty()).then(|| (at(0.5), at(0.99), milliseconds(latency.max())))
}

/// Enters a histogram of microseconds under `name`.
pub(super) fn set(report: &mut PhaseReport, name: &str, latency: &Histogram<u64>) {
    if latency.is_empty() {
        return;
    }
    for (suffix, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999)]
    {
        report.set(&format!("{name}_{suffix}_ms"), milliseconds(latency.value_at_quantile(quantile)));
    }
    report.set(&format!("{name}_max_ms"), milliseconds(latency.max()));
    report.set(&format!("{name}_mean_ms"), latency.mean() / 1000.0);
}

/// The curve of a histogram: percentile and milliseconds.
#[must_use]
pub(super) fn curve(latency: &Histogram<u64>) -> Vec<(f64, f64)> {
    let points = latency.iter_quantiles(CURVE_STEPS);
    points
        .map(|point| (point.quantile_iterated_to() * 100.0, milliseconds(point.value_iterated_to())))
        .collect()
}

/// Calls a latency void where the generator may have caused much of it: messages that lay unread (`lag`), or that were
/// sent late although nothing hindered it (`lateness`).
pub(super) fn judge(
    report: &mut PhaseReport,
    latency: &Histogram<u64>,
    lag: &Histogram<u64>,
    lateness: Option<&Histogram<u64>>,
) {
    set(report, "generator_lag", lag);
    let p99 = |histogram: &Histogram<u64>| milliseconds(histogram.value_at_quantile(0.99));
    let bound = HARMLESS_MS.max(p99(latency) * OWN_SHARE);
    if p99(lag) > bound {
        let (own, all) = (p99(lag), p99(latency));
        report.void.push(format!("messages lay in the generator for up to {own:.2} ms (p99) of {all:.2} ms"));
    }
    let Some(lateness) = lateness else { return };
    set(report, "publisher_lateness", lateness);
    if p99(lateness) > bound {
        report.void.push(format!("the generator published {:.2} ms late (p99)", p99(lateness)));
    }
}

fn milliseconds(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof::{histogram, record};

    fn of(values: &[u64]) -> Histogram<u64> {
        let mut histogram = histogram();
        values.iter().for_each(|value| record(&mut histogram, *value));
        histogram
    }

    #[test]
    fn a_generator_that_causes_most_of_a_latency_makes_it_void() {
        let judged = |latency, lag, late| {
            let mut report = PhaseReport::default();
            judge(&mut report, &of(&[latency]), &of(&[lag]), Some(&of(&[late])));
            report.void.len()
        };
        assert_eq!(judged(5_000, 400, 10), 0);
        assert_eq!(judged(5_000, 4_000, 10), 1);
        assert_eq!(judged(5_000, 4_000, 9_000), 2);
        assert_eq!(judged(200, 190, 190), 0, "below a millisecond nobody is to blame");
    }

    #[test]
    fn a_curve_rises_to_the_largest_value() {
        let curve = curve(&of(&(1..=1000).collect::<Vec<_>>()));
        assert!(curve.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(curve.last(), Some(&(100.0, 1.0)));
    }
}
