// libcuda and libcublas for machines without a card, as far as vft calls them: memory is host memory, kernels run on the CPU.
//
// Strict where a card is lax: fresh memory holds NaN, freed memory must have intact edges, a kernel whose threads do not all reach
// a barrier ends the process; with `VFT_FAKE_BACKWARDS` the last go first. `VFT_FAKE_INIT`, `_DRIVER`, `_DEVICES`, `_CUBLAS`,
// `_CAPABILITY`, `_MEMORY` and `_TAKEN` play other machines.
#include "../../src/kernels/kernels.cu"

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <mutex>
#include <setjmp.h>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

// Coroutines

thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace {

enum State { READY, AT_WARP, AT_BARRIER, DONE };

struct Thread {
  State state = DONE;
  jmp_buf here;
  ucontext_t start;
  std::vector<char> stack;
  bool entered = false;
};

struct Warp {
  unsigned arrived = 0;
  float values[32]; // into a reduction, and out of it
};

struct Block {
  std::vector<Thread *> threads;
  Warp warps[32];
  jmp_buf scheduler;
  unsigned current = 0;
  const std::function<void()> *body = nullptr;
};
thread_local Block block;

[[noreturn]] void stop(const char *why) {
  fprintf(stderr, "cuda_on_cpu: %s in block %u\n", why, blockIdx.x);
  abort();
}

void enter() {
  for (;;) {
    (*block.body)();
    Thread &t = *block.threads[block.current];
    t.state = DONE;
    if (!_setjmp(t.here)) _longjmp(block.scheduler, 1);
  }
}

void change_places(State state) {
  Block &b = block;
  Thread &t = *b.threads[b.current];
  t.state = state;
  if (!_setjmp(t.here)) _longjmp(b.scheduler, 1);
}

// The last lane to arrive adds up for all and goes on; the others have their result when they come back.
template <class Op> inline float reduce(float x, Op op) {
  Block &b = block;
  unsigned me = b.current, first = me / 32 * 32;
  Warp &warp = b.warps[me / 32];
  if (first + 32 > blockDim.x) stop("a warp of fewer lanes");
  warp.values[me % 32] = x;
  if (++warp.arrived < 32) {
    change_places(AT_WARP);
    return b.warps[me / 32].values[me % 32];
  }
  float next[32];
  for (unsigned step = 16; step > 0; step /= 2) {
    for (unsigned i = 0; i < 32; i++) next[i] = op(warp.values[i], warp.values[i ^ step]);
    memcpy(warp.values, next, sizeof next);
  }
  warp.arrived = 0;
  for (unsigned i = first; i < first + 32; i++) b.threads[i]->state = READY;
  return warp.values[me % 32];
}

Thread *new_thread() {
  auto *t = new Thread;
  t->stack.resize(64 << 10);
  getcontext(&t->start);
  t->start.uc_stack.ss_sp = t->stack.data();
  t->start.uc_stack.ss_size = t->stack.size();
  t->start.uc_link = nullptr;
  makecontext(&t->start, enter, 0);
  return t;
}

// A card runs blocks, warps and lanes in any order; what needs another one shows in one of these two.
bool is_backwards() {
  static const bool is = getenv("VFT_FAKE_BACKWARDS");
  return is;
}

void run_block(unsigned count) {
  while (block.threads.size() < count) {
    block.threads.push_back(new_thread());
  }
  for (unsigned i = 0; i < count; i++) block.threads[i]->state = READY;
  for (unsigned done = 0; done < count;) {
    unsigned at_barrier = done = 0;
    for (unsigned turn = 0; turn < count; turn += 32) {
      unsigned w = is_backwards() ? (count - 1) / 32 * 32 - turn : turn;
      unsigned n[4], end = w + 32 < count ? w + 32 : count;
      do { // a warp goes on until all its lanes are at a barrier or done
        for (volatile unsigned lane = w; lane < end; lane++) {
          unsigned i = is_backwards() ? w + end - 1 - lane : lane;
          Thread &t = *block.threads[i];
          if (t.state != READY) continue;
          block.current = i;
          threadIdx = {i, 0, 0};
          if (_setjmp(block.scheduler)) continue;
          if (t.entered) _longjmp(t.here, 1);
          t.entered = true;
          setcontext(&t.start); // comes back by a jump as well
        }
        n[READY] = n[AT_WARP] = n[AT_BARRIER] = n[DONE] = 0;
        for (unsigned i = w; i < end; i++) n[block.threads[i]->state]++;
        if (n[AT_WARP] && !n[READY]) stop("a warp's reduction without all lanes");
      } while (n[READY]);
      at_barrier += n[AT_BARRIER], done += n[DONE];
    }
    if (at_barrier && done) stop("a barrier without all threads");
    for (unsigned i = 0; i < count && at_barrier; i++) block.threads[i]->state = READY;
  }
}

// Kernels by name

using Launch = std::function<std::function<void()>(void **)>;

template <class... A, size_t... I>
Launch launcher(void (*kernel)(A...), std::index_sequence<I...>) {
  return [kernel](void **args) -> std::function<void()> {
    return [kernel, args] { kernel(*(A *)args[I]...); };
  };
}
template <class... A> Launch launcher(void (*kernel)(A...)) { return launcher(kernel, std::index_sequence_for<A...>()); }

#define EACH(name) {#name "_f32", launcher(name##_f32)}, {#name "_bf16", launcher(name##_bf16)}, {#name "_f16", launcher(name##_f16)},
const std::map<std::string, Launch> kernels = {
    {"sum_of_squares", launcher(sum_of_squares)},
    EACH(gather) EACH(gather_wide) EACH(operand) EACH(scatter) EACH(add) EACH(add_bias) EACH(rms_norm_forward) EACH(rms_norm_recompute) EACH(rms_norm_backward)
    EACH(rope) EACH(swiglu_forward) EACH(swiglu_backward) EACH(attention_forward) EACH(attention_delta) EACH(attention_backward_q)
    EACH(attention_backward_kv) EACH(cross_entropy) EACH(dropout) EACH(nf4_dequantize) EACH(adamw)
    EACH(adamw8bit) EACH(sgd)};

// Memory with edges

const size_t EDGE = 64;
struct Allocation {
  size_t bytes;
  char *base;
};
std::mutex lock;
std::map<uint64_t, Allocation> allocations;
size_t used = 0;

int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

} // namespace

