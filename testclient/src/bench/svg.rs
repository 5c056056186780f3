//! Draws results as SVG: bars with their range over the rounds, and latencies by percentile. Pure:
//! the same figures give the same picture.

use std::fmt::Write;
use std::time::Duration;

use super::spread::Spread;
use super::tally::Latencies;
use crate::report::duration;

const WIDTH: f64 = 960.0;
const MARGIN: f64 = 24.0;
/// Left of a plot, for the numbers of its axis.
const AXIS: f64 = 52.0;
/// Between the top of a panel and its plot, for its title.
const TITLE: f64 = 30.0;
/// Below a plot, for the words of its axis.
const WORDS: f64 = 48.0;
const BARS_HEIGHT: f64 = 210.0;
const CURVES_HEIGHT: f64 = 250.0;

/// Colours that people who see few of them can tell apart (Okabe and Ito), the yardstick's last.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"];
const GREY: &str = "#777777";

/// Where curves have points: shares of calls.
const QUANTILES: [f64; 14] =
    [0.0, 0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9995, 0.9999];
/// Where the axis of curves has words.
const MARKS: [(f64, &str); 5] =
    [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9"), (0.9999, "p99.99")];
/// A percentile is drawn only when at least so many calls lie beyond it: fewer are chance.
const BEYOND_MIN: f64 = 5.0;

/// What is drawn in one colour in all panels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Series {
    /// For the legend.
    pub name: String,
    /// The one that others are compared with, in grey.
    pub is_yardstick: bool,
}

/// Bars that stand together.
#[derive(Clone, PartialEq, Debug)]
pub struct Group {
    /// Below them.
    pub name: String,
    /// Each the number of its series, and how high.
    pub bars: Vec<(usize, Spread)>,
}

/// Latencies in one panel.
#[derive(Clone, Debug)]
pub struct Curves {
    /// Above them.
    pub title: String,
    /// Each with the number of its series.
    pub curves: Vec<(usize, Latencies)>,
}

/// A page of panels: bars as shares of the yardstick, if there are any, and below them latencies.
#[derive(Clone, Debug)]
pub struct Figure {
    /// On top.
    pub title: String,
    /// Where and how it was measured, a line each.
    pub notes: Vec<String>,
    /// Everything that the panels speak of.
    pub series: Vec<Series>,
    /// Title and groups of the bars.
    pub bars: Option<(String, Vec<Group>)>,
    /// Panels of latencies, all on the same scale.
    pub curves: Vec<Curves>,
}

impl Figure {
    /// The picture.
    #[must_use]
    pub fn as_svg(&self) -> String {
        let mut canvas = Canvas::default();
        let mut top = MARGIN + 14.0;
        canvas.text(MARGIN, top, "title", &self.title);
        top += 4.0;
        for note in &self.notes {
            top += 18.0;
            canvas.text(MARGIN, top, "note", note);
        }
        top = self.legend(&mut canvas, top + 26.0) + 22.0;
        if let Some((title, groups)) = &self.bars {
            let area = Area {
                left: MARGIN + AXIS,
                top: top + TITLE,
                width: WIDTH - 2.0 * MARGIN - AXIS,
                height: BARS_HEIGHT,
            };
            self.draw_bars(&mut canvas, area, title, groups);
            top = area.bottom() + WORDS;
        }
        let panels = self.curves.len().max(1) as f64;
        let width = (WIDTH - 2.0 * MARGIN) / panels;
        if let Some(scale) = Scale::of(&self.curves) {
            for (number, curves) in self.curves.iter().enumerate() {
                let area = Area {
                    left: MARGIN + AXIS + width * number as f64,
                    top: top + TITLE,
                    width: width - AXIS - 12.0,
                    height: CURVES_HEIGHT,
                };
                self.draw_curves(&mut canvas, area, curves, &scale);
            }
            top += TITLE + CURVES_HEIGHT + WORDS;
        }
        canvas.page(top)
    }

