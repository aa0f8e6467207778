// The cases of spatial_adaln and spatial_adaln_residual.
#pragma once

#include "harness.h"
#include "kernels/token_sums.h"

namespace flowar {

constexpr double kEps = 1e-2;  // large, so that a row of one channel is not divided by nearly nothing

enum class Modulation { kPerToken, kPerEntry, kOne };

struct NormCase {
  Sample sample;
  int64_t batch, tokens;
  bool layer_norm;
  Modulation modulation;

  int64_t channels() const { return sample.channels; }
  int64_t rows() const { return batch * tokens; }
  int64_t token_stride() const { return modulation == Modulation::kPerToken ? 3 * channels() : 0; }
  int64_t batch_stride() const {
    return modulation == Modulation::kOne        ? 0
           : modulation == Modulation::kPerEntry ? 3 * channels()
                                                 : tokens * 3 * channels();
  }

  template <typename Params>
  void set_sizes(Params& p) const {
    p.tokens = tokens;
    p.channels = channels();
    p.layer_norm = layer_norm;
    p.eps = kEps;
  }

  Buffer random(int tensor) const {
    return Buffer::random(sample.dtype(tensor), rows() * channels(), sample.offset, static_cast<unsigned>(tensor));
  }
  Buffer output(int tensor) const { return Buffer(sample.dtype(tensor), rows() * channels(), sample.offset); }
  Input input(const Buffer& x) const { return x.input(tokens * channels(), channels()); }
  Output view(Buffer& x) const { return x.output(tokens * channels(), channels()); }

  // Gate, scale and shift, chunks of one packed tensor.
  Buffer packed(int tensor) const {
    return Buffer::random(sample.dtype(tensor), rows() * 3 * channels(), sample.offset, 100);
  }
  Input chunk(const Buffer& packed, int64_t i) const {
    return packed.input(batch_stride(), token_stride(), i * channels());
  }

  // The gradient of a chunk: summed over the tokens where the modulation broadcasts along them.
  bool summed() const { return token_stride() == 0; }
  Buffer gradient(int tensor) const {
    return Buffer(summed() ? DType::kFloat32 : sample.dtype(tensor), (summed() ? batch : rows()) * channels(),
                  sample.offset);
  }
  Output gradient_view(Buffer& x) const {
    return x.output((summed() ? 1 : tokens) * channels(), summed() ? 0 : channels());
  }
  Buffer parts(int64_t gradients) const {
    return Buffer(DType::kFloat32, gradients * batch * token_parts(tokens) * channels(), 0);
  }
};

// Every sample with a few rows, and rows longer than a block is wide.
template <void (*kRun)(const NormCase&)>
void for_each_norm_case() {
  for_each_sample([](const Sample& s) {
    kRun({s, kBatch, kTokens, s.mixture % 2 == 1, static_cast<Modulation>(s.mixture / 2 % 3)});
  });
  for (const int64_t channels : {1536, 2056, 4099, 4104}) {
    kRun({{channels, 0, 13}, 1, 2, channels % 8 == 0, Modulation::kPerEntry});
  }
}

// Entries whose tokens are summed in one part, in two and in three.
template <void (*kRun)(const NormCase&)>
void for_each_sum_case() {
  kRun({{16, 0, 4}, 1, kTokensPerPart, false, Modulation::kOne});
  kRun({{16, 0, 13}, 2, kTokensPerPart + 1, true, Modulation::kPerEntry});
  kRun({{9, 0, 4}, 2, 2 * kTokensPerPart + 3, false, Modulation::kPerEntry});
}

}  // namespace flowar
