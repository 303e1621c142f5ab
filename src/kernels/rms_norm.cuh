// RMSNorm, one block a row: y = x·r·g with r = 1/sqrt(mean(x²) + eps). See ops/rms_norm.rs.

KERNEL(rms_norm_forward)(T *y, float *r, const T *x, const float *g, int c, float eps) {
  __shared__ float scratch[32];
  x += (u64)blockIdx.x * c, y += (u64)blockIdx.x * c;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < c; i += blockDim.x) squares += widen(x[i]) * widen(x[i]);
  float scale = 1.0f / sqrtf(block_sum(squares, scratch) / c + eps);
  if (threadIdx.x == 0) r[blockIdx.x] = scale;
  for (int i = threadIdx.x; i < c; i += blockDim.x) narrow(widen(x[i]) * scale * g[i], y[i]);
}

// y again from the saved r.
KERNEL(rms_norm_recompute)(T *y, const T *x, const float *g, const float *r, u64 n, int c) {
  u64 i = element();
  if (i < n * c) narrow(widen(x[i]) * r[i / c] * g[i % c], y[i]);
}

// dx += r·(dy⊙g) − x·r³/C·Σ(dy⊙g⊙x).
KERNEL(rms_norm_backward)(T *dx, const T *dy, const T *x, const float *g, const float *r, int c) {
  __shared__ float scratch[32];
  u64 row = (u64)blockIdx.x * c;
  x += row, dy += row, dx += row;
  float along = 0.0f;
  for (int i = threadIdx.x; i < c; i += blockDim.x) along += widen(dy[i]) * g[i] * widen(x[i]);
  float scale = r[blockIdx.x];
  float back = block_sum(along, scratch) * scale * scale * scale / c;
  for (int i = threadIdx.x; i < c; i += blockDim.x)
    narrow(widen(dx[i]) + scale * widen(dy[i]) * g[i] - widen(x[i]) * back, dx[i]);
}
