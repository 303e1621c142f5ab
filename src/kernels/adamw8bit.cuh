// AdamW with 8-bit states: a block of 256 threads for 256 elements, which share a scale. See optim/adamw8bit.rs.
//
// `place` says where a block's states lie: from 0 on among the 8-bit ones, below 0 among the 32-bit ones, as ~place. `maps` holds the
// signed map, then the unsigned one.

#ifndef ADAMW8BIT_NEAREST
#define ADAMW8BIT_NEAREST
// The entry nearest to x; halfway the lower one.
__device__ inline u8 nearest(const float *map, float x) {
  int low = 0, high = 255; // midpoints 0..low lie below x, those from high on do not
  while (low < high) {
    int k = (low + high) / 2;
    if ((map[k] + map[k + 1]) / 2.0f < x) low = k + 1;
    else high = k;
  }
  return (u8)low;
}

__device__ inline float unit(float x, float absmax) {
  return fminf(fmaxf(x * (1.0f / fmaxf(absmax, 1e-38f)), -1.0f), 1.0f);
}
#endif

KERNEL(adamw8bit)(float *p, T *copy, const float *g, const int *place, u8 *m8, u8 *v8, float *m_absmax, float *v_absmax,
                  float *m32, float *v32, const float *maps, float scale, float step_size, float root2, float decay, float b1,
                  float c1, float b2, float c2, float eps) {
  __shared__ float map[512], scratch[32];
  u32 lane = threadIdx.x;
  map[lane] = maps[lane], map[256 + lane] = maps[256 + lane];
  __syncthreads();
  int at = place[blockIdx.x];
  bool wide = at < 0;
  u64 i = element(), s = (u64)(wide ? ~at : at) * 256 + lane;
  float grad = g[i] * scale;
  float m = wide ? m32[s] : map[m8[s]] * m_absmax[at], v = wide ? v32[s] : map[256 + v8[s]] * v_absmax[at];
  m = m * b1 + c1 * grad, v = v * b2 + c2 * grad * grad;
  float value = p[i] * decay - step_size * m / (sqrtf(v) / root2 + eps);
  p[i] = value;
  if (copy) narrow(value, copy[i]);
  if (wide) {
    m32[s] = m, v32[s] = v;
    return;
  }
  // All threads have read the old scales when the first sum is known.
  float m_max = block_max(fabsf(m), scratch), v_max = block_max(v, scratch);
  m8[s] = nearest(map, unit(m, m_max)), v8[s] = nearest(map + 256, unit(v, v_max));
  if (lane == 0) m_absmax[at] = m_max, v_absmax[at] = v_max;
}
