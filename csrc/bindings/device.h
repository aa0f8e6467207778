// The one place where CPU and CUDA builds of a binding differ: which backend it registers, and how kernels are run.
// The guard has a name, so that a build can put another backend in the place of this one:
// csrc/tests/emulation/device.h.
#ifndef FLOWAR_BINDINGS_DEVICE_H
#define FLOWAR_BINDINGS_DEVICE_H

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>

#ifdef USE_CUDA
#  include <cuda_runtime_api.h>
#  include <torch/csrc/stable/accelerator.h>

#  define FLOWAR_BACKEND CUDA
#  define FLOWAR_RUN(name, params, like, rows, unit, work) \
    flowar::run_cuda(like, rows, [&](cudaStream_t stream) { return name##_cuda(params, rows, stream); })
#else
#  define FLOWAR_BACKEND CPU
#  define FLOWAR_RUN(name, params, like, rows, unit, work) \
    flowar::run_cpu(rows, unit, work, [&](int64_t begin, int64_t end) { name##_cpu(params, begin, end); })
#endif

namespace flowar {

#ifdef USE_CUDA

constexpr const char* kBackendName = "a CUDA device";
constexpr bool kBackendHasFloat64 = false;
constexpr bool kBackendSumsInParts = true;  // over tokens: kernels/token_sums.h
inline bool on_backend(const torch::stable::Tensor& x) { return x.is_cuda(); }
inline int64_t device_index(const torch::stable::Tensor& x) { return x.get_device_index(); }

// Launches on the device and current stream of `like`.
template <typename Launch>
void run_cuda(const torch::stable::Tensor& like, int64_t rows, const Launch& launch) {
  if (rows == 0) return;
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(like.get_device_index(), &stream));
  STD_CUDA_CHECK(launch(static_cast<cudaStream_t>(stream)));
}

#else

constexpr const char* kBackendName = "the CPU";
constexpr bool kBackendHasFloat64 = true;
constexpr bool kBackendSumsInParts = false;
inline bool on_backend(const torch::stable::Tensor& x) { return x.is_cpu(); }
inline int64_t device_index(const torch::stable::Tensor&) { return 0; }

// Splits the rows among torch's threads, `unit` adjacent rows staying together; `work` is the elements of a row.
template <typename Kernel>
void run_cpu(int64_t rows, int64_t unit, int64_t work, const Kernel& kernel) {
  if (rows == 0) return;
  constexpr int64_t kGrain = 32768;  // elements below which another thread costs more than it saves
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, unit * work));
  torch::stable::parallel_for(0, rows / unit, grain,
                              [&](int64_t begin, int64_t end) { kernel(begin * unit, end * unit); });
}

#endif

}  // namespace flowar

#endif  // FLOWAR_BINDINGS_DEVICE_H
