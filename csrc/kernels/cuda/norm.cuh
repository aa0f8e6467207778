// The norm of a row and its gradient, shared by spatial_adaln and spatial_adaln_residual. A block takes a row. Where
// rows allow it each thread holds one group of kVector channels of every operand in registers, so that a row of 1024
// channels keeps 128 threads and all of its loads in flight at once, and memory is read once (`Held`). Rows that are
// too long, or whose groups do not start on 16 bytes, are read element by element, again in every pass (`Streamed`).
#pragma once

#include <algorithm>

#include "../token_sums.h"
#include "reduce.cuh"

namespace flowar {

struct Row {
  int64_t batch, token;
};

template <int N, typename Value>
__device__ Vec<N> each(const Value& value) {
  Vec<N> result;
#pragma unroll
  for (int i = 0; i < N; ++i) result[i] = value(i);
  return result;
}

template <int N>
__device__ Vec<N> operator+(const Vec<N>& a, const Vec<N>& b) {
  return each<N>([&](int i) { return a[i] + b[i]; });
}

template <int N>
__device__ Vec<N> operator*(const Vec<N>& a, const Vec<N>& b) {
  return each<N>([&](int i) { return a[i] * b[i]; });
}

template <int N>
__device__ Vec<N> scaled(const Vec<N>& x, const Vec<N>& scale) {
  return each<N>([&](int i) { return x[i] * (1 + scale[i]); });
}

// kCommon: see vec.cuh. A group of 16 bits takes four registers and not eight.
template <DType kCommon>
struct Held {
  // At most kMaxThreads are launched; the higher bound makes ptxas keep to 96 registers, five blocks of 1024 channels.
  static constexpr int kThreads = kCommon != DType::kFloat32 ? 640 : kMaxThreads, kGroup = kVector;
  using Group = Vec<kVector>;

  struct Operand {
    Raw<kVector> raw;
    DType dtype;
    __device__ Group operator()(int64_t) const { return widen(raw, dtype); }
  };

  struct Value {
    Group group;
    __device__ Group operator()(int64_t) const { return group; }
  };

  // The sum of a gradient over the tokens of a block.
  class Total {
   public:
    __device__ void start(const Output&, int64_t) {}
    __device__ void add(const Output&, int64_t, const Group& group) { sum_ = sum_ + group; }
    __device__ void finish(const Output& out, int64_t offset) {
      flowar::store({out.data, 0, 0, DType::kFloat32}, offset, sum_);
    }

   private:
    Group sum_{};
  };

  int64_t channels;
  float share;  // of one channel in a mean

  // Calls body(channel) for the first channel of each of the thread's groups.
  template <typename Body>
  __device__ void for_each(const Body& body) const {
    const int64_t channel = int64_t{threadIdx.x} * kVector;
    if (channel < channels) body(channel);
  }

  __device__ Operand read(Input x, const Row& row) const {
    x = of_dtype<kCommon>(x);
    Operand operand{{}, x.dtype};
    for_each([&](int64_t channel) { operand.raw = load<kVector>(x, row_offset(x, row.batch, row.token) + channel); });
    return operand;
  }

  __device__ void store(const Output& out, int64_t offset, const Group& group) const {
    flowar::store(of_dtype<kCommon>(out), offset, group);
  }

  // A function of a channel, as one that may be called in every pass.
  template <typename Function>
  __device__ Value keep(const Function& function) const {
    Value value{};
    for_each([&](int64_t channel) { value.group = function(channel); });
    return value;
  }
};

struct Streamed {
  static constexpr int kThreads = 256, kGroup = 1;  // at 128 ptxas aims for so few registers that some are spilled
  using Group = Vec<1>;

  struct Operand {
    Input x;
    int64_t offset;
    __device__ Group operator()(int64_t channel) const { return widen(load<1>(x, offset + channel), x.dtype); }
  };

  // The same, in memory: only this thread uses the channel.
  class Total {
   public:
    __device__ void start(const Output& out, int64_t offset) { at(out, offset) = 0; }
    __device__ void add(const Output& out, int64_t offset, const Group& group) { at(out, offset) += group[0]; }
    __device__ void finish(const Output&, int64_t) {}

