//! The curve of a run as SVG: training loss, raw and smoothed, validation loss, and the learning rate below.
//!
//! One file without scripts, fonts or links that follows the reader's light or dark theme. The same `metrics.jsonl` gives the same bytes.
//! The smoothed loss is the running mean of TensorBoard, s ← w·s + (1−w)·x divided by 1 − wⁿ, with w = 1 − 2/(span + 1) over a
//! thirtieth of the run or four steps. A run with more steps than pixels is drawn by the least and the greatest loss of each pixel's column.

use super::axis::{Axis, Scale};
use crate::error::{Problem, Result};
use serde::Deserialize;
use std::fmt::Write;
use std::path::Path;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 500.0;
/// The plots' sides, and the upper and lower edges of each.
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 28.0;
const LOSS: [f64; 2] = [58.0, 348.0];
const RATE: [f64; 2] = [386.0, 446.0];

/// Colours by theme: background, grid, axis, text, caption, training, validation, rate.
const LIGHT: [&str; 8] =
    ["#ffffff", "#e8ecf1", "#94a3b8", "#64748b", "#1e293b", "#2563eb", "#ea580c", "#0d9488"];
const DARK: [&str; 8] =
    ["#0d1117", "#212a36", "#526173", "#8b98a9", "#dbe4ee", "#60a5fa", "#fb923c", "#2dd4bf"];

/// A number of a step.
type Point = (f64, f64);

/// What is drawn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// Training loss by step.
    pub train: Vec<(f64, f64)>,
    /// Validation loss by step.
    pub validation: Vec<(f64, f64)>,
    /// Learning rate by step.
    pub rate: Vec<(f64, f64)>,
}

/// A line of `metrics.jsonl`; a number that is not finite stands there as null.
#[derive(Deserialize)]
struct Line {
    step: usize,
    loss: Option<f64>,
    lr: Option<f64>,
    val_loss: Option<f64>,
}

impl Curve {
    /// The curve of a `metrics.jsonl`. A last line that was cut off is left out.
    ///
    /// # Errors
    /// When the file cannot be read or a line is no record.
    pub fn read(path: &Path) -> Result<Self> {
        // A device in its place might never end.
        if path.exists() && !path.is_file() {
            return Err(Problem::in_file(path, "is no file").into());
        }
        let text = std::fs::read_to_string(path)
            .map_err(|e| Problem::in_file(path, format!("cannot be read: {e}")))?;
        let mut curve = Self::default();
        for (i, text) in text.split_inclusive('\n').enumerate() {
            let line: Line = match serde_json::from_str(text) {
                Ok(line) => line,
                Err(_) if !text.ends_with('\n') => break,
                Err(e) => {
                    let message = format!("is no record of a run: {e}");
                    return Err(Problem::at(path, i + 1, 0, message).into());
                }
            };
            let step = line.step as f64;
            curve.train.extend(line.loss.map(|loss| (step, loss)));
            curve.rate.extend(line.lr.map(|lr| (step, lr)));
            curve.validation.extend(line.val_loss.map(|loss| (step, loss)));
        }
        Ok(curve)
    }

