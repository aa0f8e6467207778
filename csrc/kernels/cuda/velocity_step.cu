// The formula and the bytes moved: ../velocity_step.h. One thread per group of N channels of a row.
#include "../velocity_step.h"
#include "elementwise.cuh"

namespace flowar {
namespace {

// kCommon is the dtype of velocities and copies; the state is float32.
template <int N, DType kCommon>
struct Step {
  VelocityStep p;
  float dt, weight;

  explicit Step(const VelocityStep& p)
      : p(p), dt(static_cast<float>(p.dt)), weight(static_cast<float>(p.guidance_weight)) {}

  __device__ void operator()(int64_t batch, int64_t token, int64_t channel) const {
    const bool guided = p.unconditional.data != nullptr;
    const Input conditional = of_dtype<kCommon>(p.conditional), unconditional = of_dtype<kCommon>(p.unconditional);
    const int64_t at = row_offset(p.state, batch, token) + channel;
    const Raw<N> raw_state = load<N>({p.state.data, 0, 0, DType::kFloat32}, at);
    const Raw<N> raw_v = load<N>(conditional, row_offset(conditional, batch, token) + channel);
    Raw<N> raw_u = raw_v;
    if (guided) raw_u = load<N>(unconditional, row_offset(unconditional, batch, token) + channel);
    Vec<N> state = widen(raw_state, DType::kFloat32);
    const Vec<N> v = widen(raw_v, conditional.dtype);
    const Vec<N> u = widen(raw_u, guided ? unconditional.dtype : conditional.dtype);
#pragma unroll
    for (int i = 0; i < N; ++i) state[i] += dt * (guided ? u[i] + weight * (v[i] - u[i]) : v[i]);
    store({p.state.data, 0, 0, DType::kFloat32}, at, state);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i < p.copies) store(of_dtype<kCommon>(p.next[i]), row_offset(p.next[i], batch, token) + channel, state);
    }
  }
};

}  // namespace

// Views that are not there are null, and count as aligned.
cudaError_t velocity_step_cuda(const VelocityStep& p, int64_t rows, cudaStream_t stream) {
  const bool vectors = vectorizable(p.channels, p.state, p.conditional, p.unconditional, p.next[0], p.next[1]);
  const DType common = common_dtype(p.conditional, p.unconditional, p.next[0], p.next[1]);
  return for_each_group<Step>(p, vectors, common, rows, p.channels, stream);
}

}  // namespace flowar
