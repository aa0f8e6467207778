// Stand-in for bindings/device.h: CUDA kernels under emulation, for tensors on the CPU. A compiler reads it before the
// binding (-include).
#ifndef FLOWAR_BINDINGS_DEVICE_H
#define FLOWAR_BINDINGS_DEVICE_H

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/tensor.h>

#include <stdexcept>
#include <string>

#define FLOWAR_BACKEND CPU
#define FLOWAR_RUN(name, params, like, rows, unit, work) \
  flowar::run_emulated(rows, [&] { return name##_cuda(params, rows, nullptr); })

namespace flowar {

constexpr const char* kBackendName = "an emulated CUDA device";
constexpr bool kBackendHasFloat64 = false;
constexpr bool kBackendSumsInParts = true;
inline bool on_backend(const torch::stable::Tensor& x) { return x.is_cpu(); }
inline int64_t device_index(const torch::stable::Tensor&) { return 0; }

template <typename Launch>
void run_emulated(int64_t rows, const Launch& launch) {
  if (rows == 0) return;
  const cudaError_t error = launch();
  if (error != cudaSuccess) throw std::runtime_error("emulation: launch error " + std::to_string(error));
}

}  // namespace flowar

#endif  // FLOWAR_BINDINGS_DEVICE_H
