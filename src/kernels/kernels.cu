// Every kernel for every element type, in one image: name_f32, name_bf16, name_f16.
#include "types.cuh"

#include "norm.cuh"

#define T float
#define KERNEL(name) extern "C" __global__ void name##_f32
#include "each_type.cuh"
#undef T
#undef KERNEL

#define T bf16
#define KERNEL(name) extern "C" __global__ void name##_bf16
#include "each_type.cuh"
#undef T
#undef KERNEL

#define T f16
#define KERNEL(name) extern "C" __global__ void name##_f16
#include "each_type.cuh"
#undef T
#undef KERNEL