void __syncthreads() { change_places(AT_BARRIER); }

float warp_sum(float x) {
  return reduce(x, [](float a, float b) { return a + b; });
}
float warp_max(float x) {
  return reduce(x, [](float a, float b) { return fmaxf(a, b); });
}

#define OK 0
#define CUDA(name) extern "C" int name

CUDA(cuInit)(unsigned) { return number("VFT_FAKE_INIT", OK); }
CUDA(cuGetErrorName)(int code, const char **name) {
  *name = code == 34 ? "CUDA_ERROR_STUB_LIBRARY" : code == 100 ? "CUDA_ERROR_NO_DEVICE" : nullptr;
  return *name ? OK : 1; // as a driver does for a code that it does not know
}
CUDA(cuGetErrorString)(int, const char **text) { return *text = "played", OK; }
CUDA(cuDriverGetVersion)(int *v) { return *v = number("VFT_FAKE_DRIVER", 13000), OK; }
CUDA(cuDeviceGetCount)(int *n) { return *n = number("VFT_FAKE_DEVICES", 1), OK; }
CUDA(cuDeviceGet)(int *device, int ordinal) { return *device = ordinal, OK; }
CUDA(cuDeviceGetName)(char *name, int len, int) { return snprintf(name, len, "CPU in a card's place"), OK; }
CUDA(cuDeviceGetAttribute)(int *value, int attribute, int) {
  int capability = number("VFT_FAKE_CAPABILITY", 90);
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0;
  return OK;
}
CUDA(cuDeviceTotalMem_v2)(size_t *bytes, int) { return *bytes = (size_t)number("VFT_FAKE_MEMORY", 8192) << 20, OK; }
CUDA(cuDevicePrimaryCtxRetain)(void **context, int) { return *context = (void *)1, OK; }
CUDA(cuCtxSetCurrent)(void *) { return OK; }
CUDA(cuDeviceGetDefaultMemPool)(void **pool, int) { return *pool = (void *)1, OK; }
CUDA(cuMemPoolSetAttribute)(void *, int, void *) { return OK; }
CUDA(cuStreamCreate)(void **stream, unsigned) { return *stream = (void *)1, OK; }
CUDA(cuStreamSynchronize)(void *) { return OK; }
CUDA(cuModuleLoadData)(void **module, const void *image) {
  uint32_t magic;
  memcpy(&magic, image, 4);
  return *module = (void *)1, magic == 0xBA55ED50 ? OK : 200; // a fat binary, or CUDA_ERROR_INVALID_IMAGE
}
CUDA(cuModuleGetFunction)(const void **function, void *, const char *name) {
  auto found = kernels.find(name);
  if (found == kernels.end()) return 500; // CUDA_ERROR_NOT_FOUND
  return *function = &found->second, OK;
}
CUDA(cuLaunchKernel)(const Launch *kernel, unsigned gx, unsigned, unsigned, unsigned bx, unsigned, unsigned, unsigned, void *,
                     void **args, void **) {
  if (!gx || !bx || bx > 1024) return 1; // CUDA_ERROR_INVALID_VALUE
  std::function<void()> body = (*kernel)(args);
  gridDim = {gx, 1, 1}, blockDim = {bx, 1, 1};
  block.body = &body;
  for (unsigned b = 0; b < gx; b++) blockIdx = {is_backwards() ? gx - 1 - b : b, 0, 0}, run_block(bx);
  return OK;
}
CUDA(cuMemGetInfo_v2)(size_t *free, size_t *total) {
  std::lock_guard<std::mutex> guard(lock);
  *total = (size_t)number("VFT_FAKE_MEMORY", 8192) << 20;
  return *free = *total - used - ((size_t)number("VFT_FAKE_TAKEN", 0) << 20), OK;
}
CUDA(cuMemAllocAsync)(uint64_t *at, size_t bytes, void *) {
  std::lock_guard<std::mutex> guard(lock);
  if (used + bytes > (size_t)(number("VFT_FAKE_MEMORY", 8192) - number("VFT_FAKE_TAKEN", 0)) << 20) return 2; // CUDA_ERROR_OUT_OF_MEMORY
  char *base = (char *)aligned_alloc(256, (bytes + 2 * 256 + 255) / 256 * 256);
  memset(base, 0xA5, 256);
  memset(base + 256, 0xFF, bytes); // NaN in every type
  memset(base + 256 + bytes, 0xA5, EDGE);
  *at = (uint64_t)base + 256;
  allocations[*at] = {bytes, base};
  used += bytes;
  return OK;
}
CUDA(cuMemFreeAsync)(uint64_t at, void *) {
  std::lock_guard<std::mutex> guard(lock);
  auto found = allocations.find(at);
  if (found == allocations.end()) stop("memory is freed that was not allocated");
  Allocation a = found->second;
  for (size_t i = 0; i < EDGE; i++)
    if ((unsigned char)a.base[256 - EDGE + i] != 0xA5 || (unsigned char)a.base[256 + a.bytes + i] != 0xA5)
      stop("something wrote beyond an allocation");
  allocations.erase(found);
  used -= a.bytes;
  free(a.base);
  return OK;
}
CUDA(cuMemcpyHtoDAsync_v2)(uint64_t to, const void *from, size_t bytes, void *) { return memcpy((void *)to, from, bytes), OK; }
CUDA(cuMemcpyDtoHAsync_v2)(void *to, uint64_t from, size_t bytes, void *) { return memcpy(to, (void *)from, bytes), OK; }
CUDA(cuMemcpyDtoDAsync_v2)(uint64_t to, uint64_t from, size_t bytes, void *) {
  return memmove((void *)to, (void *)from, bytes), OK;
}
CUDA(cuMemsetD8Async)(uint64_t at, unsigned char value, size_t bytes, void *) { return memset((void *)at, value, bytes), OK; }

