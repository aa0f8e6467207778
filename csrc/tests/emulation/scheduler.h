// What the schedulers share. Each defines run_blocks, and with it what block.h says of the threads of a kernel.
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <string>

#include "block.h"

namespace emulation {

// The places where a thread waits, for the message of a stuck launch.
constexpr const char* kInBlock = "in __syncthreads";
constexpr const char* kInWarp = "in a barrier or shuffle of their warp";
constexpr const char* kAtEnd = "at the end of the kernel";

// Runs `kernel` in every thread of every block of a shape that CUDA allows.
void run_blocks(dim3 blocks, dim3 threads, const std::function<void()>& kernel);

inline unsigned threads_of(dim3 shape) { return shape.x * shape.y * shape.z; }

// Makes the calling thread the one with this number of its block.
void become(unsigned number, dim3 shape, dim3 grid);

// The number of the calling thread in its block.
unsigned number();

// Calls body() for every block of the grid, with blockIdx set.
template <typename Body>
void for_each_block(dim3 grid, const Body& body) {
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        body();
      }
    }
  }
}

// Words have two places, in turn: by the time that a lane comes to the first again, all have read what was there.
template <typename Barrier>
struct Warp {
  Barrier barrier{kWarp};
  std::array<std::array<uint64_t, kWarp>, 2> words{};
  std::array<unsigned char, kWarp> turn{};  // of each lane

  template <typename Wait>
  uint64_t exchange(int lane, uint64_t word, int source, const Wait& wait) {
    auto& here = words[turn[lane] ^= 1];
    here[lane] = word;
    wait(barrier);
    return here[source];
  }
};

inline unsigned warps_of(unsigned threads) { return (threads + kWarp - 1) / kWarp; }

void require_whole_warp(unsigned mask);

[[noreturn]] void die(const std::string& message);

// places: how many threads are where.
[[noreturn]] void die_stuck(const std::map<std::string, size_t>& places);

}  // namespace emulation
