#include "../silu_add.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "silu_add.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(silu_add_cpu, SiluAdd)
FLOWAR_DISPATCH(silu_add_backward_cpu, SiluAddBackward)
#else

namespace flowar::FLOWAR_ISA {

template <typename T>
static void forward(const SiluAdd& p, int64_t begin, int64_t end) {
  T scratch[3][kChunk];
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    for (int64_t c = 0; c < p.channels; c += kChunk) {
      const int64_t count = std::min(kChunk, p.channels - c);
      const T* a = read(p.a, row, c, count, scratch[0]);
      const T* b = read(p.b, row, c, count, scratch[1]);
      T* out = target(p.out, row, c, scratch[2]);
#  pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const T sum = a[i] + b[i];
        out[i] = sum * sigmoid(sum);
      }
      write(p.out, row, c, count, out);
    }
  }
}

template <typename T>
static void backward(const SiluAddBackward& p, int64_t begin, int64_t end) {
  T scratch[4][kChunk];
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    for (int64_t c = 0; c < p.channels; c += kChunk) {
      const int64_t count = std::min(kChunk, p.channels - c);
      const T* grad = read(p.grad, row, c, count, scratch[0]);
      const T* a = read(p.a, row, c, count, scratch[1]);
      const T* b = read(p.b, row, c, count, scratch[2]);
      T* grad_sum = target(p.grad_sum, row, c, scratch[3]);
#  pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const T sum = a[i] + b[i];
        const T s = sigmoid(sum);
        grad_sum[i] = grad[i] * s * (1 + sum * (1 - s));
      }
      write(p.grad_sum, row, c, count, grad_sum);
    }
  }
}

static void silu_add_cpu(const SiluAdd& p, int64_t begin, int64_t end) {
  p.out.dtype == DType::kFloat64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

static void silu_add_backward_cpu(const SiluAddBackward& p, int64_t begin, int64_t end) {
  p.grad_sum.dtype == DType::kFloat64 ? backward<double>(p, begin, end) : backward<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
