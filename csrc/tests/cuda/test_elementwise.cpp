#include "harness.h"
#include "kernels/cuda/elementwise.cuh"

namespace flowar {
namespace {

constexpr int64_t kChannels = 2 * kThreads + 2;  // so that blocks end within a row, and the last one is not full

struct Visit {
  int* visits;
  void operator()(int64_t batch, int64_t token, int64_t channel) const {
    ++visits[(batch * kTokens + token) * kChannels + channel];
  }
};

// 64-bit indices are for tensors larger than a test's, so they are asked for here.
template <typename Index>
void visits_every_group() {
  constexpr Index kGroups = kChannels / 2, kCount = kRows * kGroups;
  std::vector<int> visits(kRows * kChannels);
  expect_launched("for_each_group", launch(for_each_group_kernel<2, Index, Visit>, (kCount + kThreads - 1) / kThreads,
                                           kThreads, nullptr, Visit{visits.data()}, kCount, Index{kTokens}, kGroups));
  for (int64_t i = 0; i < kRows * kChannels; ++i) {
    if (visits[i] == (i % 2 == 0)) continue;
    ++failures;
    std::printf("for_each_group: channel %lld of row %lld visited %d times\n", static_cast<long long>(i % kChannels),
                static_cast<long long>(i / kChannels), visits[i]);
  }
}

const Test narrow("groups by 32-bit index", visits_every_group<uint32_t>);
const Test wide("groups by 64-bit index", visits_every_group<int64_t>);

const Test refusal("more groups than a launch takes", [] {
  const int64_t rows = int64_t{1} << 40;
  if (for_each_group<1>(Visit{}, rows, 1, 1, nullptr) == cudaErrorInvalidConfiguration) return;
  ++failures;
  std::printf("for_each_group: 2^40 groups were not refused\n");
});

}  // namespace
}  // namespace flowar
