#include "block.h"

#include <cstdio>
#include <cstdlib>

#include "scheduler.h"

namespace emulation {

cudaError_t run(dim3 blocks, dim3 threads, const std::function<void()>& kernel) {
  constexpr uint64_t kMaxThreads = 1024, kMaxBlocksX = 0x7fffffff, kMaxBlocks = 65535;
  const uint64_t count = uint64_t{threads.x} * threads.y * threads.z;
  const bool fits = count > 0 && count <= kMaxThreads && threads.z <= 64 && blocks.x > 0 && blocks.y > 0 &&
                    blocks.z > 0 && blocks.x <= kMaxBlocksX && blocks.y <= kMaxBlocks && blocks.z <= kMaxBlocks;
  if (!fits) return cudaErrorInvalidConfiguration;
  run_blocks(blocks, threads, kernel);
  ++launches;
  return cudaSuccess;
}

void become(unsigned number, dim3 shape, dim3 grid) {
  blockDim = shape;
  gridDim = grid;
  threadIdx = {number % shape.x, number / shape.x % shape.y, number / shape.x / shape.y};
}

unsigned number() { return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z); }

int lane() { return static_cast<int>(number() % kWarp); }

void require_whole_warp(unsigned mask) {
  if (mask != 0xffffffffu) die("a warp's mask must name all of its 32 threads");
}

void die(const std::string& message) {
  std::fprintf(stderr, "emulation: %s\n", message.c_str());
  std::_Exit(1);
}

void die_stuck(const std::map<std::string, size_t>& places) {
  std::string message = "the launch is stuck, its threads:";
  for (const auto& [place, count] : places) {
    message.append(" ").append(std::to_string(count)).append(" ").append(place).append(";");
  }
  die(message);
}

}  // namespace emulation