    /// The picture.
    pub fn svg(&self) -> String {
        let steps = self.train.iter().chain(&self.validation).map(|p| p.0);
        let x = Axis::steps(steps, [LEFT, RIGHT]);
        let losses = self.train.iter().chain(&self.validation).map(|p| p.1);
        let loss = Axis::new(losses, [LOSS[1], LOSS[0]], 6, Scale::Fixed);
        let rates = self.rate.iter().map(|p| p.1).chain([0.0]);
        let rate = Axis::new(rates, [RATE[1], RATE[0]], 2, Scale::Scientific);
        let smooth = smoothed(&self.train);

        let mut svg = head();
        for (axis, [top, bottom]) in [(&loss, LOSS), (&rate, RATE)] {
            grid(&mut svg, axis);
            for (at, _) in x.ticks() {
                line(&mut svg, "grid", [at, top], [at, bottom]);
            }
            line(&mut svg, "axis", [LEFT, bottom], [RIGHT, bottom]);
        }
        for (at, label) in x.ticks() {
            text(&mut svg, "label mid", [at, RATE[1] + 18.0], &label);
        }
        text(&mut svg, "label mid", [(LEFT + RIGHT) / 2.0, HEIGHT - 14.0], "step");
        text(&mut svg, "caption", [LEFT, RATE[0] - 10.0], "learning rate");

        area(&mut svg, &self.rate, &x, &rate);
        path(&mut svg, "rate", &thinned(&self.rate, &x, &rate));
        path(&mut svg, "raw", &thinned(&self.train, &x, &loss));
        path(&mut svg, "train", &thinned(&smooth, &x, &loss));
        let points = thinned(&self.validation, &x, &loss);
        path(&mut svg, "val", &points);
        if points.len() <= 200 {
            for (x, y) in points {
                let _ = writeln!(svg, r#"<circle class="dot" cx="{x:.1}" cy="{y:.1}" r="3.6"/>"#);
            }
        }
        self.legend(&mut svg, &smooth);
        svg + "</svg>\n"
    }

    /// What the lines are, with where they ended.
    fn legend(&self, svg: &mut String, smooth: &[Point]) {
        let mut x = LEFT;
        let mut entry = |class: &str, name: &str, number: String| {
            line(svg, class, [x, 30.0], [x + 22.0, 30.0]);
            if class == "val" {
                let _ = writeln!(svg, r#"<circle class="dot" cx="{}" cy="30" r="3.6"/>"#, x + 11.0);
            }
            let _ = writeln!(
                svg,
                r#"<text class="caption" x="{}" y="34">{name} <tspan class="label">{number}</tspan></text>"#,
                x + 30.0
            );
            // About the width of the text: without fonts no exact one is known.
            x += 30.0 + 6.7 * (name.len() + 1 + number.chars().count()) as f64 + 30.0;
        };
        if self.train.is_empty() && self.validation.is_empty() {
            return text(svg, "caption", [LEFT, 34.0], "no step was recorded");
        }
        if let Some((_, last)) = self.train.last() {
            entry("raw", "training loss", number(*last));
        }
        if let Some((_, last)) = smooth.last() {
            entry("train", "smoothed", number(*last));
        }
        let best = self.validation.iter().min_by(|a, b| a.1.total_cmp(&b.1));
        if let (Some((_, last)), Some((step, best))) = (self.validation.last(), best) {
            let best = format!("{}, best {} at {step}", number(*last), number(*best));
            entry("val", "validation loss", best);
        }
    }
}

/// A loss in four digits or so.
fn number(x: f64) -> String {
    if x.abs() < 0.01 && x != 0.0 { format!("{x:.2e}") } else { format!("{x:.4}") }
}

/// The running mean without a bias towards its start.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let w = 1.0 - 2.0 / ((points.len() as f64 / 30.0).max(4.0) + 1.0);
    let (mut mean, mut weight) = (0.0, 0.0);
    let mut next = |&(step, x): &Point| {
        mean = w * mean + (1.0 - w) * x;
        weight = w * weight + (1.0 - w);
        (step, mean / weight)
    };
    points.iter().map(&mut next).collect()
}

/// The points in pixels, at most the least and the greatest of a pixel's column.
fn thinned(points: &[Point], x: &Axis, y: &Axis) -> Vec<Point> {
    let at = |p: &Point| (x.at(p.0), y.at(p.1));
    if points.len() <= 2 * (RIGHT - LEFT) as usize {
        return points.iter().map(at).collect();
    }
    let mut thin = Vec::new();
    for column in points.chunk_by(|a, b| x.at(a.0).floor() == x.at(b.0).floor()) {
        let order = |a: &(usize, &Point), b: &(usize, &Point)| a.1.1.total_cmp(&b.1.1);
        let least = column.iter().enumerate().min_by(order);
        let greatest = column.iter().enumerate().max_by(order);
        let mut both: Vec<_> = least.into_iter().chain(greatest).collect();
        both.sort_by_key(|(i, _)| *i);
        both.dedup_by_key(|(i, _)| *i);
        thin.extend(both.iter().map(|(_, p)| at(p)));
    }
    thin
}

/// The opening, the styles and the background.
fn head() -> String {
    let paint = |[back, grid, axis, label, caption, train, val, rate]: [&str; 8]| {
        format!(
            ".back{{fill:{back}}}.grid{{stroke:{grid}}}.axis{{stroke:{axis}}}.label{{fill:{label}}}.caption{{fill:{caption}}}\
             .raw,.train{{stroke:{train}}}.val{{stroke:{val}}}.dot{{fill:{val};stroke:{back}}}.rate{{stroke:{rate}}}.area{{fill:{rate}}}"
        )
    };
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>Loss and learning rate by step</title>
<style>
text{{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;font-size:12px}}
.mid{{text-anchor:middle}}.end{{text-anchor:end}}path{{stroke-linejoin:round;stroke-linecap:round}}
.raw{{stroke-width:1;stroke-opacity:.38}}.train{{stroke-width:2.2}}.val{{stroke-width:1.4;stroke-opacity:.7;stroke-dasharray:5 4}}.dot{{stroke-width:1.4}}.rate{{stroke-width:1.6}}
.raw,.train,.val,.rate{{fill:none}}.area{{fill-opacity:.12}}
{}
@media (prefers-color-scheme:dark){{{}}}
</style>
<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="8"/>
"#,
        paint(LIGHT),
        paint(DARK)
    )
}

