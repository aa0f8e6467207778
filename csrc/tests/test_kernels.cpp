// Checks every CPU kernel against its formula, written out in double, one element at a time. Outputs lie between
// sentinels at every misaligned offset. Usage: test_kernels [baseline|avx2|avx512]; 77 where the processor lacks it.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <functional>
#include <vector>

#include "buffer.h"
#include "kernels/checked_copy.h"
#include "kernels/counter_normal.h"
#include "kernels/cpu/isa.h"
#include "kernels/geglu.h"
#include "kernels/latent_pyramid.h"
#include "kernels/latent_resample.h"
#include "kernels/quantize_rows.h"
#include "kernels/rotary_qkv.h"
#include "kernels/silu_add.h"
#include "kernels/spatial_adaln.h"
#include "kernels/spatial_adaln_residual.h"
#include "kernels/token_sums.h"
#include "kernels/velocity_step.h"

using namespace flowar;

namespace {

constexpr double kEps = 1e-2;  // large, so that a row of one channel is not divided by nearly nothing

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double density(double x) { return std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI); }
double distribution(double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); }

constexpr int64_t kBatch = 2, kTokens = 3;

void test_silu_add(DType dtype, int64_t c, int64_t offset) {
  const int64_t n = kBatch * kTokens * c;
  const Buffer a = Buffer::random(dtype, n, offset, 1), b = Buffer::random(dtype, kBatch * c, offset, 2);
  const Buffer g = Buffer::random(dtype, n, offset, 3);
  Buffer out(dtype, n, offset), grad(dtype, n, offset);
  const Input av = a.input(kTokens * c, c), bv = b.input(c, 0);
  silu_add_cpu({kTokens, c, av, bv, out.output(kTokens * c, c)}, 0, kBatch * kTokens);
  silu_add_backward_cpu({kTokens, c, g.input(kTokens * c, c), av, bv, grad.output(kTokens * c, c)}, 0,
                        kBatch * kTokens);
  for (int64_t i = 0; i < n; ++i) {
    const double s = a.get(i) + b.get(i / (kTokens * c) * c + i % c), sigma = sigmoid(s);
    out.expect("silu_add", i, s * sigma);
    grad.expect("silu_add_backward", i, g.get(i) * sigma * (1 + s * (1 - sigma)));
  }
  out.expect_sentinels("silu_add");
  grad.expect_sentinels("silu_add_backward");
}

void test_geglu(DType dtype, int64_t h, int64_t offset) {
  const int64_t rows = kBatch * kTokens, n = rows * h;
  const Buffer packed = Buffer::random(dtype, 2 * n, offset, 1), g = Buffer::random(dtype, n, offset, 2);
  Buffer out(dtype, n, offset), grad(dtype, 2 * n, offset);
  const Input pv = packed.input(kTokens * 2 * h, 2 * h);
  geglu_cpu({kTokens, h, pv, out.output(kTokens * h, h)}, 0, rows);
  geglu_backward_cpu({kTokens, h, g.input(kTokens * h, h), pv, grad.output(kTokens * 2 * h, 2 * h)}, 0, rows);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t at = i / h * 2 * h + i % h;
    const double a = packed.get(at), b = packed.get(at + h);
    out.expect("geglu", i, a * distribution(a) * b);
    grad.expect("geglu_backward a", at, g.get(i) * b * (distribution(a) + a * density(a)));
    grad.expect("geglu_backward b", at + h, g.get(i) * a * distribution(a));
  }
  out.expect_sentinels("geglu");
  grad.expect_sentinels("geglu_backward");
}

struct Normed {
  std::vector<double> value;
  double rstd;
};

Normed normed(const std::function<double(int64_t)>& x, int64_t c, bool layer_norm) {
  double mean = 0, squares = 0;
  for (int64_t i = 0; layer_norm && i < c; ++i) mean += x(i) / c;
  for (int64_t i = 0; i < c; ++i) squares += (x(i) - mean) * (x(i) - mean) / c;
  Normed n{{}, 1 / std::sqrt(squares + kEps)};
  for (int64_t i = 0; i < c; ++i) n.value.push_back((x(i) - mean) * n.rstd);
  return n;
}

// The gradient of norm(x) * (1 + scale) with respect to x.
std::vector<double> norm_gradient(const Normed& n, const std::function<double(int64_t)>& grad,
                                  const std::function<double(int64_t)>& scale, bool layer_norm) {
  const int64_t c = static_cast<int64_t>(n.value.size());
  double on_one = 0, on_norm = 0;
  for (int64_t i = 0; i < c; ++i) {
    on_one += layer_norm ? grad(i) * (1 + scale(i)) / c : 0;
    on_norm += grad(i) * (1 + scale(i)) * n.value[i] / c;
  }
  std::vector<double> gradient;
  for (int64_t i = 0; i < c; ++i)
    gradient.push_back(n.rstd * (grad(i) * (1 + scale(i)) - on_one - n.value[i] * on_norm));
  return gradient;
}