   private:
    __device__ static float& at(const Output& out, int64_t offset) { return static_cast<float*>(out.data)[offset]; }
  };

  int64_t channels;
  float share;  // of one channel in a mean

  template <typename Body>
  __device__ void for_each(const Body& body) const {
    for (int64_t channel = threadIdx.x; channel < channels; channel += blockDim.x) body(channel);
  }

  __device__ Operand read(const Input& x, const Row& row) const { return {x, row_offset(x, row.batch, row.token)}; }

  __device__ void store(const Output& out, int64_t offset, const Group& group) const {
    flowar::store(out, offset, group);
  }

  template <typename Function>
  __device__ Function keep(const Function& function) const {
    return function;
  }
};

template <typename Path>
__device__ void write(const Path& path, const Output& out, const Row& row, int64_t channel,
                      const typename Path::Group& group) {
  path.store(out, row_offset(out, row.batch, row.token) + channel, group);
}

// Sums over the channels of the row: term(sum, x[i]...) adds the values of a channel to K sums.
template <int K, typename Path, typename Term, typename... Values>
__device__ Sums<K> row_sums(const Path& path, const Term& term, const Values&... x) {
  Sums<K> sums{};
  const auto add = [&](const auto&... group) {
#pragma unroll
    for (int i = 0; i < Path::kGroup; ++i) term(sums.value, group[i]...);
  };
  path.for_each([&](int64_t channel) { add(x(channel)...); });
  block_sum(sums);
  return sums;
}

struct Statistics {
  float mean, rstd;
};

__device__ inline float reciprocal_deviation(float mean_square, double eps) {
  return rsqrtf(mean_square + static_cast<float>(eps));
}

// Of the row x(channel).
template <typename Path, typename X>
__device__ Statistics statistics(const Path& path, const X& x, bool layer_norm, double eps) {
  float mean = 0;
  if (layer_norm) {
    const Sums<1> sums = row_sums<1>(path, [](float* sum, float value) { sum[0] += value; }, x);
    mean = sums.value[0] * path.share;
  }
  const auto square = [=](float* sum, float value) { sum[0] += (value - mean) * (value - mean); };
  const Sums<1> squares = row_sums<1>(path, square, x);
  return {mean, reciprocal_deviation(squares.value[0] * path.share, eps)};
}

// What the gradient of the row x needs to know of all of it, with u the gradient of norm(x): the statistics, and the
// means of u and of u * norm(x). The norm is linear in rstd, so that one reduction serves both its own sum and u's.
struct Projection {
  Statistics statistics;
  float on_one, on_norm;
};

template <typename Path, typename X, typename U>
__device__ Projection projection(const Path& path, const X& x, const U& u, bool layer_norm, double eps) {
  float mean = 0, on_one = 0;
  if (layer_norm) {
    const auto add = [](float* sum, float value, float gradient) {
      sum[0] += value;
      sum[1] += gradient;
    };
    const Sums<2> sums = row_sums<2>(path, add, x, u);
    mean = sums.value[0] * path.share;
    on_one = sums.value[1] * path.share;
  }
  const auto multiply = [=](float* sum, float value, float gradient) {
    sum[0] += (value - mean) * (value - mean);
    sum[1] += (value - mean) * gradient;
  };
  const Sums<2> sums = row_sums<2>(path, multiply, x, u);
  const float rstd = reciprocal_deviation(sums.value[0] * path.share, eps);
  return {{mean, rstd}, on_one, rstd * sums.value[1] * path.share};
}

template <int N>
__device__ Vec<N> normalized(const Vec<N>& x, const Statistics& s) {
  return each<N>([&](int i) { return (x[i] - s.mean) * s.rstd; });
}

template <int N>
__device__ Vec<N> modulated(const Vec<N>& norm, const Vec<N>& scale, const Vec<N>& shift) {
  return each<N>([&](int i) { return norm[i] * (1 + scale[i]) + shift[i]; });
}

template <int N>
__device__ Vec<N> norm_gradient(const Vec<N>& u, const Vec<N>& norm, const Projection& p) {
  return each<N>([&](int i) { return p.statistics.rstd * (u[i] - p.on_one - norm[i] * p.on_norm); });
}

// A gradient as a backward kernel writes it: a row per token, or, where it is summed over tokens, a row per block.
struct Gradient {
  Output out;
  bool summed;
};

// Writes a gradient of modulation token by token, or sums it over the tokens of a part.
template <typename Path>
class GradientWriter {
 public:
  __device__ GradientWriter(const Gradient& gradient, const Path& path, const Row& part)
      : to_(gradient), path_(path), part_(part) {
    if (to_.summed) path_.for_each([&](int64_t channel) { total_.start(to_.out, offset(part_, channel)); });
  }

