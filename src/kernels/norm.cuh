// Σ g² of fixed pieces, a block each: f64 sums whose order does not depend on the card. The host adds the pieces.

extern "C" __global__ void sum_of_squares(double *out, const float *g, u64 n, u64 piece) {
  __shared__ double sums[256];
  u64 end = (blockIdx.x + 1) * piece < n ? (blockIdx.x + 1) * piece : n;
  double sum = 0.0;
  for (u64 i = blockIdx.x * piece + threadIdx.x; i < end; i += 256) sum += (double)g[i] * g[i];
  sums[threadIdx.x] = sum;
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}
