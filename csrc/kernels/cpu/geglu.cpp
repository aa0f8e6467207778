#include "../geglu.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "geglu.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(geglu_cpu, Geglu)
FLOWAR_DISPATCH(geglu_backward_cpu, GegluBackward)
#else

namespace flowar::FLOWAR_ISA {

template <typename T>
static void forward(const Geglu& p, int64_t begin, int64_t end) {
  T scratch[3][kChunk];
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    for (int64_t c = 0; c < p.hidden; c += kChunk) {
      const int64_t count = std::min(kChunk, p.hidden - c);
      const T* a = read(p.packed, row, c, count, scratch[0]);
      const T* b = read(p.packed, row, p.hidden + c, count, scratch[1]);
      T* out = target(p.out, row, c, scratch[2]);
#  pragma omp simd
      for (int64_t i = 0; i < count; ++i) out[i] = a[i] * normal(a[i]).distribution * b[i];
      write(p.out, row, c, count, out);
    }
  }
}

template <typename T>
static void backward(const GegluBackward& p, int64_t begin, int64_t end) {
  T scratch[5][kChunk];
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    for (int64_t c = 0; c < p.hidden; c += kChunk) {
      const int64_t count = std::min(kChunk, p.hidden - c);
      const T* grad = read(p.grad, row, c, count, scratch[0]);
      const T* a = read(p.packed, row, c, count, scratch[1]);
      const T* b = read(p.packed, row, p.hidden + c, count, scratch[2]);
      T* grad_a = target(p.grad_packed, row, c, scratch[3]);
      T* grad_b = target(p.grad_packed, row, p.hidden + c, scratch[4]);
#  pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const Normal<T> n = normal(a[i]);
        grad_a[i] = grad[i] * b[i] * (n.distribution + a[i] * n.density);
        grad_b[i] = grad[i] * a[i] * n.distribution;
      }
      write(p.grad_packed, row, c, count, grad_a);
      write(p.grad_packed, row, p.hidden + c, count, grad_b);
    }
  }
}

static void geglu_cpu(const Geglu& p, int64_t begin, int64_t end) {
  p.out.dtype == DType::kFloat64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

static void geglu_backward_cpu(const GegluBackward& p, int64_t begin, int64_t end) {
  p.grad_packed.dtype == DType::kFloat64 ? backward<double>(p, begin, end) : backward<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
