// The threads of a block are OS threads, and blocks run one after the other: static variables then serve as shared
// memory, and the sanitizers see what a kernel does with it.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>

#include "cuda_runtime_api.h"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local uint3 threadIdx{}, blockIdx{};
inline thread_local dim3 blockDim, gridDim;

namespace emulation {

constexpr int kWarp = 32;

// After this long a launch counts as stuck: the process says where its threads are and ends.
inline std::chrono::milliseconds patience{60000};

// Runs `kernel` in every thread of every block, or returns the error that CUDA has for this shape of launch.
cudaError_t run(dim3 blocks, dim3 threads, const std::function<void()>& kernel);

// All three are for the threads of a kernel. Warps are entered by all of their 32 threads, or the launch is stuck.
void sync_block();
void sync_warp(unsigned mask);
int lane();

// One word per lane of the calling thread's warp.
uint64_t* exchange();

// The value that the lane `source` of the warp brings.
template <typename T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  std::memcpy(exchange() + lane(), &value, sizeof(T));
  sync_warp(mask);
  std::memcpy(&value, exchange() + source, sizeof(T));
  sync_warp(mask);
  return value;
}

}  // namespace emulation