// Modulation as chunks of one packed buffer (gate, scale, shift), or broadcast along the tokens.
void test_spatial_adaln(DType dtype, int64_t c, int64_t offset, bool layer_norm, bool broadcast) {
  const int64_t rows = kBatch * kTokens, n = rows * c, per_entry = broadcast ? 1 : kTokens;
  const Buffer x = Buffer::random(dtype, n, offset, 1), branch = Buffer::random(dtype, n, offset, 2);
  const Buffer modulation = Buffer::random(dtype, kBatch * per_entry * 3 * c, offset, 3);
  const Buffer g = Buffer::random(dtype, n, offset, 4), h = Buffer::random(dtype, n, offset, 5);
  const int64_t batch_stride = per_entry * 3 * c, token_stride = broadcast ? 0 : 3 * c;
  const auto part = [&](int64_t i) { return modulation.input(batch_stride, token_stride, i * c); };
  const auto value = [&](int64_t i, int64_t row, int64_t channel) {
    return modulation.get(row / kTokens * batch_stride + row % kTokens * token_stride + i * c + channel);
  };
  const auto view = [&](const Buffer& b) { return b.input(kTokens * c, c); };
  Buffer out(dtype, n, offset), sum(dtype, n, offset), out2(dtype, n, offset);
  spatial_adaln_cpu({kTokens, c, layer_norm, kEps, view(x), part(1), part(2), out.output(kTokens * c, c)}, 0, rows);
  spatial_adaln_residual_cpu({kTokens, c, layer_norm, kEps, view(x), part(0), view(branch), part(1), part(2),
                              sum.output(kTokens * c, c), out2.output(kTokens * c, c)},
                             0, rows);
  const DType wide = dtype == DType::kFloat64 ? dtype : DType::kFloat32;
  const DType modulation_dtype = broadcast ? wide : dtype;
  const int64_t m = kBatch * per_entry * c, m_token = broadcast ? 0 : c;
  Buffer grad_x(dtype, n, offset), grad_scale(modulation_dtype, m, offset);
  Buffer grad_x2(dtype, n, offset), grad_gate(modulation_dtype, m, offset), grad_branch(dtype, n, offset);
  Buffer grad_scale2(modulation_dtype, m, offset);
  spatial_adaln_backward_cpu({kTokens, c, layer_norm, kEps, view(g), view(x), part(1), grad_x.output(kTokens * c, c),
                              grad_scale.output(per_entry * c, m_token)},
                             0, rows);
  spatial_adaln_residual_backward_cpu(
      {kTokens, c, layer_norm, kEps, view(h), view(g), view(sum), part(0), view(branch), part(1),
       grad_x2.output(kTokens * c, c), grad_gate.output(per_entry * c, m_token), grad_branch.output(kTokens * c, c),
       grad_scale2.output(per_entry * c, m_token)},
      0, rows);

  std::vector<double> want_scale(m), want_scale2(m), want_gate(m);
  for (int64_t row = 0; row < rows; ++row) {
    const auto grad = [&](int64_t i) { return g.get(row * c + i); };
    const auto scale = [&](int64_t i) { return value(1, row, i); };
    const Normed plain = normed([&](int64_t i) { return x.get(row * c + i); }, c, layer_norm);
    const Normed exact = normed(
        [&](int64_t i) { return x.get(row * c + i) + value(0, row, i) * branch.get(row * c + i); }, c, layer_norm);
    const Normed saved = normed([&](int64_t i) { return sum.get(row * c + i); }, c, layer_norm);
    const std::vector<double> d = norm_gradient(plain, grad, scale, layer_norm);
    const std::vector<double> d2 = norm_gradient(saved, grad, scale, layer_norm);
    for (int64_t i = 0; i < c; ++i) {
      const int64_t at = row * c + i, per = (broadcast ? row / kTokens : row) * c + i;
      const double gate = value(0, row, i), total = h.get(at) + d2[i];
      out.expect("spatial_adaln", at, plain.value[i] * (1 + scale(i)) + value(2, row, i));
      sum.expect("spatial_adaln_residual sum", at, x.get(at) + gate * branch.get(at));
      out2.expect("spatial_adaln_residual", at, exact.value[i] * (1 + scale(i)) + value(2, row, i));
      const double size = 4 * std::max({1.0, plain.rstd, saved.rstd});
      grad_x.expect("spatial_adaln_backward x", at, d[i], size);
      grad_x2.expect("spatial_adaln_residual_backward x", at, total, size);
      grad_branch.expect("spatial_adaln_residual_backward branch", at, total * gate, size);
      want_scale[per] += grad(i) * plain.value[i];
      want_scale2[per] += grad(i) * saved.value[i];
      want_gate[per] += total * branch.get(at);
    }
  }
  for (int64_t i = 0; i < m; ++i) {
    grad_scale.expect("spatial_adaln_backward scale", i, want_scale[i], 4);
    grad_scale2.expect("spatial_adaln_residual_backward scale", i, want_scale2[i], 4);
    grad_gate.expect("spatial_adaln_residual_backward gate", i, want_gate[i], 50);
  }
  for (const Buffer* b : {&out, &sum, &out2, &grad_x, &grad_scale, &grad_x2, &grad_gate, &grad_branch, &grad_scale2})
    b->expect_sentinels("spatial_adaln");
}

