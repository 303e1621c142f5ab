// Attention with one warp a (row, head) and an online softmax; lanes own channels lane, lane + 32, … up to D = 256.
//
// Which keys a query sees, and which queries see a key, comes as a range of rows for each row: causality, windows and the
// boundaries of sequences are decided on the host (ops/attention.rs). The plain reference of faster kernels.

#ifndef ATTENTION_CHANNELS
#define ATTENTION_CHANNELS 8 // a lane's share of a head: 8·32 = 256 channels
#endif

KERNEL(attention_forward)(T *o, float *lse, const T *q, const T *k, const T *v, const u32 *keys, u64 n, int heads, int kv_heads,
                          int d, float scale) {
  u64 unit = element() / 32;
  int lane = threadIdx.x % 32;
  if (unit >= n * heads) return;
  u64 row = unit / heads;
  int head = unit % heads, kv = head / (heads / kv_heads);
  const T *query = q + unit * d;
  float mine[ATTENTION_CHANNELS], sum[ATTENTION_CHANNELS];
  for (int c = 0; c < ATTENTION_CHANNELS; c++) {
    int i = c * 32 + lane;
    mine[c] = i < d ? widen(query[i]) * scale : 0.0f;
    sum[c] = 0.0f;
  }
  float top = -INFINITY, total = 0.0f;
  for (u32 j = keys[2 * row]; j < keys[2 * row + 1]; j++) {
    u64 at = ((u64)j * kv_heads + kv) * d;
    float s = 0.0f;
    for (int c = 0; c < ATTENTION_CHANNELS; c++)
      if (c * 32 + lane < d) s += mine[c] * widen(k[at + c * 32 + lane]);
    s = warp_sum(s);
    if (s == -INFINITY) continue; // as on the CPU: no weight, where exp(−∞ − −∞) would be NaN
    float higher = fmaxf(top, s), old = expf(top - higher), p = expf(s - higher);
    total = total * old + p;
    for (int c = 0; c < ATTENTION_CHANNELS; c++)
      if (c * 32 + lane < d) sum[c] = sum[c] * old + p * widen(v[at + c * 32 + lane]);
    top = higher;
  }
  for (int c = 0; c < ATTENTION_CHANNELS; c++)
    if (c * 32 + lane < d) narrow(sum[c] / total, o[unit * d + c * 32 + lane]);
  if (lane == 0) lse[unit] = top + logf(total);
}

// delta = rowsum(dO ⊙ O) for each (row, head).
KERNEL(attention_delta)(float *delta, const T *dout, const T *o, u64 units, int d) {
  u64 unit = element() / 32;
  if (unit >= units) return;
  float sum = 0.0f;
  for (int i = threadIdx.x % 32; i < d; i += 32) sum += widen(dout[unit * d + i]) * widen(o[unit * d + i]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta[unit] = sum;
}

// dQ = dS·K·scale, a warp a (query row, head).
KERNEL(attention_backward_q)(T *dq, const T *q, const T *k, const T *v, const T *dout, const float *lse, const float *delta,
                             const u32 *keys, u64 n, int heads, int kv_heads, int d, float scale) {
  u64 unit = element() / 32;
  int lane = threadIdx.x % 32;
  if (unit >= n * heads) return;
  u64 row = unit / heads;
  int head = unit % heads, kv = head / (heads / kv_heads);
  float mine[ATTENTION_CHANNELS], d_mine[ATTENTION_CHANNELS], sum[ATTENTION_CHANNELS];
  for (int c = 0; c < ATTENTION_CHANNELS; c++) {
    int i = c * 32 + lane;
    mine[c] = i < d ? widen(q[unit * d + i]) * scale : 0.0f;
    d_mine[c] = i < d ? widen(dout[unit * d + i]) : 0.0f;
    sum[c] = 0.0f;
  }
  for (u32 j = keys[2 * row]; j < keys[2 * row + 1]; j++) {
    u64 at = ((u64)j * kv_heads + kv) * d;
    float s = 0.0f, dp = 0.0f;
    for (int c = 0; c < ATTENTION_CHANNELS; c++)
      if (c * 32 + lane < d) {
        s += mine[c] * widen(k[at + c * 32 + lane]);
        dp += d_mine[c] * widen(v[at + c * 32 + lane]);
      }
    float ds = expf(warp_sum(s) - lse[unit]) * (warp_sum(dp) - delta[unit]) * scale;
    for (int c = 0; c < ATTENTION_CHANNELS; c++)
      if (c * 32 + lane < d) sum[c] += ds * widen(k[at + c * 32 + lane]);
  }
  for (int c = 0; c < ATTENTION_CHANNELS; c++)
    if (c * 32 + lane < d) narrow(sum[c], dq[unit * d + c * 32 + lane]);
}

// dK = dSᵀ·Q·scale and dV = Pᵀ·dO, a warp a (key row, key/value head); summed over the group's heads in order.
KERNEL(attention_backward_kv)(T *dk, T *dv, const T *q, const T *k, const T *v, const T *dout, const float *lse,
                              const float *delta, const u32 *queries, u64 n, int heads, int kv_heads, int d, float scale) {
  u64 unit = element() / 32;
  int lane = threadIdx.x % 32;
  if (unit >= n * kv_heads) return;
  u64 row = unit / kv_heads;
  int kv = unit % kv_heads, group = heads / kv_heads;
  float key[ATTENTION_CHANNELS], value[ATTENTION_CHANNELS], sum_k[ATTENTION_CHANNELS], sum_v[ATTENTION_CHANNELS];
  for (int c = 0; c < ATTENTION_CHANNELS; c++) {
    int i = c * 32 + lane;
    key[c] = i < d ? widen(k[unit * d + i]) * scale : 0.0f;
    value[c] = i < d ? widen(v[unit * d + i]) : 0.0f;
    sum_k[c] = sum_v[c] = 0.0f;
  }
  for (int head = kv * group; head < (kv + 1) * group; head++)
    for (u32 i = queries[2 * row]; i < queries[2 * row + 1]; i++) {
      u64 query = (u64)i * heads + head;
      float s = 0.0f, dp = 0.0f;
      for (int c = 0; c < ATTENTION_CHANNELS; c++)
        if (c * 32 + lane < d) {
          s += key[c] * widen(q[query * d + c * 32 + lane]);
          dp += value[c] * widen(dout[query * d + c * 32 + lane]);
        }
      float p = expf(warp_sum(s) - lse[query]);
      float ds = p * (warp_sum(dp) - delta[query]) * scale;
      for (int c = 0; c < ATTENTION_CHANNELS; c++)
        if (c * 32 + lane < d) {
          sum_v[c] += p * widen(dout[query * d + c * 32 + lane]);
          sum_k[c] += ds * widen(q[query * d + c * 32 + lane]);
        }
    }
  for (int c = 0; c < ATTENTION_CHANNELS; c++)
    if (c * 32 + lane < d) {
      narrow(sum_k[c], dk[unit * d + c * 32 + lane]);
      narrow(sum_v[c], dv[unit * d + c * 32 + lane]);
    }
}
