// Rotary embedding in place, one thread a pair of channels; sign −1 turns back. See ops/rope.rs.

KERNEL(rope)(T *x, const float *cosines, const float *sines, const u32 *positions, u64 n, int heads, int half, float sign) {
  u64 i = element();
  if (i >= n * heads * half) return;
  u64 token = i / (heads * half);
  int head = i / half % heads, channel = i % half;
  u64 at = (u64)positions[token] * half + channel;
  T *lo = x + (token * heads + head) * 2 * half + channel, *hi = lo + half;
  float a = widen(*lo), b = widen(*hi), c = cosines[at], s = sign * sines[at];
  narrow(a * c - b * s, *lo);
  narrow(b * c + a * s, *hi);
}
