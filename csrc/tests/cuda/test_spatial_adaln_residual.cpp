#include "kernels/spatial_adaln_residual.h"
#include "norm_case.h"

namespace flowar {
namespace {

void compare_forward(const NormCase& t) {
  const Buffer x = t.random(0), branch = t.random(1), packed = t.packed(2);
  Buffer sum = t.output(0), out = t.output(1), wanted_sum = sum, wanted = out;
  const auto params = [&](Buffer& to_sum, Buffer& to_out) {
    SpatialAdalnResidual p{};
    t.set_sizes(p);
    p.x = t.input(x);
    p.gate = t.chunk(packed, 0);
    p.branch = t.input(branch);
    p.scale = t.chunk(packed, 1);
    p.shift = t.chunk(packed, 2);
    p.sum = t.view(to_sum);
    p.out = t.view(to_out);
    return p;
  };
  spatial_adaln_residual_cpu(params(wanted_sum, wanted), 0, t.rows());
  expect_launched("spatial_adaln_residual", spatial_adaln_residual_cuda(params(sum, out), t.rows(), nullptr));
  sum.expect_all("spatial_adaln_residual sum", wanted_sum, 4);
  out.expect_all("spatial_adaln_residual", wanted, 10);
}

struct Gradients {
  Buffer x, gate, branch, scale;
};

void compare_backward(const NormCase& t) {
  const Buffer grad_sum = t.random(0), grad_out = t.random(1), sum = t.random(2), branch = t.random(3);
  const Buffer packed = t.packed(1);
  Gradients got{t.output(2), t.gradient(1), t.output(0), t.gradient(1)}, wanted = got;
  Buffer parts = t.parts(2);
  const auto params = [&](Gradients& to) {
    SpatialAdalnResidualBackward p{};
    t.set_sizes(p);
    p.grad_sum = t.input(grad_sum);
    p.grad_out = t.input(grad_out);
    p.sum = t.input(sum);
    p.gate = t.chunk(packed, 0);
    p.branch = t.input(branch);
    p.scale = t.chunk(packed, 1);
    p.grad_x = t.view(to.x);
    p.grad_gate = t.gradient_view(to.gate);
    p.grad_branch = t.view(to.branch);
    p.grad_scale = t.gradient_view(to.scale);
    p.parts = static_cast<float*>(parts.output(0, 0).data);
    return p;
  };
  spatial_adaln_residual_backward_cpu(params(wanted), 0, t.rows());
  expect_launched("spatial_adaln_residual_backward",
                  spatial_adaln_residual_backward_cuda(params(got), t.rows(), nullptr));
  got.x.expect_all("spatial_adaln_residual_backward x", wanted.x, 40);
  got.gate.expect_all("spatial_adaln_residual_backward gate", wanted.gate, 200);
  got.branch.expect_all("spatial_adaln_residual_backward branch", wanted.branch, 40);
  got.scale.expect_all("spatial_adaln_residual_backward scale", wanted.scale, 40);
  parts.expect_sentinels("spatial_adaln_residual_backward parts");
}

const Test forward("spatial_adaln_residual", for_each_norm_case<compare_forward>);
const Test backward("spatial_adaln_residual_backward", for_each_norm_case<compare_backward>);
const Test sums("spatial_adaln_residual_backward, sums", for_each_sum_case<compare_backward>);

const Test empty("spatial_adaln_residual of nothing", [] {
  for (const int64_t rows : {0, 3}) {
    SpatialAdalnResidual p{};
    SpatialAdalnResidualBackward q{};
    p.tokens = q.tokens = rows;
    expect_launched("spatial_adaln_residual", spatial_adaln_residual_cuda(p, rows, nullptr));
    expect_launched("spatial_adaln_residual_backward", spatial_adaln_residual_backward_cuda(q, rows, nullptr));
  }
});

}  // namespace
}  // namespace flowar