    fn colour(&self, series: usize) -> &'static str {
        match self.series.get(series) {
            Some(series) if series.is_yardstick => GREY,
            _ => {
                let coloured = self.series.iter().take(series).filter(|it| !it.is_yardstick);
                COLOURS[coloured.count() % COLOURS.len()]
            }
        }
    }

    fn legend(&self, canvas: &mut Canvas, mut y: f64) -> f64 {
        let mut x = MARGIN;
        for (number, series) in self.series.iter().enumerate() {
            let width = 34.0 + 7.2 * series.name.chars().count() as f64;
            if x + width > WIDTH - MARGIN {
                (x, y) = (MARGIN, y + 20.0);
            }
            canvas.rect(x, y - 10.0, 12.0, 12.0, self.colour(number));
            canvas.text(x + 18.0, y, "word", &series.name);
            x += width;
        }
        y
    }

    fn draw_bars(&self, canvas: &mut Canvas, area: Area, title: &str, groups: &[Group]) {
        let bars = || groups.iter().flat_map(|group| &group.bars);
        let highest = |of: fn(&Spread) -> f64| bars().map(|(_, it)| of(it)).fold(1.0, f64::max);
        // One round of a busy machine may be far off; its range then ends at the edge.
        let highest = highest(|it| it.high).min(1.5 * highest(|it| it.median)) * 1.08;
        let y_of = |figure: f64| area.bottom() - area.height * figure.min(highest) / highest;
        canvas.text(area.left - AXIS, area.top - 12.0, "heading", title);
        let mut tick = 0.0;
        while tick <= highest {
            canvas.horizontal(&area, y_of(tick), "grid");
            canvas.text(area.left - 8.0, y_of(tick) + 4.0, "left", &format!("{tick:.2}"));
            tick += 0.25;
        }
        canvas.horizontal(&area, y_of(1.0), "yardstick");
        // A bar's width of air on both sides of each group.
        let slots: usize = groups.iter().map(|group| group.bars.len() + 2).sum();
        let slot = area.width / slots.max(1) as f64;
        let mut x = area.left;
        for group in groups {
            let middle = x + slot * (group.bars.len() + 2) as f64 / 2.0;
            canvas.text(middle, area.bottom() + 18.0, "below", &group.name);
            x += slot;
            for (series, spread) in &group.bars {
                let (y, inner) = (y_of(spread.median), slot * 0.8);
                let left = x + slot * 0.1;
                canvas.rect(left, y, inner, area.bottom() - y, self.colour(*series));
                let middle = left + inner / 2.0;
                canvas.line(middle, y_of(spread.low), middle, y_of(spread.high), "range");
                let label = format!("{:.2}", spread.median);
                canvas.text(middle, y_of(spread.high) - 5.0, "below", &label);
                x += slot;
            }
            x += slot;
        }
    }

    fn draw_curves(&self, canvas: &mut Canvas, area: Area, curves: &Curves, scale: &Scale) {
        canvas.text(area.left - AXIS, area.top - 12.0, "heading", &curves.title);
        for &tick in &scale.ticks {
            let y = scale.y(&area, tick);
            canvas.horizontal(&area, y, "grid");
            canvas.text(area.left - 8.0, y + 4.0, "left", &short(tick));
        }
        for (quantile, word) in MARKS {
            let x = x_of(&area, quantile);
            canvas.line(x, area.top, x, area.bottom(), "grid");
            canvas.text(x, area.bottom() + 18.0, "below", word);
        }
        for (series, latencies) in &curves.curves {
            let points: Vec<(f64, f64)> = drawn(latencies)
                .map(|quantile| (x_of(&area, quantile), scale.y(&area, latencies.at(quantile))))
                .collect();
            canvas.curve(&points, self.colour(*series));
        }
    }
}

/// The percentiles of these latencies that say something.
fn drawn(latencies: &Latencies) -> impl Iterator<Item = f64> {
    let count = latencies.count() as f64;
    QUANTILES.into_iter().filter(move |quantile| count * (1.0 - quantile) >= BEYOND_MIN)
}

/// Every further nine takes the same room.
fn x_of(area: &Area, quantile: f64) -> f64 {
    let nines = |quantile: f64| -(1.0 - quantile).log10();
    let last = QUANTILES[QUANTILES.len() - 1];
    area.left + area.width * nines(quantile) / nines(last)
}

/// A latency on an axis: `200 us`, `5 ms`.
fn short(tick: Duration) -> String {
    duration(tick).replacen(".00", "", 1).replacen(".0", "", 1)
}

/// The logarithmic axis of latencies.
struct Scale {
    /// At 1, 2 and 5 of each power of ten, ascending, around all that is drawn.
    ticks: Vec<Duration>,
}

impl Scale {
    /// Around all latencies; `None` when there are none.
    fn of(panels: &[Curves]) -> Option<Scale> {
        let all = || panels.iter().flat_map(|panel| &panel.curves);
        let at = |latencies: &Latencies| drawn(latencies).map(|it| latencies.at(it)).collect();
        let drawn: Vec<Duration> = all().flat_map(|(_, it)| -> Vec<Duration> { at(it) }).collect();
        let (low, high) = (*drawn.iter().min()?, *drawn.iter().max()?);
        let nice = |power: u32| [1, 2, 5].map(|of| of * 10_u64.pow(power));
        let nice: Vec<Duration> = (0..13).flat_map(nice).map(Duration::from_nanos).collect();
        let first = nice.iter().rposition(|tick| *tick <= low).unwrap_or(0);
        let last = nice.iter().position(|tick| *tick >= high).unwrap_or(nice.len() - 1);
        Some(Scale { ticks: nice[first..=last.max(first + 1)].to_vec() })
    }

    fn y(&self, area: &Area, latency: Duration) -> f64 {
        let log = |latency: Duration| latency.as_secs_f64().max(1e-9).log10();
        let (low, high) = (log(self.ticks[0]), log(self.ticks[self.ticks.len() - 1]));
        area.bottom() - area.height * (log(latency) - low) / (high - low)
    }
}

