// scale = max(largest * (1 / 448), the smallest normal float), largest = max |x| over the channels of a token, and
// values = x * (1 / scale), rounded to float8_e4m3fn, whose largest number is 448. What is not finite makes its scale
// so. Moves 1 byte and the element of x per element.
#pragma once

#include "tensor.h"

namespace flowar {

constexpr float kShareOfLargest = 1.0f / 448;
constexpr float kSmallestScale = 1.17549435e-38f;

struct QuantizeRows {
  int64_t tokens;  // per batch entry; a row is one (batch, token)
  int64_t channels;
  Input x;
  uint8_t* values;  // [rows, channels] contiguous, from a multiple of 8 bytes on
  float* scale;     // [rows]
};

void quantize_rows_cpu(const QuantizeRows& p, int64_t row_begin, int64_t row_end);

#ifdef USE_CUDA
cudaError_t quantize_rows_cuda(const QuantizeRows& p, int64_t rows, cudaStream_t stream);
#endif

}  // namespace flowar
