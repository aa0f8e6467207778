#include "harness.h"
#include "kernels/cuda/elementwise.cuh"

namespace flowar {
namespace {

struct Visit {
  int* visits;
  int64_t tokens, channels;
  void operator()(int64_t batch, int64_t token, int64_t channel) const {
    ++visits[(batch * tokens + token) * channels + channel];
  }
};

void visits_every_group(int64_t batch, int64_t tokens, int64_t channels) {
  std::vector<int> visits(batch * tokens * channels);
  const Visit body{visits.data(), tokens, channels};
  expect_launched("for_each_group", for_each_group<2>(body, batch * tokens, tokens, channels, nullptr));
  for (int64_t i = 0; i < batch * tokens * channels; ++i) {
    if (visits[i] == (i % 2 == 0)) continue;
    ++failures;
    std::printf("for_each_group: channel %lld of row %lld visited %d times\n", static_cast<long long>(i % channels),
                static_cast<long long>(i / channels), visits[i]);
  }
}

const Test rows("groups of rows", [] {
  for (const int64_t channels : {2, 6, 34, 256, 258, 770}) {  // blocks of several rows, of one, of a part
    for (const int64_t tokens : {1, 5, 64}) visits_every_group(2, tokens, channels);
  }
});

constexpr int64_t kMost = 0xffff;  // of y and z of a grid

const Test batches("groups of more batch entries than a grid has", [] { visits_every_group(kMost + 2, 1, 2); });
const Test tokens("groups of more tokens than a grid has", [] { visits_every_group(1, 16 * kMost + 17, 2); });

const Test refusal("more rows than 32 bits number", [] {
  const int64_t rows = int64_t{1} << 40;
  if (for_each_group<1>(Visit{}, rows, 1, 1, nullptr) == cudaErrorInvalidConfiguration) return;
  ++failures;
  std::printf("for_each_group: 2^40 groups were not refused\n");
});

}  // namespace
}  // namespace flowar
