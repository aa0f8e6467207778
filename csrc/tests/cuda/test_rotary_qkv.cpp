#include "harness.h"
#include "kernels/rotary_qkv.h"

namespace flowar {
namespace {

constexpr int64_t kHeads = 3;

struct Case {
  explicit Case(const Sample& sample, int64_t parts)
      : sample(sample),
        dim(2 * sample.channels),
        width(kHeads * dim),
        parts(parts),
        packed(Buffer::random(sample.dtype(0), kRows * parts * width, sample.offset, 1)),
        rotation(Buffer::random(DType::kFloat32, kTokens * dim, sample.offset % 2, 2)) {}

  // Without the places of the parts.
  RotaryQkv parameters() const {
    return {kTokens, kHeads, dim, parts, packed.input(kTokens * parts * width, parts * width), rotation.input(0, dim),
            {}};
  }

  Sample sample;
  int64_t dim, width, parts;
  Buffer packed, rotation;
};

void compare_parts(const Case& c) {
  const auto forward = [&](std::vector<Buffer>& out) {
    RotaryQkv p = c.parameters();
    for (int64_t i = 0; i < c.parts; ++i) p.part[i] = {out[i].output(kTokens * c.width, c.width), c.dim};
    return p;
  };
  std::vector<Buffer> out(c.parts, Buffer(c.sample.dtype(1), kRows * c.width, c.sample.offset)), wanted = out;
  rotary_qkv_cpu(forward(wanted), 0, kRows);
  expect_launched("rotary_qkv", rotary_qkv_cuda(forward(out), kRows, nullptr));
  for (int64_t i = 0; i < c.parts; ++i) out[i].expect_all("rotary_qkv", wanted[i], 4);
}

void compare_backward(const Case& c, int64_t pad) {
  const int64_t part_stride = kRows * c.width + pad;
  const Buffer grad = Buffer::random(c.sample.dtype(0), c.parts * part_stride, c.sample.offset, 3);
  const auto backward = [&](Buffer& out) {
    return RotaryQkvBackward{kTokens,
                             kHeads,
                             c.dim,
                             c.parts,
                             part_stride,
                             grad.input(kTokens * c.width, c.width),
                             c.rotation.input(0, c.dim),
                             out.output(kTokens * c.parts * c.width, c.parts * c.width)};
  };
  Buffer out(c.sample.dtype(1), kRows * c.parts * c.width, c.sample.offset), wanted = out;
  rotary_qkv_backward_cpu(backward(wanted), 0, kRows);
  expect_launched("rotary_qkv_backward", rotary_qkv_backward_cuda(backward(out), kRows, nullptr));
  out.expect_all("rotary_qkv_backward", wanted, 4);
}

// k and v into the middle of caches of another dtype: [batch, tokens, heads, dim], or [batch, heads, tokens, dim] with
// `pad` elements between heads.
void compare_cache(const Case& c, bool heads_first, int64_t pad) {
  constexpr int64_t kCached = kTokens + 4, kFirst = 2, kGrid = 8;
  const int64_t token_stride = heads_first ? c.dim : c.width, head_stride = heads_first ? kCached * c.dim + pad : c.dim;
  const int64_t batch_stride = kCached * c.width + kGrid * kHeads;
  const auto forward = [&](std::vector<Buffer>& out) {
    RotaryQkv p = c.parameters();
    p.part[0] = {out[0].output(kTokens * c.width, c.width), c.dim};
    for (int i = 1; i < 3; ++i) {
      p.part[i] = {out[i].output(batch_stride, token_stride, kFirst * token_stride), head_stride};
    }
    return p;
  };
  std::vector<Buffer> out{Buffer(c.sample.dtype(0), kRows * c.width, c.sample.offset)};
  for (int i = 1; i < 3; ++i) out.emplace_back(c.sample.dtype(i), kBatch * batch_stride, c.sample.offset);
  std::vector<Buffer> wanted = out;
  rotary_qkv_cpu(forward(wanted), 0, kRows);
  expect_launched("rotary_qkv_cache", rotary_qkv_cuda(forward(out), kRows, nullptr));
  for (int i = 0; i < 3; ++i) out[i].expect_all("rotary_qkv_cache", wanted[i], 4);
}

void compare(const Sample& sample) {
  if (sample.channels > 100) return;  // of one head
  compare_parts(Case(sample, 1 + sample.mixture % 3));
  for (const int64_t pad : {0, 1}) {
    compare_backward(Case(sample, 1 + sample.mixture % 3), pad);
    compare_cache(Case(sample, 3), true, pad);
  }
  compare_cache(Case(sample, 3), false, 0);
}

const Test test("rotary_qkv", [] { for_each_sample(compare); });

const Test empty("rotary_qkv of nothing", [] {
  expect_launched("rotary_qkv", rotary_qkv_cuda({}, 0, nullptr));
  expect_launched("rotary_qkv_backward", rotary_qkv_backward_cuda({}, 0, nullptr));
});

}  // namespace
}  // namespace flowar