// cuBLAS: column-major products, summed in f32

CUDA(cublasCreate_v2)(void **handle) { return *handle = (void *)1, number("VFT_FAKE_CUBLAS", OK); }
CUDA(cublasSetStream_v2)(void *, void *) { return OK; }
CUDA(cublasSetMathMode)(void *, int) { return OK; }

static float load(const void *p, int type, size_t i) {
  if (type == 0) return ((const float *)p)[i];
  return type == 14 ? __bfloat162float(((const bf16 *)p)[i]) : __half2float(((const f16 *)p)[i]);
}
static void store(void *p, int type, size_t i, float x) {
  if (type == 0) narrow(x, ((float *)p)[i]);
  if (type == 14) narrow(x, ((bf16 *)p)[i]);
  if (type == 2) narrow(x, ((f16 *)p)[i]);
}
CUDA(cublasGemmEx)(void *, int ta, int tb, int m, int n, int k, const float *alpha, const void *a, int at, int lda, const void *b,
                   int bt, int ldb, const float *beta, void *c, int ct, int ldc, int, int) {
  if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m || at != bt) return 7; // CUBLAS_STATUS_INVALID_VALUE
  std::vector<float> left((size_t)m * k), sums(m);
  for (int p = 0; p < k; p++)
    for (int i = 0; i < m; i++) left[(size_t)p * m + i] = load(a, at, ta ? (size_t)i * lda + p : (size_t)p * lda + i);
  for (int j = 0; j < n; j++) {
    std::fill(sums.begin(), sums.end(), 0.0f);
    for (int p = 0; p < k; p++) {
      float right = load(b, bt, tb ? (size_t)p * ldb + j : (size_t)j * ldb + p);
      const float *column = &left[(size_t)p * m];
      for (int i = 0; i < m; i++) sums[i] += column[i] * right;
    }
    for (int i = 0; i < m; i++) {
      size_t at = (size_t)j * ldc + i;
      store(c, ct, at, *alpha * sums[i] + (*beta == 0.0f ? 0.0f : *beta * load(c, ct, at)));
    }
  }
  return OK;
}
