#include "block.h"

#include <array>
#include <atomic>
#include <barrier>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace emulation {
namespace {

struct Warp {
  std::barrier<> barrier{kWarp};
  std::array<uint64_t, kWarp> words{};
};

struct Block {
  explicit Block(dim3 shape)
      : shape(shape),
        threads(shape.x * shape.y * shape.z),
        barrier(threads),
        end(threads),
        warps((threads + kWarp - 1) / kWarp),
        where(threads) {}

  const dim3 shape;
  const unsigned threads;
  std::barrier<> barrier, end;
  std::vector<Warp> warps;
  std::vector<std::atomic<const char*>> where;  // of each thread, for the message of a stuck launch

  std::mutex mutex;
  std::condition_variable changed;
  unsigned finished = 0;  // guarded by mutex
};

thread_local Block* block = nullptr;
thread_local unsigned thread = 0;  // its number in the block

Warp& warp() { return block->warps[thread / kWarp]; }

void wait(std::barrier<>& barrier, const char* where) {
  block->where[thread].store(where, std::memory_order_relaxed);  // relaxed: hides no race from ThreadSanitizer
  barrier.arrive_and_wait();
  block->where[thread].store("running", std::memory_order_relaxed);
}

[[noreturn]] void die(const std::string& message) {
  std::fprintf(stderr, "emulation: %s\n", message.c_str());
  std::_Exit(1);
}

void run_thread(Block& of, unsigned number, dim3 grid, const std::function<void()>& kernel) {
  block = &of;
  thread = number;
  blockDim = of.shape;
  gridDim = grid;
  threadIdx = {number % of.shape.x, number / of.shape.x % of.shape.y, number / of.shape.x / of.shape.y};
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        kernel();
        wait(of.end, "at the end of the kernel");
      }
    }
  }
  const std::lock_guard lock(of.mutex);
  if (++of.finished == of.threads) of.changed.notify_one();
}

// OS threads that stay for the next launch: to start one costs more than all that it does in a test. Thread i runs the
// task with the number i, if the task has so many.
class Workers {
 public:
  void start(unsigned count, std::function<void(unsigned)> task) {
    for (; size_ < count; ++size_) std::thread([this, i = size_] { serve(i); }).detach();
    const std::lock_guard lock(mutex_);
    task_ = std::move(task);
    count_ = count;
    ++launch_;
    changed_.notify_all();
  }

 private:
  [[noreturn]] void serve(unsigned number) {
    for (uint64_t served = 0;;) {
      std::function<void(unsigned)> task;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return launch_ > served; });
        served = launch_;
        if (number < count_) task = task_;
      }
      if (task) task(number);
    }
  }

  unsigned size_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void(unsigned)> task_;  // this and what follows: guarded by mutex_
  unsigned count_ = 0;
  uint64_t launch_ = 0;
};

void watch(Block& of) {
  std::unique_lock lock(of.mutex);
  if (of.changed.wait_for(lock, patience, [&] { return of.finished == of.threads; })) return;
  std::map<std::string, int> places;
  for (const auto& where : of.where) {
    const char* place = where.load(std::memory_order_relaxed);
    ++places[place ? place : "not started"];
  }
  std::string message = "the launch is stuck, its threads:";
  for (const auto& [place, count] : places) message += " " + std::to_string(count) + " " + place + ";";
  die(message);
}

}  // namespace

cudaError_t run(dim3 blocks, dim3 threads, const std::function<void()>& kernel) {
  constexpr uint64_t kMaxThreads = 1024, kMaxBlocksX = 0x7fffffff, kMaxBlocks = 65535;
  const uint64_t count = uint64_t{threads.x} * threads.y * threads.z;
  const bool fits = count > 0 && count <= kMaxThreads && threads.z <= 64 && blocks.x > 0 && blocks.y > 0 &&
                    blocks.z > 0 && blocks.x <= kMaxBlocksX && blocks.y <= kMaxBlocks && blocks.z <= kMaxBlocks;
  if (!fits) return cudaErrorInvalidConfiguration;
  static Workers& workers = *new Workers;  // never destroyed: its threads end with the process
  Block of(threads);
  workers.start(of.threads, [&of, blocks, &kernel](unsigned i) { run_thread(of, i, blocks, kernel); });
  watch(of);
  return cudaSuccess;
}

void sync_block() { wait(block->barrier, "in __syncthreads"); }

void sync_warp(unsigned mask) {
  if (mask != 0xffffffffu) die("a warp's mask must name all of its 32 threads");
  wait(warp().barrier, "in a barrier or shuffle of their warp");
}

int lane() { return static_cast<int>(thread % kWarp); }

uint64_t* exchange() { return warp().words.data(); }

}  // namespace emulation
