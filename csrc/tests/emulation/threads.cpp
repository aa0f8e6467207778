// The threads of a block as threads of the operating system.
#include <atomic>
#include <barrier>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "scheduler.h"

namespace emulation {
namespace {

struct Block {
  explicit Block(dim3 shape)
      : shape(shape),
        threads(threads_of(shape)),
        barrier(threads),
        end(threads),
        warps(warps_of(threads)),
        where(threads) {}

  const dim3 shape;
  const unsigned threads;
  std::barrier<> barrier, end;
  std::vector<Warp<std::barrier<>>> warps;
  std::vector<std::atomic<const char*>> where;  // of each thread, for the message of a stuck launch

  std::mutex mutex;
  std::condition_variable changed;
  unsigned finished = 0;  // guarded by mutex
};

thread_local Block* block = nullptr;

Warp<std::barrier<>>& warp() { return block->warps[number() / kWarp]; }

void wait(std::barrier<>& barrier, const char* where) {
  std::atomic<const char*>& here = block->where[number()];
  here.store(where, std::memory_order_relaxed);  // relaxed: hides no race from ThreadSanitizer
  barrier.arrive_and_wait();
  here.store("running", std::memory_order_relaxed);
}

void run_thread(Block& of, unsigned number, dim3 grid, const std::function<void()>& kernel) {
  block = &of;
  become(number, of.shape, grid);
  for_each_block(grid, [&] {
    kernel();
    wait(of.end, kAtEnd);
  });
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
  std::map<std::string, size_t> places;
  for (const auto& where : of.where) {
    const char* place = where.load(std::memory_order_relaxed);
    ++places[place ? place : "not started"];
  }
  die_stuck(places);
}

}  // namespace

void run_blocks(dim3 blocks, dim3 threads, const std::function<void()>& kernel) {
  static Workers& workers = *new Workers;  // never destroyed: its threads end with the process
  Block of(threads);
  workers.start(of.threads, [&of, blocks, &kernel](unsigned i) { run_thread(of, i, blocks, kernel); });
  watch(of);
}

void sync_block() { wait(block->barrier, kInBlock); }

void sync_warp(unsigned mask) {
  require_whole_warp(mask);
  wait(warp().barrier, kInWarp);
}

uint64_t exchange(unsigned mask, uint64_t word, int source) {
  require_whole_warp(mask);
  return warp().exchange(lane(), word, source, [](std::barrier<>& barrier) { wait(barrier, kInWarp); });
}

}  // namespace emulation
