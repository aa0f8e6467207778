// Gradients of modulation that broadcasts along the tokens are sums over the tokens of a batch entry. On the CPU one
// thread takes all rows of an entry. On CUDA a block sums a part of them, and a second kernel adds the parts, both in a
// fixed order: the binding allocates `float* parts` [summed gradients, batch, token_parts(tokens), channels] for that
// where an entry has several.
#pragma once

#include <cstdint>

namespace flowar {

constexpr int64_t kTokensPerPart = 16;  // so that the parts are a sixteenth of what is read, and blocks still many

constexpr int64_t token_parts(int64_t tokens) { return (tokens + kTokensPerPart - 1) / kTokensPerPart; }

}  // namespace flowar
