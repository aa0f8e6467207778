#include "../counter_normal.h"

#include "../philox.h"

#ifndef FLOWAR_KERNEL
#  define FLOWAR_KERNEL "counter_normal.cpp"
#  include "each_isa.h"
FLOWAR_DISPATCH(counter_normal_cpu, CounterNormal)
#else

namespace flowar::FLOWAR_ISA {

constexpr int64_t kBlocks = kNormalsPerPiece / 4;

// A word as a double; by bits, since AVX2 has no conversion from 64-bit integers: 2^52 + word has word as its mantissa.
FLOWAR_ELEMENT double uniform(uint32_t word) {
  return (bits_as<double>(uint64_t{word} | 0x4330000000000000u) - 0x1p52 + 0.5) * 0x1p-32;
}

static void counter_normal_cpu(const CounterNormal& p, int64_t begin, int64_t end) {
  float normals[kNormalsPerPiece];
  uint32_t words[4][kBlocks];
  const int64_t pieces = (p.count + kNormalsPerPiece - 1) / kNormalsPerPiece;
  for (Row piece(begin, pieces); piece.index < end; piece.next()) {
    const uint32_t first = static_cast<uint32_t>(piece.token * kBlocks);
    const uint64_t seed = static_cast<uint64_t>(p.seeds[piece.batch]);
#  pragma omp simd
    for (uint32_t i = 0; i < kBlocks; ++i) {
      const PhiloxBlock block = philox(first + i, p.stream, seed);
      words[0][i] = block.word0;
      words[1][i] = block.word1;
      words[2][i] = block.word2;
      words[3][i] = block.word3;
    }
    for (int pair = 0; pair < 4; pair += 2) {
#  pragma omp simd
      for (int64_t i = 0; i < kBlocks; ++i) {
        const double radius = std::sqrt(-2 * log(uniform(words[pair][i])));
        const Turn turn = turned(uniform(words[pair + 1][i]));
        normals[4 * i + pair] = static_cast<float>(radius * turn.cosine);
        normals[4 * i + pair + 1] = static_cast<float>(radius * turn.sine);
      }
    }
    const int64_t at = piece.token * kNormalsPerPiece;
    std::copy_n(normals, std::min(kNormalsPerPiece, p.count - at), p.out + piece.batch * p.count + at);
  }
}

}  // namespace flowar::FLOWAR_ISA
#endif