/// Where a plot lies.
#[derive(Clone, Copy)]
struct Area {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

impl Area {
    fn bottom(&self) -> f64 {
        self.top + self.height
    }
}

const STYLE: &str = "\
text { font: 12px system-ui, 'DejaVu Sans', sans-serif; fill: #222 }
.title { font-size: 18px; font-weight: 600 }
.note { fill: #555 }
.heading { font-size: 13px; font-weight: 600 }
.left { text-anchor: end; fill: #555; font-size: 11px }
.below { text-anchor: middle; fill: #333; font-size: 11px }
.grid { stroke: #e4e4e4 }
.yardstick { stroke: #777; stroke-dasharray: 5 4 }
.range { stroke: #222; stroke-width: 1.5 }
.curve { fill: none; stroke-width: 2 }
";

/// The shapes drawn so far.
#[derive(Default)]
struct Canvas {
    shapes: String,
}

impl Canvas {
    fn add(&mut self, shape: std::fmt::Arguments<'_>) {
        writeln!(self.shapes, "{shape}").expect("a string takes whatever is written");
    }

    fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let text = escaped(text);
        self.add(format_args!(r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{text}</text>"#));
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str) {
        self.add(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{fill}"/>"#
        ));
    }

    fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, class: &str) {
        self.add(format_args!(
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        ));
    }

    fn horizontal(&mut self, area: &Area, y: f64, class: &str) {
        self.line(area.left, y, area.left + area.width, y, class);
    }

    fn curve(&mut self, points: &[(f64, f64)], stroke: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        self.add(format_args!(r#"<polyline points="{points}" class="curve" stroke="{stroke}"/>"#));
    }

    fn page(&self, height: f64) -> String {
        let shapes = &self.shapes;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             width=\"{WIDTH}\" height=\"{height:.0}\">\n<style>\n{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{shapes}</svg>\n"
        )
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tally::Tally;
    use crate::ledger::End;

    fn figure() -> Figure {
        let mut tally = Tally::default();
        for micros in 1..=1_000 {
            tally.record(false, Duration::from_micros(micros), End::Done);
        }
        let series = |name: &str, is_yardstick| Series { name: name.into(), is_yardstick };
        let spread = Spread { median: 0.5, low: 0.4, high: 1.2 };
        Figure {
            title: "puts < echoes & \"more\"".into(),
            notes: vec!["two cores".into(), "ten rounds".into()],
            series: vec![series("echo", true), series("put", false), series("get", false)],
            bars: Some((
                "of echo".into(),
                vec![Group { name: "200 at once".into(), bars: vec![(1, spread), (2, spread)] }],
            )),
            curves: vec![Curves {
                title: "latency".into(),
                curves: vec![(0, tally.writes.clone()), (1, tally.writes)],
            }],
        }
    }

    /// Every element is closed, by itself or in order, and no text holds a bare `<` or `&`.
    fn assert_well_formed(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg;
        while let Some((text, tail)) = rest.split_once('<') {
            for (at, _) in text.match_indices('&') {
                let is_entity =
                    ["&lt;", "&gt;", "&amp;"].iter().any(|it| text[at..].starts_with(it));
                assert!(is_entity, "a bare & in {text:?}");
            }
            let (tag, tail) = tail.split_once('>').expect("every tag ends");
            let name = tag.split([' ', '/']).find(|word| !word.is_empty()).expect("a name");
            match (tag.starts_with('/'), tag.ends_with('/')) {
                (true, _) => assert_eq!(open.pop(), Some(name)),
                (false, false) => open.push(name),
                (false, true) => {}
            }
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes in {tag}");
            rest = tail;
        }
        assert_eq!(open, [""; 0], "never closed");
    }

    #[test]
    fn a_picture_is_well_formed_and_holds_every_word_and_bar() {
        let svg = figure().as_svg();
        assert_well_formed(&svg);
        assert!(svg.contains("puts &lt; echoes &amp;"), "{svg}");
        for word in ["two cores", "ten rounds", "200 at once", "latency", "p99.9", "echo", "get"] {
            assert!(svg.contains(word), "{word} is missing");
        }
        assert_eq!(svg.matches("<polyline").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_is_drawn_outside_the_page() {
        let svg = figure().as_svg();
        let numbers = svg.split(&['"', ' ', ','][..]).filter_map(|word| word.parse::<f64>().ok());
        for number in numbers {
            assert!((0.0..=WIDTH).contains(&number), "{number} in {svg}");
        }
    }

    #[test]
    fn a_picture_of_nothing_is_a_page_with_its_title() {
        let nothing = Figure { bars: None, curves: Vec::new(), ..figure() };
        assert_well_formed(&nothing.as_svg());
        let no_calls = Curves { title: "none".into(), curves: vec![(0, Tally::default().reads)] };
        assert_well_formed(&Figure { curves: vec![no_calls], ..figure() }.as_svg());
    }

    #[test]
    fn percentiles_that_few_calls_decide_are_not_drawn() {
        let Figure { curves, .. } = figure();
        let drawn: Vec<f64> = drawn(&curves[0].curves[0].1).collect();
        assert_eq!(drawn.last(), Some(&0.995), "of 1,000 calls five lie beyond it");
    }
}
