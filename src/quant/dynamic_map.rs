//! The 8-bit dynamic map of bitsandbytes and the nearest entry of a value in it.
//!
//! For i in 0..=6 the midpoints of 2^i + 1 (signed) or 2^(i+1) + 1 (unsigned) equal steps from 0.1 to 1, times 10^(i−6), with both
//! signs if signed; then 0 and 1; sorted: 256 values. bitsandbytes 0.50 `functional.py::create_dynamic_map`

/// The 256 entries, ascending; f32.
pub fn dynamic_map(signed: bool) -> Vec<f32> {
    let mut data = Vec::with_capacity(256);
    for i in 0..7i32 {
        let steps = if signed { 1usize << i } else { 1usize << (i + 1) };
        let bounds = linspace(0.1, 1.0, steps + 1);
        let scale = 10f64.powi(i - 6) as f32;
        for pair in bounds.windows(2) {
            let mean = (pair[0] + pair[1]) / 2.0;
            let value = scale * mean;
            data.push(value);
            if signed {
                data.push(-value);
            }
        }
    }
    data.extend([0.0, 1.0]);
    data.sort_by(f32::total_cmp);
    data
}

/// torch's `linspace` in f32: from both ends towards the middle, multiplied and added with one rounding.
fn linspace(start: f32, end: f32, n: usize) -> Vec<f32> {
    let step = (end - start) / (n - 1) as f32;
    let at = |i: usize| {
        if i < n / 2 {
            step.mul_add(i as f32, start)
        } else {
            step.mul_add(-((n - 1 - i) as f32), end)
        }
    };
    (0..n).map(at).collect()
}

/// The nearest entry's index for each value; a value halfway takes the lower one.
pub struct Nearest {
    midpoints: Vec<f32>,
}

impl Nearest {
    /// For the entries of `map`, ascending.
    pub fn new(map: &[f32]) -> Self {
        Self { midpoints: map.windows(2).map(|w| (w[0] + w[1]) / 2.0).collect() }
    }

    /// The index of the entry nearest to `x`.
    pub fn index(&self, x: f32) -> u8 {
        self.midpoints.partition_point(|m| *m < x) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signed_map_has_256_entries() {
        assert_eq!(dynamic_map(true).len(), 256);
    }

    #[test]
    fn the_signed_map_starts_above_minus_one() {
        assert!((dynamic_map(true)[0] + 0.992_97).abs() < 1e-5);
    }

    #[test]
    fn the_unsigned_map_has_256_entries() {
        assert_eq!(dynamic_map(false).len(), 256);
    }

    #[test]
    fn a_tie_takes_the_lower_entry() {
        assert_eq!(Nearest::new(&[0.0, 1.0, 2.0]).index(0.5), 0);
    }
}
