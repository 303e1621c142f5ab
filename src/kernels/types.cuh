// What every kernel needs: element types, indices, block-wide sums.
//
// A kernel file is written once in terms of T and included for float, bf16 and f16 (kernels.cu). Values are computed in f32 and
// rounded once, when they are stored. Sums run in a fixed order: a result does not depend on how blocks are scheduled.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include "cuda_on_cpu.h"
#endif

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef __nv_bfloat16 bf16;
typedef __half f16;

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return __bfloat162float(x); }
__device__ inline float widen(f16 x) { return __half2float(x); }

__device__ inline void narrow(float x, float &to) { to = x; }
__device__ inline void narrow(float x, bf16 &to) { to = __float2bfloat16(x); }
__device__ inline void narrow(float x, f16 &to) { to = __float2half(x); }

// The element of this thread in a one-dimensional grid.
__device__ inline u64 element() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

#ifdef __CUDACC__ // on the CPU: cuda_on_cpu.h
// The sum over the 32 lanes of a warp, in every lane.
__device__ inline float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

__device__ inline float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}
#endif

// The sum over all threads of a block (a multiple of 32, at most 1024), in every thread. `scratch` holds 32 floats.
__device__ inline float block_sum(float x, float *scratch) {
  x = warp_sum(x);
  __syncthreads(); // scratch may still be read from the call before
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : 0.0f);
}

__device__ inline float block_max(float x, float *scratch) {
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_max(threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : -INFINITY);
}
