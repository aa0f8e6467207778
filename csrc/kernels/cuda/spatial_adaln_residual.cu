// The formula and the bytes moved: ../spatial_adaln_residual.h. A block per row (norm.cuh); backward a block per
// kTokensPerPart rows where a gradient sums over them.
#include "../spatial_adaln_residual.h"

#include "token_sums.cuh"

namespace flowar {
namespace {

template <typename Path>
__global__ void __launch_bounds__(Path::kThreads)
    forward_kernel(const SpatialAdalnResidual p, const Path path, const Parts rows) {
  rows.for_each([&](const Row& row, int64_t, int64_t) {
    const auto x = path.read(p.x, row), gate = path.read(p.gate, row), branch = path.read(p.branch, row);
    const auto scale = path.read(p.scale, row), shift = path.read(p.shift, row);
    const auto sum = path.keep([=](int64_t channel) { return x(channel) + gate(channel) * branch(channel); });
    const Statistics s = statistics(path, sum, p.layer_norm, p.eps);
    path.for_each([&](int64_t channel) {
      const auto value = sum(channel);
      write(path, p.sum, row, channel, value);
      write(path, p.out, row, channel, modulated(normalized(value, s), scale(channel), shift(channel)));
    });
  });
}

template <typename Path>
__global__ void __launch_bounds__(Path::kThreads)
    backward_kernel(const SpatialAdalnResidualBackward p, const Path path, const Gradient grad_gate,
                    const Gradient grad_branch, const Gradient grad_scale, const Parts parts) {
  parts.for_each([&](const Row& part, int64_t begin, int64_t end) {
    GradientWriter<Path> to_gate(grad_gate, path, part), to_branch(grad_branch, path, part);
    GradientWriter<Path> to_scale(grad_scale, path, part);
    for (Row row{part.batch, begin}; row.token < end; ++row.token) {
      const auto grad_sum = path.read(p.grad_sum, row), grad_out = path.read(p.grad_out, row);
      const auto sum = path.read(p.sum, row), scale = path.read(p.scale, row);
      const auto gate = path.read(p.gate, row), branch = path.read(p.branch, row);
      const auto u = path.keep([=](int64_t channel) { return scaled(grad_out(channel), scale(channel)); });
      const Projection onto = projection(path, sum, u, p.layer_norm, p.eps);
      path.for_each([&](int64_t channel) {
        const auto norm = normalized(sum(channel), onto.statistics);
        const auto total = grad_sum(channel) + norm_gradient(u(channel), norm, onto);
        write(path, p.grad_x, row, channel, total);
        to_gate.write(row, channel, total * branch(channel));
        to_branch.write(row, channel, total * gate(channel));
        to_scale.write(row, channel, grad_out(channel) * norm);
      });
    }
    to_gate.finish();
    to_branch.finish();
    to_scale.finish();
  });
}

}  // namespace

cudaError_t spatial_adaln_residual_cuda(const SpatialAdalnResidual& p, int64_t rows, cudaStream_t stream) {
  if (rows * p.channels == 0) return cudaSuccess;
  const Parts parts = parts_of(rows / p.tokens, p.tokens);
  const auto run = [&](auto path, unsigned threads) {
    return launch(forward_kernel<decltype(path)>, parts.grid(), threads, stream, p, path, parts);
  };
  return choose_path(p.channels, run, p.x, p.gate, p.branch, p.scale, p.shift, p.sum, p.out);
}

cudaError_t spatial_adaln_residual_backward_cuda(const SpatialAdalnResidualBackward& p, int64_t rows,
                                                 cudaStream_t stream) {
  if (rows * p.channels == 0) return cudaSuccess;
  TokenSums sums{rows / p.tokens, p.tokens, p.channels, p.parts};
  const Gradient gate = sums.gradient(p.grad_gate), branch = sums.gradient(p.grad_branch);
  const Gradient scale = sums.gradient(p.grad_scale);
  const Parts parts = parts_of(sums.batch, p.tokens, gate, branch, scale);
  const auto run = [&](auto path, unsigned threads) {
    return launch(backward_kernel<decltype(path)>, parts.grid(), threads, stream, p, path, gate, branch, scale, parts);
  };
  const cudaError_t error = choose_path(p.channels, run, p.grad_sum, p.grad_out, p.sum, p.gate, p.branch, p.scale,
                                        p.grad_x, p.grad_gate, p.grad_branch, p.grad_scale);
  return error == cudaSuccess ? add_parts(sums, stream) : error;
}

}  // namespace flowar
