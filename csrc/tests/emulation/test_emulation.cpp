// The emulation itself: `test_emulation` for what it must run, `test_emulation MISUSE` for what it must not let pass.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "kernels/cuda/launch.cuh"

namespace {

using flowar::launch;

constexpr int kThreads = 96;
constexpr unsigned kWarp = 0xffffffffu;

// The sum of one block's values, by shuffles within warps and shared memory between them.
__global__ void sum_kernel(const float* values, float* sums) {
  __shared__ float of_warp[kThreads / 32];
  float sum = values[blockIdx.x * blockDim.x + threadIdx.x];
  for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(kWarp, sum, lanes);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  sums[blockIdx.x] = of_warp[0] + of_warp[1] + of_warp[2];
}

__global__ void shuffle_kernel(int* down, int* broadcast) {
  const int lane = static_cast<int>(threadIdx.x);
  down[lane] = __shfl_down_sync(kWarp, lane, 3, 8);
  broadcast[lane] = __shfl_sync(kWarp, lane, 5, 16);
}

__global__ void racy_kernel(float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x] = 1.0f;
  out[threadIdx.x] = values[(threadIdx.x + 40) % kThreads];  // of another warp, and no barrier between
}

__global__ void shared_overrun_kernel(float* out) {
  __shared__ float values[kThreads];
  values[threadIdx.x + 1] = 1.0f;
  out[threadIdx.x] = values[threadIdx.x];
}

__global__ void overrun_kernel(float* out) { out[threadIdx.x + 1] = 1.0f; }

__global__ void misaligned_kernel(float* out) { *reinterpret_cast<uint4*>(out + 1) = make_uint4(1, 2, 3, 4); }

__global__ void divergent_shuffle_kernel(float* out) {
  if (threadIdx.x % 2 == 0) out[threadIdx.x] = __shfl_xor_sync(kWarp, 1.0f, 2);
}

__global__ void missed_barrier_kernel(float*) {
  if (threadIdx.x < 32) return;
  __syncthreads();
}

bool expect(bool condition, const char* what) {
  if (!condition) std::printf("wrong: %s\n", what);
  return condition;
}

bool sums_blocks() {
  constexpr int kBlocks = 5;
  std::vector<float> values(kBlocks * kThreads), sums(kBlocks);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  bool right =
      expect(launch(sum_kernel, kBlocks, kThreads, nullptr, values.data(), sums.data()) == cudaSuccess, "launch");
  for (int i = 0; i < kBlocks; ++i) {
    const int first = i * kThreads, last = first + kThreads - 1;
    right &= expect(sums[i] == static_cast<float>((first + last) * kThreads / 2), "sum of a block");
  }
  return right;
}

bool shuffles() {
  int down[32], broadcast[32];
  launch(shuffle_kernel, 1, 32, nullptr, down, broadcast);
  bool right = true;
  for (int lane = 0; lane < 32; ++lane) {
    right &= expect(down[lane] == (lane % 8 < 5 ? lane + 3 : lane), "shuffle down");
    right &= expect(broadcast[lane] == lane / 16 * 16 + 5, "shuffle from a lane");
  }
  return right;
}

bool refuses_shapes() {
  float out[1];
  bool right = true;
  for (const auto& [blocks, threads] : {std::pair{dim3(0), dim3(32)},
                                        {dim3(1), dim3(0)},
                                        {dim3(1), dim3(1025)},
                                        {dim3(1, 65536), dim3(32)},
                                        {dim3(1), dim3(1, 1, 65)}}) {
    right &= expect(launch(overrun_kernel, blocks, threads, nullptr, out) == cudaErrorInvalidConfiguration, "refusal");
  }
  return right;
}

// Every finite half survives; between two of them the nearer one is taken, and the even one of two as near.
bool rounds_halves() {
  const auto value = [](uint16_t bits) { return emulation::float16_value(bits); };
  bool right =
      expect(emulation::float16_bits(65519.0f) == 0x7bff && emulation::float16_bits(65520.0f) == 0x7c00, "inf");
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = value(bits), high = value(bits + 1), middle = low + (high - low) / 2;
    right &= emulation::float16_bits(low) == bits && emulation::float16_bits(-high) == (0x8000 | (bits + 1));
    right &= emulation::float16_bits(middle) == bits + bits % 2;
    right &= emulation::float16_bits(std::nextafter(middle, high)) == bits + 1;
  }
  return expect(right, "rounding to float16");
}

bool rounds_bfloat16() {
  bool right = true;
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const uint32_t word = bits << 16;
    right &= emulation::bfloat16_bits(std::bit_cast<float>(word | 0x8000u)) == bits + bits % 2;
    right &= emulation::bfloat16_bits(std::bit_cast<float>(word | 0x7fffu)) == bits;
    right &= emulation::bfloat16_bits(std::bit_cast<float>(word | 0x8001u)) == bits + 1;
  }
  return expect(right, "rounding to bfloat16");
}

bool rounds_e4m3() {
  const auto value = [](int bits) {
    const int exponent = bits >> 3, mantissa = bits & 7;
    return exponent ? std::ldexp(8.0f + mantissa, exponent - 10) : std::ldexp(float(mantissa), -9);
  };
  bool right = emulation::e4m3_bits(1e9f) == 0x7e && emulation::e4m3_bits(-NAN) == 0xff;
  for (int bits = 0; bits < 0x7e; ++bits) {
    const float low = value(bits), high = value(bits + 1), middle = (low + high) / 2;
    right &= emulation::e4m3_bits(low) == bits && emulation::e4m3_bits(-high) == (0x80 | (bits + 1));
    right &= emulation::e4m3_bits(middle) == bits + bits % 2;
    right &= emulation::e4m3_bits(std::nextafter(middle, high)) == bits + 1;
  }
  return expect(right, "rounding to float8_e4m3fn");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 1) {
    const bool results[] = {sums_blocks(),   shuffles(),        refuses_shapes(),
                            rounds_halves(), rounds_bfloat16(), rounds_e4m3()};
    return std::count(std::begin(results), std::end(results), false) != 0;
  }
  const std::map<std::string, void (*)(float*)> misuses{
      {"race", racy_kernel},
      {"shared_overrun", shared_overrun_kernel},
      {"overrun", overrun_kernel},
      {"misalignment", misaligned_kernel},
      {"divergent_shuffle", divergent_shuffle_kernel},
      {"missed_barrier", missed_barrier_kernel},
  };
  emulation::patience = std::chrono::seconds(2);
  std::vector<float> out(kThreads);
  launch(misuses.at(argv[1]), 1, kThreads, nullptr, out.data());
  return 0;
}
