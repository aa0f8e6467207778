// Blocks of threads, one after the other, so that static variables serve as shared memory. Two schedulers run the
// threads of a block: threads.cpp as OS threads, whose races and overruns the sanitizers see, and fibers.cpp as fibers
// that take turns, fast enough for whole models.
#pragma once

#include <atomic>
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

// After this long a launch of OS threads counts as stuck: the process says where they are and ends. Fibers know at
// once.
inline std::chrono::milliseconds patience{60000};

// Of the process so far.
inline std::atomic<int64_t> launches{0};

// Runs `kernel` in every thread of every block, or returns the error that CUDA has for this shape of launch.
cudaError_t run(dim3 blocks, dim3 threads, const std::function<void()>& kernel);

// These are for the threads of a kernel. Warps are entered by all of their 32 threads, or the launch is stuck.
void sync_block();
void sync_warp(unsigned mask);
int lane();

// The word that the lane `source` of the calling thread's warp brings.
uint64_t exchange(unsigned mask, uint64_t word, int source);

template <typename T>
T shuffle(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  word = exchange(mask, word, source);
  std::memcpy(&value, &word, sizeof(T));
  return value;
}

}  // namespace emulation
