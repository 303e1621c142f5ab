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

/// The index of the nearest entry for values in −1..=1, by a table; a value halfway takes the lower one.
///
/// Values that share sign, exponent and seven bits of the mantissa have at most one midpoint among them: the table gives the number of
/// midpoints below them all, one comparison the rest.
pub struct Encoder {
    /// For positive, then for negative values.
    below: [[u8; Self::BUCKETS]; 2],
    /// The midpoints, then infinity.
    midpoints: [f32; 256],
}

impl Encoder {
    /// The upper half of 2⁻²³: no map of ours has a midpoint nearer to zero.
    const FIRST: u32 = (127 - 23) << 7;
    /// One for what is nearer to zero, the exponents, and one for 1.
    const BUCKETS: usize = 1 + (23 << 7) + 1;

    /// For the map of this sign.
    pub fn new(signed: bool) -> Self {
        let mut midpoints = [f32::INFINITY; 256];
        for (to, pair) in midpoints.iter_mut().zip(dynamic_map(signed).windows(2)) {
            *to = (pair[0] + pair[1]) / 2.0;
        }
        let mut below = [[0; Self::BUCKETS]; 2];
        for b in 0..Self::BUCKETS {
            let bits = |b: usize| (Self::FIRST + b as u32 - 1) << 16;
            let least = if b == 0 { 0.0 } else { f32::from_bits(bits(b)) };
            let greatest = f32::from_bits(bits(b + 1) - 1);
            for (table, from) in below.iter_mut().zip([least, -greatest]) {
                table[b] = midpoints.partition_point(|m| *m < from) as u8;
            }
        }
        Self { below, midpoints }
    }

    /// The index of the entry nearest to `x`, which lies in −1..=1.
    #[inline(always)]
    pub fn index(&self, x: f32) -> u8 {
        let bits = x.to_bits();
        let upper = (bits & 0x7fff_ffff) >> 16;
        let bucket = (upper + 1).saturating_sub(Self::FIRST).min(Self::BUCKETS as u32 - 1);
        let below = self.below[(bits >> 31) as usize][bucket as usize];
        below + u8::from(self.midpoints[usize::from(below)] < x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The nearest entry's index by its definition.
    struct Nearest {
        midpoints: Vec<f32>,
    }

    impl Nearest {
        fn new(map: &[f32]) -> Self {
            Self { midpoints: map.windows(2).map(|w| (w[0] + w[1]) / 2.0).collect() }
        }

        fn index(&self, x: f32) -> u8 {
            self.midpoints.partition_point(|m| *m < x) as u8
        }
    }

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

    /// Every 997th float of −1..=1, and those beside midpoints.
    fn values(map: &[f32]) -> impl Iterator<Item = f32> {
        let all = (0..=1.0f32.to_bits()).step_by(997).map(f32::from_bits);
        let middles: Vec<f32> = map.windows(2).map(|w| (w[0] + w[1]) / 2.0).collect();
        let beside = middles.into_iter().flat_map(|m| [m.next_down(), m, m.next_up()]);
        all.flat_map(|x| [x, -x]).chain(beside).chain([1.0, -1.0])
    }

    #[test]
    fn the_table_gives_the_nearest_entry() {
        for signed in [true, false] {
            let map = dynamic_map(signed);
            let (nearest, table) = (Nearest::new(&map), Encoder::new(signed));
            for x in values(&map) {
                assert_eq!(table.index(x), nearest.index(x), "{x:e}, signed: {signed}");
            }
        }
    }

    #[test]
    fn what_is_no_number_does_not_leave_the_table() {
        assert_eq!(Encoder::new(true).index(f32::NAN), 255);
    }
}
