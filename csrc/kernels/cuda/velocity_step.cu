// The formula and the bytes moved: ../velocity_step.h. One thread per group of N channels of a row.
#include "../velocity_step.h"
#include "elementwise.cuh"

namespace flowar {
namespace {

template <int N>
struct Step {
  VelocityStep p;
  float dt, weight;

  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const bool guided = p.unconditional.data != nullptr;
    const int64_t at = row_offset(p.state, batch, token) + channel;
    const Raw<N> raw_state = load<N>({p.state.data, 0, 0, p.state.dtype}, at);
    const Raw<N> raw_v = load<N>(p.conditional, row_offset(p.conditional, batch, token) + channel);
    Raw<N> raw_u = raw_v;
    if (guided) raw_u = load<N>(p.unconditional, row_offset(p.unconditional, batch, token) + channel);
    Vec<N> state = widen(raw_state, p.state.dtype);
    const Vec<N> v = widen(raw_v, p.conditional.dtype);
    const Vec<N> u = widen(raw_u, guided ? p.unconditional.dtype : p.conditional.dtype);
#pragma unroll
    for (int i = 0; i < N; ++i) state[i] += dt * (guided ? u[i] + weight * (v[i] - u[i]) : v[i]);
    store(p.state, at, state);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i < p.copies) store(p.next[i], row_offset(p.next[i], batch, token) + channel, state);
    }
  }
};

template <int N>
cudaError_t step(const VelocityStep& p, int64_t rows, cudaStream_t stream) {
  const Step<N> body{p, static_cast<float>(p.dt), static_cast<float>(p.guidance_weight)};
  return for_each_group<N>(body, rows, p.tokens, p.channels, stream);
}

}  // namespace

// Views that are not there are null, and count as aligned.
cudaError_t velocity_step_cuda(const VelocityStep& p, int64_t rows, cudaStream_t stream) {
  return vectorizable(p.channels, p.state, p.conditional, p.unconditional, p.next[0], p.next[1])
             ? step<kVector>(p, rows, stream)
             : step<1>(p, rows, stream);
}

}  // namespace flowar
