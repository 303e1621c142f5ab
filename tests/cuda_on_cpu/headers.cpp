// What src/gpu/library.rs declares, against the headers of the CUDA toolkit; compiled, never run.
#include <cublas_v2.h>
#include <cuda.h>
#include <type_traits>

#define SAME(function, ...) static_assert(std::is_same_v<decltype(&function), __VA_ARGS__>)
#define IS(constant, value) static_assert((int)constant == value)

static_assert(sizeof(CUresult) == 4 && sizeof(cublasStatus_t) == 4 && sizeof(CUdevice) == 4 && sizeof(CUdeviceptr) == 8);
static_assert(sizeof(cublasOperation_t) == 4 && sizeof(cudaDataType) == 4 && sizeof(cublasComputeType_t) == 4 && sizeof(cublasGemmAlgo_t) == 4);

SAME(cuInit, CUresult (*)(unsigned));
SAME(cuDriverGetVersion, CUresult (*)(int *));
SAME(cuGetErrorName, CUresult (*)(CUresult, const char **));
SAME(cuGetErrorString, CUresult (*)(CUresult, const char **));
SAME(cuDeviceGetCount, CUresult (*)(int *));
SAME(cuDeviceGet, CUresult (*)(CUdevice *, int));
SAME(cuDeviceGetName, CUresult (*)(char *, int, CUdevice));
SAME(cuDeviceGetAttribute, CUresult (*)(int *, CUdevice_attribute, CUdevice));
SAME(cuDeviceTotalMem_v2, CUresult (*)(size_t *, CUdevice));
SAME(cuDeviceGetDefaultMemPool, CUresult (*)(CUmemoryPool *, CUdevice));
SAME(cuMemPoolSetAttribute, CUresult (*)(CUmemoryPool, CUmemPool_attribute, void *));
SAME(cuDevicePrimaryCtxRetain, CUresult (*)(CUcontext *, CUdevice));
SAME(cuCtxSetCurrent, CUresult (*)(CUcontext));
SAME(cuStreamCreate, CUresult (*)(CUstream *, unsigned));
SAME(cuStreamSynchronize, CUresult (*)(CUstream));
SAME(cuModuleLoadData, CUresult (*)(CUmodule *, const void *));
SAME(cuModuleGetFunction, CUresult (*)(CUfunction *, CUmodule, const char *));
SAME(cuLaunchKernel, CUresult (*)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **));
SAME(cuMemGetInfo_v2, CUresult (*)(size_t *, size_t *));
SAME(cuMemAllocAsync, CUresult (*)(CUdeviceptr *, size_t, CUstream));
SAME(cuMemFreeAsync, CUresult (*)(CUdeviceptr, CUstream));
SAME(cuMemcpyHtoDAsync_v2, CUresult (*)(CUdeviceptr, const void *, size_t, CUstream));
SAME(cuMemcpyDtoHAsync_v2, CUresult (*)(void *, CUdeviceptr, size_t, CUstream));
SAME(cuMemcpyDtoDAsync_v2, CUresult (*)(CUdeviceptr, CUdeviceptr, size_t, CUstream));
SAME(cuMemsetD8Async, CUresult (*)(CUdeviceptr, unsigned char, size_t, CUstream));
SAME(cublasCreate_v2, cublasStatus_t (*)(cublasHandle_t *));
SAME(cublasSetStream_v2, cublasStatus_t (*)(cublasHandle_t, cudaStream_t));
SAME(cublasSetMathMode, cublasStatus_t (*)(cublasHandle_t, cublasMath_t));
// Overloaded in C++: this takes the library's own.
[[maybe_unused]] static cublasStatus_t (*const gemm)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int, int, const void *,
                                                     const void *, cudaDataType, int, const void *, cudaDataType, int, const void *,
                                                     void *, cudaDataType, int, cublasComputeType_t, cublasGemmAlgo_t) = cublasGemmEx;

IS(CUDA_ERROR_OUT_OF_MEMORY, 2);
IS(CUDA_ERROR_STUB_LIBRARY, 34);
IS(CUDA_ERROR_DEVICE_UNAVAILABLE, 46);
IS(CUDA_ERROR_NO_DEVICE, 100);
IS(CUDA_ERROR_INVALID_IMAGE, 200);
IS(CUDA_ERROR_NO_BINARY_FOR_GPU, 209);
IS(CUDA_ERROR_UNSUPPORTED_PTX_VERSION, 222);
IS(CUDA_ERROR_SYSTEM_NOT_READY, 802);
IS(CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, 803);
IS(CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE, 804);
IS(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 75);
IS(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 76);
IS(CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, 4);
IS(CU_STREAM_NON_BLOCKING, 1);
IS(CUBLAS_STATUS_NOT_INITIALIZED, 1);
IS(CUBLAS_STATUS_ALLOC_FAILED, 3);
IS(CUBLAS_STATUS_INVALID_VALUE, 7);
IS(CUBLAS_STATUS_ARCH_MISMATCH, 8);
IS(CUBLAS_STATUS_MAPPING_ERROR, 11);
IS(CUBLAS_STATUS_EXECUTION_FAILED, 13);
IS(CUBLAS_STATUS_INTERNAL_ERROR, 14);
IS(CUBLAS_STATUS_NOT_SUPPORTED, 15);
IS(CUBLAS_STATUS_LICENSE_ERROR, 16);
IS(CUBLAS_OP_N, 0);
IS(CUBLAS_OP_T, 1);
IS(CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION, 16);
IS(CUBLAS_COMPUTE_32F, 68);
IS(CUBLAS_GEMM_DEFAULT, -1);
IS(CUDA_R_32F, 0);
IS(CUDA_R_16F, 2);
IS(CUDA_R_16BF, 14);
