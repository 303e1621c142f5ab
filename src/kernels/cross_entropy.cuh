// Cross-entropy of a chunk of f32 logits, one block a row: nll, and with coefficients the gradient as T. See
// ops/cross_entropy.rs. For T = float, dz may be z itself: a thread reads an element before it writes it.

KERNEL(cross_entropy)(T *dz, float *nll, const float *z, const u32 *targets, const float *coefficients, int v) {
  __shared__ float scratch[32];
  u64 row = blockIdx.x;
  z += row * v;
  float top = -INFINITY;
  for (int i = threadIdx.x; i < v; i += blockDim.x) top = fmaxf(top, z[i]);
  top = block_max(top, scratch);
  float sum = 0.0f;
  for (int i = threadIdx.x; i < v; i += blockDim.x) sum += expf(z[i] - top);
  sum = block_sum(sum, scratch);
  int target = targets[row];
  if (threadIdx.x == 0) nll[row] = logf(sum) - (z[target] - top);
  if (!coefficients) return;
  __syncthreads(); // z[target] is read before anything is written
  float c = coefficients[row], scale = c / sum;
  for (int i = threadIdx.x; i < v; i += blockDim.x)
    narrow(expf(z[i] - top) * scale - (i == target ? c : 0.0f), dz[row * v + i]);
}
