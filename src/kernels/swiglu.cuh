// h = silu(a)⊙b and its gradients, written over a and b; there h is written over dh. See ops/swiglu.rs.

KERNEL(swiglu_forward)(T *h, const T *a, const T *b, u64 n) {
  u64 i = element();
  if (i >= n) return;
  float x = widen(a[i]);
  // As in the backward pass, to the bit: h may be computed again there.
  float sigma = 1.0f / (1.0f + expf(-x));
  narrow(x * sigma * widen(b[i]), h[i]);
}

KERNEL(swiglu_backward)(T *dh, T *a, T *b, u64 n) {
  u64 i = element();
  if (i >= n) return;
  float d = widen(dh[i]), x = widen(a[i]), y = widen(b[i]);
  float sigma = 1.0f / (1.0f + expf(-x));
  narrow(d * y * sigma * (1.0f + x * (1.0f - sigma)), a[i]);
  narrow(d * x * sigma, b[i]);
  narrow(x * sigma * y, dh[i]);
}
