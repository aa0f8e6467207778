#include "../velocity_step.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "velocity_step.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(velocity_step_cpu, VelocityStep)
#else

namespace flowar::FLOWAR_ISA {

template <typename T>
static void forward(const VelocityStep& p, int64_t begin, int64_t end) {
  T scratch[3][kChunk];
  const T dt = static_cast<T>(p.dt), weight = static_cast<T>(p.guidance_weight);
  for (Row row(begin, p.tokens); row.index < end; row.next()) {
    for (int64_t c = 0; c < p.channels; c += kChunk) {
      const int64_t count = std::min(kChunk, p.channels - c);
      T* state = target(p.state, row, c, scratch[0]);
      const T* v = read(p.conditional, row, c, count, scratch[1]);
      if (p.unconditional.data) {
        const T* u = read(p.unconditional, row, c, count, scratch[2]);
#  pragma omp simd
        for (int64_t i = 0; i < count; ++i) state[i] += dt * (u[i] + weight * (v[i] - u[i]));
      } else {
#  pragma omp simd
        for (int64_t i = 0; i < count; ++i) state[i] += dt * v[i];
      }
      for (int64_t i = 0; i < p.copies; ++i) copy(p.next[i], row, c, count, state);
    }
  }
}

static void velocity_step_cpu(const VelocityStep& p, int64_t begin, int64_t end) {
  p.state.dtype == DType::kFloat64 ? forward<double>(p, begin, end) : forward<float>(p, begin, end);
}

}  // namespace flowar::FLOWAR_ISA
#endif