void test_rotary_qkv(DType dtype, int64_t heads, int64_t dim, int64_t parts, int64_t offset) {
  const int64_t width = heads * dim, rows = kBatch * kTokens, n = rows * parts * width;
  const Buffer packed = Buffer::random(dtype, n, offset, 1);
  const Buffer rotation = Buffer::random(dtype == DType::kFloat64 ? dtype : DType::kFloat32, kTokens * dim, offset, 2);
  Buffer out(dtype, n, offset), back(dtype, n, offset);
  const int64_t part_stride = rows * width;
  RotaryQkv p{kTokens, heads, dim, parts, packed.input(kTokens * parts * width, parts * width), rotation.input(0, dim),
              {}};
  for (int64_t i = 0; i < parts; ++i) {
    Output view = out.output(kTokens * width, width);
    const int64_t size = dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
    view.data = static_cast<char*>(view.data) + i * part_stride * size;
    p.part[i] = {view, dim};
  }
  rotary_qkv_cpu(p, 0, rows);
  rotary_qkv_backward_cpu({kTokens, heads, dim, parts, part_stride, out.input(kTokens * width, width),
                           rotation.input(0, dim), back.output(kTokens * parts * width, parts * width)},
                          0, rows);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t part = i / part_stride, row = i % part_stride / width, channel = i % width;
    const bool value = parts > 1 && part == parts - 1;
    const int64_t in = (row * parts + part) * width + channel;
    const int64_t pair = row % kTokens * dim + channel % dim / 2 * 2;
    const double cosine = value ? 1 : rotation.get(pair), sine = value ? 0 : rotation.get(pair + 1);
    const double sign = channel % 2 ? 1 : -1;
    const int64_t other = channel % 2 ? -1 : 1;
    out.expect("rotary_qkv", i, packed.get(in) * cosine + sign * packed.get(in + other) * sine, 4);
    back.expect("rotary_qkv_backward", in, out.get(i) * cosine - sign * out.get(i + other) * sine, 16);
  }
  out.expect_sentinels("rotary_qkv");
  back.expect_sentinels("rotary_qkv_backward");
}

void test_latent(DType dtype, int64_t c, int64_t offset) {
  constexpr int64_t kHeight = 3, kWidth = 4, kOutHeight = 5, kOutWidth = 2;
  constexpr int64_t kPixels = kHeight * kWidth, kOut = kOutHeight * kOutWidth;
  const DType wide = dtype == DType::kFloat64 ? dtype : DType::kFloat32;
  const Buffer grid = Buffer::random(dtype, kBatch * kPixels * c, offset, 1);
  Buffer rows = Buffer::random(wide, kOutHeight * kHeight, offset, 2);
  const Buffer columns = Buffer::random(wide, kOutWidth * kWidth, offset, 3);
  rows.set(1, 0);
  const SeparableOperator apply{
      rows.input(0, 0).data, columns.input(0, 0).data, kHeight, kWidth, kOutHeight, kOutWidth};
  Buffer out(dtype, kBatch * kOut * c, offset), pyramid(dtype, kBatch * 2 * kOut * c, offset);
  latent_resample_cpu({c, apply, grid.input(kPixels * c, c), out.output(kOut * c, c)}, 0, kBatch);
  LatentPyramid p{c, kHeight, kWidth, 2, {apply, apply}, grid.input(kPixels * c, kPixels), {}};
  p.out = pyramid.output(2 * kOut * c, c);
  latent_pyramid_cpu(p, 0, kBatch);
  for (int64_t i = 0; i < kBatch * kOut * c; ++i) {
    const int64_t image = i / (kOut * c), token = i % (kOut * c) / c, channel = i % c;
    double last = 0, first = 0;  // the grid as channels last, and as channels first
    for (int64_t r = 0; r < kHeight; ++r) {
      for (int64_t q = 0; q < kWidth; ++q) {
        const double weight = rows.get(token / kOutWidth * kHeight + r) * columns.get(token % kOutWidth * kWidth + q);
        last += weight * grid.get((image * kPixels + r * kWidth + q) * c + channel);
        first += weight * grid.get((image * c + channel) * kPixels + r * kWidth + q);
      }
    }
    out.expect("latent_resample", i, last, 8);
    for (int64_t level = 0; level < 2; ++level)
      pyramid.expect("latent_pyramid", ((image * 2 + level) * kOut + token) * c + channel, first, 8);
  }
  out.expect_sentinels("latent_resample");
  pyramid.expect_sentinels("latent_pyramid");
}

