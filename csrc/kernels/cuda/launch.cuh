// The one way to launch a kernel. Without <<<>>>, so that a host compiler reads it too (csrc/tests/emulation).
#pragma once

#include <cuda_runtime.h>

#include <utility>

namespace flowar {

// Queues `kernel` on `blocks` x `threads` of `stream`; arguments convert to the kernel's parameters as in a call.
// Returns the error of this launch. Shared memory is static only.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 blocks, dim3 threads, cudaStream_t stream,
                   Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

}  // namespace flowar