  __device__ void write(const Row& row, int64_t channel, const typename Path::Group& group) {
    if (to_.summed) {
      total_.add(to_.out, offset(part_, channel), group);
    } else {
      path_.store(to_.out, offset(row, channel), group);
    }
  }

  __device__ void finish() {
    if (to_.summed) path_.for_each([&](int64_t channel) { total_.finish(to_.out, offset(part_, channel)); });
  }

 private:
  __device__ int64_t offset(const Row& row, int64_t channel) const {
    return row_offset(to_.out, row.batch, row.token) + channel;
  }

  const Gradient& to_;
  const Path& path_;
  const Row& part_;
  typename Path::Total total_;
};

// The work of a launch: parts of `tokens_per_part` adjacent tokens of a batch entry, a part at a time a block. A grid
// of two dimensions, so that no block divides.
struct Parts {
  int64_t batch, tokens, tokens_per_part;

  int64_t per_entry() const { return (tokens + tokens_per_part - 1) / tokens_per_part; }
  dim3 grid() const {
    constexpr int64_t kMostX = 0x7fffffff, kMostY = 0xffff;
    return dim3(static_cast<unsigned>(std::min(per_entry(), kMostX)), static_cast<unsigned>(std::min(batch, kMostY)));
  }

  // Calls body(part, begin, end) for the parts of this block; `part` is a row of sums, [begin, end) are its tokens.
  template <typename Body>
  __device__ void for_each(const Body& body) const {
    for (Row part{blockIdx.y, 0}; part.batch < batch; part.batch += gridDim.y) {
      for (part.token = blockIdx.x; part.token * tokens_per_part < tokens; part.token += gridDim.x) {
        const int64_t begin = part.token * tokens_per_part, end = begin + tokens_per_part;
        body(part, begin, end < tokens ? end : tokens);
      }
    }
  }
};

// Whole parts where some gradient is a sum, single tokens otherwise.
template <typename... Gradients>
Parts parts_of(int64_t batch, int64_t tokens, const Gradients&... gradients) {
  return {batch, tokens, (gradients.summed || ... || false) ? kTokensPerPart : 1};
}

inline bool is_of(DType dtype, const Input& x) { return x.dtype == dtype; }
// Sums over tokens (token stride 0) are float32 beside any others.
inline bool is_of(DType dtype, const Output& x) { return x.dtype == dtype || x.token_stride == 0; }

// Calls launch(path, threads of a block) for the best way to read rows of these views.
template <typename Launch, typename... Views>
cudaError_t choose_path(int64_t channels, const Launch& launch, const Input& first, const Views&... others) {
  const float share = 1.0f / static_cast<float>(channels);
  if (channels > kVector * kMaxThreads || !vectorizable(channels, first, others...)) {
    return launch(Streamed{channels, share}, whole_warps(std::min<int64_t>(channels, Streamed::kThreads)));
  }
  const DType common = (is_of(first.dtype, others) && ...) ? first.dtype : DType::kFloat32;
  const unsigned threads = whole_warps(channels / kVector);
  return for_dtype(common, [&](auto dtype) { return launch(Held<dtype()>{channels, share}, threads); });
}

}  // namespace flowar