void test_velocity_step(DType dtype, int64_t c, int64_t offset, bool guided) {
  const int64_t half = kBatch * kTokens * c;
  const DType wide = dtype == DType::kFloat64 ? dtype : DType::kFloat32;
  Buffer state = Buffer::random(wide, half, offset, 1, Buffer::kSentinels), next(dtype, 2 * half, offset);
  const Buffer before = state, v = Buffer::random(dtype, 2 * half, offset, 2);
  VelocityStep p{kTokens, c, -0.25, 2.5, state.output(kTokens * c, c), v.input(kTokens * c, c), {}, 2, {}};
  if (guided) p.unconditional = v.input(kTokens * c, c, half);
  p.next[0] = p.next[1] = next.output(kTokens * c, c);
  p.next[1].data = const_cast<void*>(next.input(0, 0, half).data);
  velocity_step_cpu(p, 0, kBatch * kTokens);
  for (int64_t i = 0; i < half; ++i) {
    const double u = v.get(i + half), velocity = guided ? u + 2.5 * (v.get(i) - u) : v.get(i);
    state.expect("velocity_step", i, before.get(i) - 0.25 * velocity, 4);
    next.expect("velocity_step next", i, state.get(i));
    next.expect("velocity_step next", i + half, state.get(i));
  }
  state.expect_sentinels("velocity_step");
  next.expect_sentinels("velocity_step next");
}

double e4m3_value(uint8_t bits) {
  const int exponent = bits >> 3 & 0xf, mantissa = bits & 7;
  const double magnitude = exponent ? std::ldexp(8 + mantissa, exponent - 10) : std::ldexp(mantissa, -9);
  return bits & 0x80 ? -magnitude : magnitude;
}

void test_quantize_rows(DType dtype, int64_t c, int64_t offset) {
  constexpr uint8_t kSentinel = 0x5a;
  const int64_t rows = kBatch * kTokens, n = rows * c;
  const Buffer x = Buffer::random(dtype, n, offset, 1);
  std::vector<uint8_t> values(n + offset + 40, kSentinel);
  std::vector<float> scale(rows);
  quantize_rows_cpu({kTokens, c, x.input(kTokens * c, c), values.data() + offset, scale.data()}, 0, rows);
  for (int64_t row = 0; row < rows; ++row) {
    double largest = 0;
    for (int64_t i = 0; i < c; ++i) largest = std::max(largest, std::fabs(x.get(row * c + i)));
    for (int64_t i = 0; i < c; ++i) {
      const double wanted = x.get(row * c + i), got = e4m3_value(values[offset + row * c + i]) * scale[row];
      const double half_step = std::max(std::fabs(wanted) / 16, largest / 448 / 1024);
      if (std::fabs(got - wanted) <= half_step * (1 + 1e-6)) continue;
      if (++failures < 20) std::printf("quantize_rows [%lld]: expected %.9g, got %.9g\n", (long long)i, wanted, got);
    }
  }
  const auto intact = [](uint8_t byte) { return byte == kSentinel; };
  if (!std::all_of(values.begin(), values.begin() + offset, intact) ||
      !std::all_of(values.begin() + offset + n, values.end(), intact)) {
    ++failures, std::printf("quantize_rows: wrote outside of its output\n");
  }
}

