// The operators of latent_resample and latent_pyramid.
#pragma once

#include "harness.h"
#include "kernels/latent_resample.h"

namespace flowar {

// Random matrices; the second row and the last column of the grid have no weight.
class Operator {
 public:
  Operator(int64_t in_height, int64_t in_width, int64_t out_height, int64_t out_width)
      : rows_(matrix(out_height, in_height, 1, 1)),
        columns_(matrix(out_width, in_width, in_width - 1, 2)),
        sizes_{nullptr, nullptr, in_height, in_width, out_height, out_width} {}

  SeparableOperator apply() const {
    SeparableOperator apply = sizes_;
    apply.rows = rows_.input(0, 0).data;
    apply.columns = columns_.input(0, 0).data;
    return apply;
  }
  int64_t out_tokens() const { return sizes_.out_height * sizes_.out_width; }

 private:
  static Buffer matrix(int64_t out, int64_t in, int64_t zero, unsigned seed) {
    Buffer weights = Buffer::random(DType::kFloat32, out * in, 1, seed);
    for (int64_t i = 0; in > 1 && i < out; ++i) weights.set(i * in + zero, 0);
    return weights;
  }

  Buffer rows_, columns_;
  SeparableOperator sizes_;
};

}  // namespace flowar
