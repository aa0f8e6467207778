// The formula and the bytes moved: ../spatial_adaln.h. A block per row (norm.cuh); backward a block per kTokensPerPart
// rows where grad_scale sums over them.
#include "../spatial_adaln.h"

#include "token_sums.cuh"

namespace flowar {
namespace {

template <typename Path>
__global__ void __launch_bounds__(Path::kThreads)
    forward_kernel(const SpatialAdaln p, const Path path, const Parts rows) {
  rows.for_each([&](const Row& row, int64_t, int64_t) {
    const auto x = path.read(p.x, row), scale = path.read(p.scale, row), shift = path.read(p.shift, row);
    const Statistics s = statistics(path, x, p.layer_norm, p.eps);
    path.for_each([&](int64_t channel) {
      write(path, p.out, row, channel, modulated(normalized(x(channel), s), scale(channel), shift(channel)));
    });
  });
}

template <typename Path>
__global__ void __launch_bounds__(Path::kThreads)
    backward_kernel(const SpatialAdalnBackward p, const Path path, const Gradient grad_scale, const Parts parts) {
  parts.for_each([&](const Row& part, int64_t begin, int64_t end) {
    GradientWriter<Path> to_scale(grad_scale, path, part);
    for (Row row{part.batch, begin}; row.token < end; ++row.token) {
      const auto grad = path.read(p.grad, row), x = path.read(p.x, row), scale = path.read(p.scale, row);
      const auto u = path.keep([=](int64_t channel) { return scaled(grad(channel), scale(channel)); });
      const Projection onto = projection(path, x, u, p.layer_norm, p.eps);
      path.for_each([&](int64_t channel) {
        const auto norm = normalized(x(channel), onto.statistics);
        write(path, p.grad_x, row, channel, norm_gradient(u(channel), norm, onto));
        to_scale.write(row, channel, grad(channel) * norm);
      });
    }
    to_scale.finish();
  });
}

}  // namespace

cudaError_t spatial_adaln_cuda(const SpatialAdaln& p, int64_t rows, cudaStream_t stream) {
  if (rows * p.channels == 0) return cudaSuccess;
  const Parts parts = parts_of(rows / p.tokens, p.tokens);
  const auto run = [&](auto path, unsigned threads) {
    return launch(forward_kernel<decltype(path)>, parts.grid(), threads, stream, p, path, parts);
  };
  return choose_path(p.channels, run, p.x, p.scale, p.shift, p.out);
}

cudaError_t spatial_adaln_backward_cuda(const SpatialAdalnBackward& p, int64_t rows, cudaStream_t stream) {
  if (rows * p.channels == 0) return cudaSuccess;
  TokenSums sums{rows / p.tokens, p.tokens, p.channels, p.parts};
  const Gradient grad_scale = sums.gradient(p.grad_scale);
  const Parts parts = parts_of(sums.batch, p.tokens, grad_scale);
  const auto run = [&](auto path, unsigned threads) {
    return launch(backward_kernel<decltype(path)>, parts.grid(), threads, stream, p, path, grad_scale, parts);
  };
  const cudaError_t error = choose_path(p.channels, run, p.grad, p.x, p.scale, p.grad_x, p.grad_scale);
  return error == cudaSuccess ? add_parts(sums, stream) : error;
}

}  // namespace flowar