// A run and a part of one; sums of words in another order, and every word where a sum would not tell its place.
void test_checked_copy(DType from, DType to, int64_t offset, bool finite) {
  const int64_t bytes = from == DType::kFloat64 ? 8 : from == DType::kFloat32 ? 4 : 2, run = kRunBytes / bytes;
  const int64_t n = run + 7, words = (7 * bytes + kWordBytes - 1) / kWordBytes;
  Buffer source = Buffer::random(from, n, offset, 1), out(to, n, offset);
  if (!finite) source.set(n - 2, from == DType::kFloat16 ? 65536 : INFINITY);  // 2^16 has the exponent of no half
  const Input view = source.input(0, run);
  std::vector<uint64_t> sums(2 + words, 0x5a), expected(1 + words, 0);
  std::vector<uint64_t> copy((n * bytes + kWordBytes - 1) / kWordBytes, 0);
  std::memcpy(copy.data(), view.data, n * bytes);
  for (int64_t i = kRunWords; i-- > 0;) expected[0] += copy[i];
  std::copy(copy.begin() + kRunWords, copy.end(), expected.begin() + 1);
  std::atomic<bool> broken = false;
  checked_copy_cpu({n, bytes, view, out.output(0, run), sums.data(), &broken}, 0, 2);
  for (int64_t i = 0; i < n - 2; ++i) out.expect("checked_copy", i, source.get(i));
  out.expect_sentinels("checked_copy");
  if (broken == finite || sums.back() != 0x5a || !std::equal(expected.begin(), expected.end(), sums.begin())) {
    ++failures, std::printf("checked_copy: wrong sums\n");
  }
}

// Known answer of Philox4x32-10 for counter and key 0 (Random123's kat_vectors): 6627e8d5 e169c58d bc57ac4c 9b00dbd8.
void test_counter_normal(int64_t count, int64_t offset) {
  const int64_t seeds[2] = {0, -5};
  Buffer out(DType::kFloat32, 2 * count, offset);
  counter_normal_cpu({count, 0, seeds, static_cast<float*>(out.output(0, 0).data)}, 0,
                     2 * ((count + kNormalsPerPiece - 1) / kNormalsPerPiece));
  const uint32_t words[4] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
  for (int64_t i = 0; i < std::min<int64_t>(count, 4); ++i) {
    const double radius = std::sqrt(-2 * std::log((words[i / 2 * 2] + 0.5) / 4294967296.0));
    const double angle = 2 * M_PI * ((words[i / 2 * 2 + 1] + 0.5) / 4294967296.0);
    out.expect("counter_normal", i, radius * (i % 2 ? std::sin(angle) : std::cos(angle)), 0.1);
  }
  double squares = 0;
  for (int64_t i = 0; i < 2 * count; ++i) squares += out.get(i) * out.get(i) / static_cast<double>(2 * count);
  if (count > 1000 && std::fabs(squares - 1) > 0.15) ++failures, std::printf("counter_normal: variance %g\n", squares);
  out.expect_sentinels("counter_normal");
}

void test_token_parts() {
  for (const int64_t tokens : {0, 1, 15, 16, 17, 31, 32, 33, 256, 341}) {
    const int64_t room = token_parts(tokens) * kTokensPerPart;
    if (room >= tokens && room - kTokensPerPart < tokens) continue;
    ++failures, std::printf("token_parts: %lld for %lld tokens\n", (long long)token_parts(tokens), (long long)tokens);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && !select_isa(argv[1])) {
    std::printf("this processor lacks %s: skipped\n", argv[1]);
    return 77;
  }
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t c : {1, 2, 7, 15, 16, 17, 67, 1025}) {
      for (const int64_t offset : {0, 1, 3, 17}) {
        test_silu_add(dtype, c, offset);
        test_geglu(dtype, c, offset);
        test_quantize_rows(dtype, c, offset);
        for (const bool layer_norm : {false, true}) {
          for (const bool broadcast : {false, true}) test_spatial_adaln(dtype, c, offset, layer_norm, broadcast);
        }
        for (const bool guided : {false, true}) test_velocity_step(dtype, c, offset, guided);
        if (c < 100) test_latent(dtype, c, offset);
      }
    }
    for (const DType to : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
      for (const int64_t offset : {0, 1, 3}) {
        for (const bool finite : {false, true}) test_checked_copy(dtype, to, offset, finite);
      }
    }
    for (const int64_t dim : {2, 6, 8, 16, 34, 64}) {
      for (const int64_t parts : {1, 2, 3}) test_rotary_qkv(dtype, 3, dim, parts, dim % 5);
    }
  }
  for (const int64_t count : {1, 2, 3, 4, 5, 1023, 1024, 1025, 5000}) test_counter_normal(count, count % 3);
  test_token_parts();
  std::printf("%s: %s\n", isa_name(current_isa()), failures ? "FAILED" : "ok");
  return failures != 0;
}
