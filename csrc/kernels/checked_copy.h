// out = source, in the dtype of out, and on the way
//   sums[r] = the sum modulo 2**64 of the words of 64 bits in run r of the source's bytes; behind the last whole run
//             every word as it is, the last one filled up with zeros
//   broken  = whether an element of the source is not finite
// Reads the source once and writes out once; sums are 1/512 of that.
#pragma once

#include <atomic>

#include "tensor.h"

namespace flowar {

constexpr int64_t kWordBytes = 8;
constexpr int64_t kRunWords = 512;
constexpr int64_t kRunBytes = kRunWords * kWordBytes;

struct CheckedCopy {
  int64_t elements;
  int64_t element_bytes;  // of the source
  Input source;           // its tokens are the runs
  Output out;             // likewise, of as many elements
  uint64_t* sums;
  std::atomic<bool>* broken;
};

// A row is a run, the last of which may be shorter.
void checked_copy_cpu(const CheckedCopy& p, int64_t row_begin, int64_t row_end);

}  // namespace flowar
