#include "../rotary_qkv.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "rotary_qkv.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(rotary_qkv_cpu, RotaryQkv)
FLOWAR_DISPATCH(rotary_qkv_backward_cpu, RotaryQkvBackward)
#else

namespace flowar::FLOWAR_ISA {

static bool is_value(int64_t part, int64_t parts) { return parts > 1 && part == parts - 1; }

// direction 1 rotates, -1 rotates back.
template <typename T>
static void rotate(const T* x, const T* rotation, int64_t dim, T direction, T* out) {
#  pragma omp simd
  for (int64_t j = 0; j < dim / 2; ++j) {
    const T even = x[2 * j], odd = x[2 * j + 1];
    const T cosine = rotation[2 * j], sine = direction * rotation[2 * j + 1];
    out[2 * j] = even * cosine - odd * sine;
    out[2 * j + 1] = odd * cosine + even * sine;
  }
}

template <typename T>
static void forward(const RotaryQkv& p, int64_t begin, int64_t end) {
  const int64_t width = p.heads * p.dim;
  const Scratch<T> scratch(3, width);
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    const T* rotation = read(p.rotation, row, 0, p.dim, scratch[0]);
    for (int64_t i = 0; i < p.parts; ++i) {
      const T* x = read(p.packed, row, i * width, width, scratch[1]);
      for (int64_t h = 0; h < p.heads; ++h, x += p.dim) {
        const int64_t channel = h * p.part[i].head_stride;
        T* out = target(p.part[i].tokens, row, channel, scratch[2]);
        if (is_value(i, p.parts)) {
          std::copy_n(x, p.dim, out);
        } else {
          rotate(x, rotation, p.dim, T(1), out);
        }
        write(p.part[i].tokens, row, channel, p.dim, out);
      }
    }
  }
}

template <typename T>
static void backward(const RotaryQkvBackward& p, int64_t begin, int64_t end) {
  const int64_t width = p.heads * p.dim;
  const Scratch<T> scratch(3, width);
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    const T* rotation = read(p.rotation, row, 0, p.dim, scratch[0]);
    for (int64_t i = 0; i < p.parts; ++i) {
      const T* grad = read(p.grad, row, i * p.part_stride, width, scratch[1]);
      T* out = target(p.grad_packed, row, i * width, scratch[2]);
      if (is_value(i, p.parts)) {
        std::copy_n(grad, width, out);
      } else {
        for (int64_t c = 0; c < width; c += p.dim) rotate(grad + c, rotation, p.dim, T(-1), out + c);
      }
      write(p.grad_packed, row, i * width, width, out);
    }
  }
}

static void rotary_qkv_cpu(const RotaryQkv& p, int64_t begin, int64_t end) {
  p.packed.dtype == DType::kFloat64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

static void rotary_qkv_backward_cpu(const RotaryQkvBackward& p, int64_t begin, int64_t end) {
  p.grad_packed.dtype == DType::kFloat64 ? backward<double>(p, begin, end) : backward<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
