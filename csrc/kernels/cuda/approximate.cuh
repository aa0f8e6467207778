// Functions of one instruction each, off by at most 2^-22 of their value; what would be subnormal is 0. Divisions and
// exponentials that round correctly, or pass on subnormal numbers, take a slow path or five instructions.
#pragma once

#include <cuda_runtime.h>

namespace flowar {

// 1 / x.
__device__ inline float reciprocal(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return 1.0f / x;
#endif
}

// 2^x.
__device__ inline float power_of_two(float x) {
#ifdef __CUDA_ARCH__
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
#else
  return exp2f(x);
#endif
}

}  // namespace flowar
