//! Line plots as SVG text.

use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Size of a plot, in pixels; the page scales it.
const SIZE: (u32, u32) = (860, 320);
/// The colours of lines, in turn: told apart by most people who see colours differently (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(0, 0, 0),
];

/// One line.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot.
pub(super) struct Plot {
    pub(super) title: &'static str,
    pub(super) x: &'static str,
    pub(super) y: &'static str,
    pub(super) lines: Vec<Line>,
}

/// A plot that could not be drawn.
type DrawError = Box<dyn std::error::Error>;

impl Plot {
    /// Whether there is anything to see.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.iter().all(|(_, y)| *y == 0.0))
    }

    /// Draws over time, or whatever x is, with linear axes.
    pub(super) fn linear(&self) -> String {
        let (x, y) = self.ends();
        self.svg(0.0..x, 0.0..y, &|x| format!("{x:.0}"))
    }

    /// Draws percentiles: x is 1 / (1 - quantile) on a logarithmic axis, as HDR plots have it.
    pub(super) fn percentiles(&self) -> String {
        let (x, y) = self.ends();
        let label = |x: &f64| {
            let percentile = (100.0 - 100.0 / x).max(0.0);
            let digits = if *x >= 1000.0 { x.log10().floor() as usize - 2 } else { 0 };
            format!("{percentile:.digits$} %")
        };
        self.svg((1.0..x.max(10.0)).log_scale(), 0.0..y, &label)
    }

    fn ends(&self) -> (f64, f64) {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let x = points().map(|(x, _)| *x).fold(0.0, f64::max);
        let y = points().map(|(_, y)| *y).fold(0.0, f64::max);
        (if x > 0.0 { x } else { 1.0 }, if y > 0.0 { y * 1.05 } else { 1.0 })
    }

    fn svg<X>(&self, x: X, y: std::ops::Range<f64>, label: &dyn Fn(&f64) -> String) -> String
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
    {
        let mut svg = String::new();
        match self.draw(&mut svg, x, y, label) {
            Ok(()) => svg,
            // Drawing into a String fails only for impossible axes; a page without one plot is still a page.
            Err(error) => format!("<p>{}: {error}</p>", self.title),
        }
    }

    fn draw<X>(
        &self,
        svg: &mut String,
        x: X,
        y: std::ops::Range<f64>,
        label: &dyn Fn(&f64) -> String,
    ) -> Result<(), DrawError>
    where
        X: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64>,
    {
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 18))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(72)
            .build_cartesian_2d(x, RangedCoordf64::from(y))?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(label)
            .y_label_formatter(&|y| short(*y))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let series = LineSeries::new(line.points.iter().copied(), colour.stroke_width(2));
            let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2));
            chart.draw_series(series)?.label(&line.name).legend(key);
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(TRANSPARENT)
            .draw()?;
        root.present()?;
        Ok(())
    }
}

/// A number with a metric prefix.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1e9 => format!("{:.1} G", value / 1e9),
        large if large >= 1e6 => format!("{:.1} M", value / 1e6),
        large if large >= 1e4 => format!("{:.0} k", value / 1e3),
        small if small < 10.0 && small.fract() != 0.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plots_are_svg_with_their_names_in_it() {
        let points = (0..50).map(|x| (f64::from(x), f64::from(x * x))).collect();
        let plot =
            Plot { title: "Title", x: "s", y: "ms", lines: vec![Line { name: "the line".into(), points }] };
        for svg in [plot.linear(), plot.percentiles()] {
            assert!(svg.starts_with("<svg") && svg.contains("the line") && svg.contains("Title"), "{svg}");
        }
    }

    #[test]
    fn nothing_to_see_is_no_reason_to_fail() {
        let plot = Plot { title: "Title", x: "s", y: "ms", lines: Vec::new() };
        assert!(plot.is_empty() && plot.linear().starts_with("<svg"));
    }
}
