// Runs CUDA kernels under emulation and compares them with the CPU kernels of the same parameters.
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "../buffer.h"

namespace flowar {

constexpr int64_t kBatch = 2, kTokens = 3, kRows = kBatch * kTokens;

// A width, a misalignment in elements, and a dtype for each tensor of an op.
struct Sample {
  int64_t channels;
  int64_t offset;
  int mixture;

  DType dtype(int tensor) const {
    constexpr std::array<DType, 3> kDTypes{DType::kFloat32, DType::kBFloat16, DType::kFloat16};
    constexpr std::array<int, 3> kPlace{1, 3, 9};
    return kDTypes[mixture / kPlace[tensor % 3] % 3];
  }
};

// Widths around the vector's at every misalignment, with the mixtures of dtypes in turn; and every mixture, aligned.
void for_each_sample(void (*run)(const Sample&));

void expect_launched(const char* what, cudaError_t error);

// A test that main runs: `const Test silu_add("silu_add", [] { ... });` at namespace scope.
class Test {
 public:
  Test(const char* name, void (*run)());
};

}  // namespace flowar
