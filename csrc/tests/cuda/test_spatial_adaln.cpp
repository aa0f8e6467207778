#include "kernels/spatial_adaln.h"
#include "norm_case.h"

namespace flowar {
namespace {

void compare_forward(const NormCase& t) {
  const Buffer x = t.random(0), packed = t.packed(1);
  Buffer out = t.output(2), wanted = out;
  const auto params = [&](Buffer& to) {
    SpatialAdaln p{};
    t.set_sizes(p);
    p.x = t.input(x);
    p.scale = t.chunk(packed, 1);
    p.shift = t.chunk(packed, 2);
    p.out = t.view(to);
    return p;
  };
  spatial_adaln_cpu(params(wanted), 0, t.rows());
  expect_launched("spatial_adaln", spatial_adaln_cuda(params(out), t.rows(), nullptr));
  out.expect_all("spatial_adaln", wanted, 10);
}

void compare_backward(const NormCase& t) {
  const Buffer grad = t.random(0), x = t.random(1), packed = t.packed(2);
  Buffer grad_x = t.output(1), grad_scale = t.gradient(2), parts = t.parts(1);
  Buffer wanted_x = grad_x, wanted_scale = grad_scale;
  const auto params = [&](Buffer& to_x, Buffer& to_scale) {
    SpatialAdalnBackward p{};
    t.set_sizes(p);
    p.grad = t.input(grad);
    p.x = t.input(x);
    p.scale = t.chunk(packed, 1);
    p.grad_x = t.view(to_x);
    p.grad_scale = t.gradient_view(to_scale);
    p.parts = static_cast<float*>(parts.output(0, 0).data);
    return p;
  };
  spatial_adaln_backward_cpu(params(wanted_x, wanted_scale), 0, t.rows());
  expect_launched("spatial_adaln_backward", spatial_adaln_backward_cuda(params(grad_x, grad_scale), t.rows(), nullptr));
  grad_x.expect_all("spatial_adaln_backward x", wanted_x, 40);
  grad_scale.expect_all("spatial_adaln_backward scale", wanted_scale, 40);
  parts.expect_sentinels("spatial_adaln_backward parts");
}

const Test forward("spatial_adaln", for_each_norm_case<compare_forward>);
const Test backward("spatial_adaln_backward", for_each_norm_case<compare_backward>);
const Test sums("spatial_adaln_backward, sums", for_each_sum_case<compare_backward>);

const Test empty("spatial_adaln of nothing", [] {
  for (const int64_t rows : {0, 3}) {
    SpatialAdaln p{};
    SpatialAdalnBackward q{};
    p.tokens = q.tokens = rows;
    expect_launched("spatial_adaln", spatial_adaln_cuda(p, rows, nullptr));
    expect_launched("spatial_adaln_backward", spatial_adaln_backward_cuda(q, rows, nullptr));
  }
});

}  // namespace
}  // namespace flowar
