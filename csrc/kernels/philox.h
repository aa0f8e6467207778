// Philox4x32-10 (Salmon et al., SC 2011): four random words from a counter and a key.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#  define FLOWAR_INLINE __host__ __device__ __forceinline__
#  define FLOWAR_UNROLL _Pragma("unroll")
#else
#  define FLOWAR_INLINE [[gnu::always_inline]] inline
#  define FLOWAR_UNROLL _Pragma("GCC unroll 10")
#endif

namespace flowar {

struct PhiloxBlock {
  uint32_t word0, word1, word2, word3;
};

// The block with counter (index, 0, stream, 0) and key (low, high word of the seed).
FLOWAR_INLINE PhiloxBlock philox(uint32_t index, uint32_t stream, uint64_t seed) {
  uint32_t c0 = index, c1 = 0, c2 = stream, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  FLOWAR_UNROLL
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53u} * c0, second = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(second);
    c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(first);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

}  // namespace flowar

#undef FLOWAR_INLINE
#undef FLOWAR_UNROLL
