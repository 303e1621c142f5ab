//! An axis of a plot: values to pixels, and round ticks at 1, 2 or 5 times a power of ten.

/// How ticks are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// As many decimals as the distance of ticks has.
    Fixed,
    /// With a power of ten: `1.5e-4`.
    Scientific,
}

/// An axis over a range of values and of pixels.
pub(super) struct Axis {
    from: f64,
    to: f64,
    pixels: [f64; 2],
    /// Ticks lie `step`·10^`power` apart.
    step: i64,
    power: i32,
    scale: Scale,
}

impl Axis {
    /// For `values` on `pixels`, from tick to tick, with about `ticks` of them.
    pub(super) fn new(
        values: impl Iterator<Item = f64>,
        pixels: [f64; 2],
        ticks: usize,
        scale: Scale,
    ) -> Self {
        let (least, greatest) = range(values);
        let (step, power) = distance((greatest - least) / ticks as f64);
        let unit = times_power(step, power);
        let (from, to) =
            ((least / unit + 1e-9).floor() * unit, (greatest / unit - 1e-9).ceil() * unit);
        Self { from, to, pixels, step, power, scale }
    }

    /// For steps: from the first to the last, with ticks at whole numbers.
    pub(super) fn steps(values: impl Iterator<Item = f64>, pixels: [f64; 2]) -> Self {
        let (from, to) = range(values);
        let (step, power) = match distance((to - from) / 8.0) {
            (_, power) if power < 0 => (1, 0),
            whole => whole,
        };
        Self { from, to, pixels, step, power, scale: Scale::Fixed }
    }

    /// Where a value lies.
    pub(super) fn at(&self, value: f64) -> f64 {
        let [first, last] = self.pixels;
        first + (value - self.from) / (self.to - self.from) * (last - first)
    }

    /// Where the ticks lie and what stands at them.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let unit = times_power(self.step, self.power);
        let first = (self.from / unit - 1e-9).ceil() as i64;
        let last = (self.to / unit + 1e-9).floor() as i64;
        let tick = |i: i64| {
            let value = times_power(i * self.step, self.power);
            let label = match self.scale {
                Scale::Scientific => format!("{value:e}").replace("0e0", "0"),
                Scale::Fixed => format!("{value:.*}", -self.power.min(0) as usize),
            };
            (self.at(value), label)
        };
        (first..=last).map(tick).collect()
    }
}

/// The least and the greatest of finite values; not the same.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = values.filter(|v| v.is_finite());
    let (least, greatest) =
        finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    match greatest - least {
        d if d > 1e-12 * greatest.abs() => (least, greatest),
        d if d >= 0.0 && greatest != 0.0 => {
            (least - least.abs() / 2.0, greatest + greatest.abs() / 2.0)
        }
        _ => (0.0, 1.0),
    }
}

/// The least of 1, 2, 5 times a power of ten that is no less than `least`.
fn distance(least: f64) -> (i64, i32) {
    let power = least.log10().floor() as i32;
    let fits = |step: &i64| times_power(*step, power) >= least * (1.0 - 1e-9);
    [1, 2, 5].into_iter().find(fits).map_or((1, power + 1), |step| (step, power))
}

/// n·10^power, the nearest number to it.
fn times_power(n: i64, power: i32) -> f64 {
    format!("{n}e{power}").parse().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(values: [f64; 2], ticks: usize, scale: Scale) -> Vec<String> {
        let axis = Axis::new(values.into_iter(), [0.0, 1.0], ticks, scale);
        axis.ticks().into_iter().map(|t| t.1).collect()
    }

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        let want = ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0"];
        assert_eq!(labels([0.1, 2.9], 6, Scale::Fixed), want);
    }

    #[test]
    fn rates_are_written_with_a_power_of_ten() {
        assert_eq!(labels([0.0, 2e-4], 2, Scale::Scientific), ["0", "1e-4", "2e-4"]);
    }

    #[test]
    fn one_value_lies_in_the_middle() {
        let axis = Axis::new([2.0].into_iter(), [0.0, 100.0], 4, Scale::Fixed);
        assert_eq!(axis.at(2.0), 50.0);
    }

    #[test]
    fn steps_are_whole() {
        let axis = Axis::steps([1.0, 3.0].into_iter(), [0.0, 1.0]);
        assert_eq!(axis.ticks().into_iter().map(|t| t.1).collect::<Vec<_>>(), ["1", "2", "3"]);
    }

    #[test]
    fn no_value_gives_an_axis_all_the_same() {
        assert_eq!(labels([f64::NAN; 2], 1, Scale::Fixed), ["0", "1"]);
    }
}
