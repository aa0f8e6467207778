// The threads of a block as fibers: each has a stack of its own, and leaves the OS thread to another one where it
// waits.
#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <mutex>
#include <vector>

#include "scheduler.h"

namespace emulation {
namespace {

constexpr size_t kStack = 64 * 1024;

struct Fiber {
  std::unique_ptr<char[]> stack;
  jmp_buf place{};  // where it goes on
};

struct Barrier {
  unsigned expected;
  std::vector<Fiber*> waiting{};
};

struct Launch {
  Launch(dim3 grid, dim3 shape, const std::function<void()>& kernel)
      : grid(grid),
        shape(shape),
        kernel(kernel),
        threads(threads_of(shape)),
        barrier{threads},
        warps(warps_of(threads)) {}

  bool all_begun() const { return begun == threads; }

  const dim3 grid, shape;
  const std::function<void()>& kernel;
  const unsigned threads;  // of a block
  Barrier barrier;
  std::vector<Warp<Barrier>> warps;
  unsigned begun = 0, ended = 0;  // threads of the block at work
};

[[noreturn]] void die_waiting(const Launch& launch) {
  std::map<std::string, size_t> places{{kAtEnd, launch.ended}, {kInBlock, launch.barrier.waiting.size()}};
  for (const auto& warp : launch.warps) places[kInWarp] += warp.barrier.waiting.size();
  die_stuck(places);
}

// The fibers of an OS thread, which serve launch after launch. A fiber that comes to the end of one thread begins the
// next: a kernel that never waits is run by a single fiber.
class Fibers {
 public:
  void run(Launch& launch) {
    launch_ = &launch;
    for_each_block(launch.grid, [&] {
      launch.begun = launch.ended = 0;
      leave(launcher_);
      if (launch.ended != launch.threads) die_waiting(launch);
    });
  }

  // Until as many as the barrier expects have come.
  void wait(Barrier& barrier) {
    if (barrier.waiting.size() + 1 == barrier.expected) {
      ready_.insert(ready_.end(), barrier.waiting.begin(), barrier.waiting.end());
      barrier.waiting.clear();
      return;
    }
    barrier.waiting.push_back(current_);
    const uint3 index = threadIdx;
    leave(*current_);
    threadIdx = index;
  }

  Launch& launch() { return *launch_; }

 private:
  static void serve();

  // Goes on with another fiber, until somebody goes on with this one.
  void leave(Fiber& from) {
    if (_setjmp(from.place) == 0) go_on();
  }

  // With a fiber that may, or with another thread, or, where there is neither, with the launcher.
  [[noreturn]] void go_on() {
    if (ready_.empty() && !launch_->all_begun() && idle_.empty()) start();
    std::vector<Fiber*>& from = ready_.empty() ? idle_ : ready_;
    current_ = &launcher_;
    if (!ready_.empty() || !launch_->all_begun()) {
      current_ = from.back();
      from.pop_back();
    }
    _longjmp(current_->place, 1);
  }

  [[noreturn]] void start() {
    all_.push_back(std::make_unique<Fiber>());
    current_ = all_.back().get();
    current_->stack.reset(new char[kStack]);
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = current_->stack.get();
    context.uc_stack.ss_size = kStack;
    makecontext(&context, &Fibers::serve, 0);
    setcontext(&context);
    die("a fiber did not start");
  }

  Launch* launch_ = nullptr;
  Fiber launcher_;
  Fiber* current_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> all_;
  std::vector<Fiber*> idle_, ready_;
};

thread_local Fibers fibers;

Warp<Barrier>& warp() { return fibers.launch().warps[number() / kWarp]; }

void Fibers::serve() {
  for (;;) {
    Launch& launch = *fibers.launch_;
    while (!launch.all_begun()) {
      become(launch.begun++, launch.shape, launch.grid);
      launch.kernel();
      ++launch.ended;
    }
    fibers.idle_.push_back(fibers.current_);
    fibers.leave(*fibers.current_);
  }
}

}  // namespace

void run_blocks(dim3 blocks, dim3 threads, const std::function<void()>& kernel) {
  static std::mutex one_launch;  // shared memory is static
  const std::lock_guard lock(one_launch);
  Launch launch(blocks, threads, kernel);
  fibers.run(launch);
}

void sync_block() { fibers.wait(fibers.launch().barrier); }

void sync_warp(unsigned mask) {
  require_whole_warp(mask);
  fibers.wait(warp().barrier);
}

uint64_t exchange(unsigned mask, uint64_t word, int source) {
  require_whole_warp(mask);
  return warp().exchange(lane(), word, source, [](Barrier& barrier) { fibers.wait(barrier); });
}

}  // namespace emulation
