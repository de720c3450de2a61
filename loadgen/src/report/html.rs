//! The report as one HTML page that needs nothing else: figures as tables, plots as inline SVG.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::plot::{Line, Plot};
use super::text::number;
use super::{PhaseReport, Report, Sample};

/// Kernel caches that get a line of their own.
const CACHES: usize = 7;

const STYLE: &str = "\
:root{color-scheme:light}body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;\
background:#fff;color:#222}code,pre{font:13px/1.4 ui-monospace,monospace;overflow-wrap:anywhere}\
pre{background:#f4f4f4;padding:.75rem;white-space:pre-wrap}table{border-collapse:collapse;margin:.5rem 0;width:100%}\
td,th{text-align:left;padding:.15rem .75rem .15rem 0;border-bottom:1px solid #ddd}td.n{text-align:right;\
font-variant-numeric:tabular-nums}svg{width:100%;height:auto;margin:.5rem 0}\
.bad{background:#fde8e6;border-left:4px solid #b3261e;padding:.4rem .8rem;margin:.4rem 0}\
.good{background:#e6f4ea;border-left:4px solid #137333;padding:.4rem .8rem;margin:.4rem 0}";

/// The page.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail, here and below.
    let _ = write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>millpond-load</title><style>{STYLE}</style></head><body>\
         <h1>millpond-load</h1><p><code>{}</code></p>",
        escape(&report.command)
    );
    render_verdict(report, &mut out);
    render_plots(report, &mut out);
    for phase in &report.phases {
        render_phase(phase, &mut out);
    }
    let host = &report.host;
    let _ = write!(
        out,
        "<h2>Host</h2><p>{} cores, {:.1} GB memory, Linux {}; started at {} (Unix time)</p><pre>{}</pre></body></html>",
        host.cores,
        host.memory as f64 / 1e9,
        escape(&host.kernel),
        report.started_unix,
        escape(&report.self_check)
    );
    out
}

fn render_verdict(report: &Report, out: &mut String) {
    let lines = |of: fn(&PhaseReport) -> &Vec<String>| {
        let text = |phase: &PhaseReport| {
            of(phase).iter().map(|line| format!("{}: {line}", phase.name)).collect::<Vec<_>>()
        };
        report.phases.iter().flat_map(text).collect::<Vec<_>>()
    };
    let (broken, void) = (lines(|phase| &phase.broken), lines(|phase| &phase.void));
    if report.interrupted {
        out.push_str("<p class=\"bad\">Interrupted: the run was ended before its time.</p>");
    } else if broken.is_empty() && void.is_empty() {
        out.push_str("<p class=\"good\">Everything that was demanded held, and the generator was not the bottleneck.</p>");
    }
    for line in broken {
        let _ = write!(out, "<p class=\"bad\">Not held: {}</p>", escape(&line));
    }
    for line in void {
        let _ = write!(out, "<p class=\"bad\">Void: {}</p>", escape(&line));
    }
}

fn render_phase(phase: &PhaseReport, out: &mut String) {
    let (name, kind) = (escape(&phase.name), escape(&phase.kind));
    let _ = write!(out, "<h2>{name} ({kind}), {:.1} s</h2>", phase.seconds);
    out.push_str("<details open><summary>Figures</summary><table>");
    for (name, value) in &phase.metrics {
        let _ = write!(out, "<tr><td>{}</td><td class=\"n\">{}</td></tr>", escape(name), number(*value));
    }
    out.push_str("</table></details>");
    render_counts("Failed or lost, by reason", &phase.reasons, out);
    render_counts("Growth of kernel caches, in bytes", &phase.slab_growth, out);
}

fn render_counts(title: &str, counts: &BTreeMap<String, u64>, out: &mut String) {
    if counts.is_empty() {
        return;
    }
    let _ = write!(out, "<details><summary>{title}</summary><table>");
    for (name, count) in counts {
        let _ =
            write!(out, "<tr><td>{}</td><td class=\"n\">{}</td></tr>", escape(name), number(*count as f64));
    }
    out.push_str("</table></details>");
}

