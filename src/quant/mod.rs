//! NF4 in bitsandbytes' layout.
/// Stub type.
pub struct Nf4 { /// n
 pub len: usize }
impl Nf4 { /// dq
 pub fn dequantize_range(&self, _s: usize, _o: &mut [f32]) {} }
