// CUDA's language on the CPU, as far as src/kernels speaks it: the same kernel source runs thread by thread.
//
// The threads of a block are coroutines that change places at __syncthreads and at sums of a warp, so a barrier that not all threads
// reach is found, not hung on. Sums of a warp take the same butterfly as on a card.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __constant__ static const
#define __shared__ static thread_local

struct dim3 {
  unsigned x, y, z;
};
extern thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

void __syncthreads();
// Over the 32 lanes of a warp, in every lane.
float warp_sum(float x);
float warp_max(float x);

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  _Float16 value;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float out;
  memcpy(&out, &bits, 4);
  return out;
}
inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return {(uint16_t)0x7fff};
  return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half x) { return (float)x.value; }
inline __half __float2half(float x) { return {(_Float16)x}; }