fn render_plots(report: &Report, out: &mut String) {
    out.push_str("<h2>Plots</h2>");
    let time = |title, y, lines| Plot { title, x: "seconds", y, lines };
    let plots = [
        time("Connections", "connections", connections(report)),
        time("Rates", "per second", rates(report)),
        time("Latency over time", "ms", latencies(report)),
        time("Memory of the server", "bytes", memory(report)),
        time("CPU", "cores", cpu(report)),
        time("Kernel memory per cache", "bytes", caches(report)),
    ];
    for plot in plots.iter().filter(|plot| !plot.is_empty()) {
        out.push_str(&plot.linear());
    }
    let curves = Plot { title: "Latency by percentile", x: "percentile", y: "ms", lines: curves(report) };
    if !curves.is_empty() {
        out.push_str(&curves.percentiles());
    }
}

fn line(report: &Report, name: &str, value: impl Fn(&Sample) -> Option<f64>) -> Line {
    let point = |sample: &Sample| value(sample).map(|value| (sample.at_s, value));
    Line { name: name.to_owned(), points: report.samples.iter().filter_map(point).collect() }
}

fn connections(report: &Report) -> Vec<Line> {
    vec![
        line(report, "ready", |sample| Some(sample.ready as f64)),
        line(report, "handshakes under way", |sample| Some(sample.pending as f64)),
        line(report, "failed or lost", |sample| Some(sample.failed as f64)),
    ]
}

fn rates(report: &Report) -> Vec<Line> {
    vec![
        line(report, "connects", |sample| Some(sample.connects_per_s)),
        line(report, "deliveries", |sample| Some(sample.deliveries_per_s)),
    ]
}

fn latencies(report: &Report) -> Vec<Line> {
    vec![
        line(report, "median", |sample| sample.latency_ms.map(|latency| latency.0)),
        line(report, "99 %", |sample| sample.latency_ms.map(|latency| latency.1)),
        line(report, "largest", |sample| sample.latency_ms.map(|latency| latency.2)),
    ]
}

fn memory(report: &Report) -> Vec<Line> {
    vec![
        line(report, "resident", |sample| sample.server.map(|server| server.rss as f64)),
        line(report, "anonymous", |sample| sample.server.map(|server| server.rss_anon as f64)),
    ]
}

fn cpu(report: &Report) -> Vec<Line> {
    vec![
        line(report, "server", |sample| sample.server.map(|_| sample.server_cores)),
        line(report, "generator", |sample| Some(sample.generator_cores)),
    ]
}

fn caches(report: &Report) -> Vec<Line> {
    let mut largest: BTreeMap<&str, u64> = BTreeMap::new();
    for (cache, bytes) in report.samples.iter().flat_map(|sample| &sample.slab) {
        let most = largest.entry(cache).or_default();
        *most = (*most).max(*bytes);
    }
    let mut names: Vec<_> = largest.into_iter().collect();
    names.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let names: BTreeSet<_> = names.into_iter().take(CACHES).map(|(name, _)| name).collect();
    let of = |name: &&str| line(report, name, |sample| sample.slab.get(*name).map(|bytes| *bytes as f64));
    names.iter().map(of).collect()
}

fn curves(report: &Report) -> Vec<Line> {
    let drawn = report.phases.iter().filter(|phase| !phase.curve.is_empty());
    drawn.map(|phase| Line { name: phase.name.clone(), points: hdr_points(&phase.curve) }).collect()
}

/// Percentiles as 1 / (1 - quantile); the largest value, at 100 %, is drawn where the curve's last step ends.
fn hdr_points(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let whole = curve.iter().filter(|(percentile, _)| *percentile < 100.0);
    whole.map(|(percentile, value)| (1.0 / (1.0 - percentile / 100.0), *value)).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_needs_nothing_else() {
        let mut phase = PhaseReport {
            name: "a<b".into(),
            curve: vec![(50.0, 1.0), (99.0, 4.0)],
            ..PhaseReport::default()
        };
        phase.set("lost", 3.0);
        phase.broken.push("3 lost".into());
        let samples =
            (0..5).map(|at| Sample { at_s: f64::from(at), ready: 10, ..Sample::default() }).collect();
        let page = render(&Report { phases: vec![phase], samples, ..Report::default() });
        assert!(page.contains("a&lt;b") && !page.contains("a<b"));
        assert!(page.contains("Not held: a&lt;b: 3 lost") && page.ends_with("</html>"));
        assert_eq!(page.matches("<svg").count(), 2, "connections and percentiles have something to show");
        let interrupted = render(&Report { interrupted: true, ..Report::default() });
        assert!(
            interrupted.contains("ended before its time") && !interrupted.contains("that was demanded held")
        );
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http://") && !outside.contains("src="));
    }
}