fn grid(svg: &mut String, axis: &Axis) {
    for (y, label) in axis.ticks() {
        line(svg, "grid", [LEFT, y], [RIGHT, y]);
        text(svg, "label end", [LEFT - 10.0, y + 4.0], &label);
    }
}

fn line(svg: &mut String, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
    let _ = writeln!(
        svg,
        r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#
    );
}

fn text(svg: &mut String, class: &str, [x, y]: [f64; 2], text: &str) {
    let _ = writeln!(svg, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#);
}

fn path(svg: &mut String, class: &str, points: &[Point]) {
    if !points.is_empty() {
        let _ = writeln!(svg, r#"<path class="{class}" d="M{}"/>"#, joined(points));
    }
}

/// The area between a line and its axis.
fn area(svg: &mut String, points: &[Point], x: &Axis, y: &Axis) {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return };
    let (left, right, floor) = (x.at(first.0), x.at(last.0), y.at(0.0));
    let top = joined(&thinned(points, x, y));
    let _ = writeln!(
        svg,
        r#"<path class="area" d="M{left:.1},{floor:.1} {top} {right:.1},{floor:.1}Z"/>"#
    );
}

fn joined(points: &[Point]) -> String {
    points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Result<Curve> {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("metrics.jsonl");
        std::fs::write(&path, lines).unwrap();
        Curve::read(&path)
    }

    #[test]
    fn records_become_points() {
        let curve = read(
            "{\"step\":0,\"val_loss\":4.0,\"val_ppl\":54.6}\n{\"step\":1,\"epoch\":0.5,\"lr\":0.1,\"loss\":3.0}\n\
             {\"step\":2,\"lr\":0.2,\"loss\":null,\"skipped\":true}\n",
        );
        let (train, rate) = (vec![(1.0, 3.0)], vec![(1.0, 0.1), (2.0, 0.2)]);
        assert_eq!(curve.unwrap(), Curve { train, rate, validation: vec![(0.0, 4.0)] });
    }

    #[test]
    fn a_last_line_cut_off_is_left_out() {
        assert_eq!(read("{\"step\":1,\"loss\":3.0}\n{\"step\":2,\"lo").unwrap().train.len(), 1);
    }

    #[test]
    fn a_line_that_is_no_record_is_named() {
        let error = read("{\"step\":1}\nxyz\n{\"step\":3}\n").unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl:2: is no record of a run"), "{error}");
    }

    /// 25 steps that fall from 3 with a ripple, warm-up and cosine, three validations.
    fn small() -> Curve {
        let step =
            |i: i32| (f64::from(i), 3.0 / (1.0 + f64::from(i) / 8.0) + f64::from(i % 3) / 10.0);
        let rate =
            |i: i32| (f64::from(i), 2e-4 * (f64::from(i) / 5.0).min(f64::from(25 - i) / 20.0));
        Curve {
            train: (1..=25).map(step).collect(),
            validation: vec![(0.0, 3.2), (10.0, 1.5), (25.0, 0.9)],
            rate: (1..=25).map(rate).collect(),
        }
    }

    #[test]
    fn the_picture_is_as_it_was_looked_at() {
        let want = include_str!("../../tests/fixtures/report/curve.svg");
        assert!(small().svg() == want, "differs from tests/fixtures/report/curve.svg");
    }

    #[test]
    fn smoothing_starts_at_the_first_loss() {
        let line: Vec<Point> = (0..300).map(|i| (f64::from(i), 2.0)).collect();
        assert!(smoothed(&line).iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
    }

    #[test]
    fn a_long_run_is_drawn_with_few_points() {
        let long = |n: i32| Curve {
            train: (0..n).map(|i| (f64::from(i), f64::from(i % 7))).collect(),
            ..Curve::default()
        };
        assert!(long(1_000_000).svg().len() < 100_000);
    }

    #[test]
    fn the_extremes_of_a_long_run_are_drawn() {
        let mut points: Vec<Point> = (0..100_000).map(|i| (f64::from(i), 1.0)).collect();
        points[54_321].1 = 9.0;
        let x = Axis::steps(points.iter().map(|p| p.0), [LEFT, RIGHT]);
        let y = Axis::new(points.iter().map(|p| p.1), [LOSS[1], LOSS[0]], 6, Scale::Fixed);
        assert!(thinned(&points, &x, &y).contains(&(x.at(54_321.0), y.at(9.0))));
    }

    #[test]
    fn a_run_without_steps_says_so() {
        assert!(Curve::default().svg().contains("no step was recorded"));
    }

    #[test]
    fn numbers_that_are_not_finite_never_reach_the_picture() {
        let svg = Curve { train: vec![(1.0, 2.0)], ..Curve::default() }.svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
