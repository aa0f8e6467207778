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

void expect_every_group(const Visit& body) {
  for (int64_t i = 0; i < kBatch * body.tokens * body.channels; ++i) {
    if (body.visits[i] == (i % 2 == 0)) continue;
    ++failures;
    std::printf("for_each_group: channel %lld of row %lld visited %d times\n",
                static_cast<long long>(i % body.channels), static_cast<long long>(i / body.channels), body.visits[i]);
  }
}

const Test rows("groups of rows", [] {
  for (const int64_t channels : {2, 6, 34, 256, 258, 770}) {  // blocks of several rows, of one, of a part
    for (const int64_t tokens : {1, 5, 64}) {
      std::vector<int> visits(kBatch * tokens * channels);
      const Visit body{visits.data(), tokens, channels};
      expect_launched("for_each_group", for_each_group<2>(body, kBatch * tokens, tokens, channels, nullptr));
      expect_every_group(body);
    }
  }
});

// As for more rows than a grid has, which would take the emulation minutes.
const Test pieces("groups of rows in several launches", [] {
  constexpr int64_t kTokensOfRows = 7, kChannels = 34;
  std::vector<int> visits(kBatch * kTokensOfRows * kChannels);
  const Visit body{visits.data(), kTokensOfRows, kChannels};
  const cudaError_t error = in_pieces(kBatch, 1, [&](unsigned first_batch, unsigned end_batch) {
    return in_pieces(kTokensOfRows, 3, [&](unsigned first_token, unsigned end_token) {
      const Groups groups{kChannels / 2, first_batch, first_token, end_token};
      return launch(for_each_group_kernel<2, Visit>, groups.grid(end_batch - first_batch), groups.block(), nullptr,
                    body, groups);
    });
  });
  expect_launched("in_pieces", error);
  expect_every_group(body);
});

const Test refusal("more rows than 32 bits number", [] {
  const int64_t rows = int64_t{1} << 40;
  if (for_each_group<1>(Visit{}, rows, 1, 1, nullptr) == cudaErrorInvalidConfiguration) return;
  ++failures;
  std::printf("for_each_group: 2^40 groups were not refused\n");
});

}  // namespace
}  // namespace flowar
