// Usage: cuda_logic_SANITIZER [test ...]; all tests where none is named.
#include "harness.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace flowar {
namespace {

std::vector<std::pair<const char*, void (*)()>>& tests() {
  static std::vector<std::pair<const char*, void (*)()>> all;
  return all;
}

void run_sample(void (*run)(const Sample&), const Sample& sample) {
  const int before = failures;
  run(sample);
  if (failures == before) return;
  std::printf("  with %lld channels, offset %lld, mixture %d of dtypes\n", static_cast<long long>(sample.channels),
              static_cast<long long>(sample.offset), sample.mixture);
}

}  // namespace

void for_each_sample(void (*run)(const Sample&)) {
  constexpr int kMixtures = 27;  // 0, 13 and 26 are of one dtype
  int mixture = 0;
  for (const int64_t channels : {1, 7, 8, 9, 13, 64, 67}) {
    for (int64_t offset = 0; offset < 8; ++offset) run_sample(run, {channels, offset, mixture++ % kMixtures});
  }
  for (mixture = 0; mixture < kMixtures; ++mixture) run_sample(run, {16, 0, mixture});
  for (const int64_t channels : {768, 1024}) {
    for (const int same : {0, 13, 26}) run_sample(run, {channels, 0, same});
    run_sample(run, {channels, 0, 1});
  }
}

void expect_launched(const char* what, cudaError_t error) {
  if (error == cudaSuccess) return;
  ++failures;
  std::printf("%s: not launched, error %d\n", what, static_cast<int>(error));
}

Test::Test(const char* name, void (*run)()) { tests().emplace_back(name, run); }

}  // namespace flowar

int main(int argc, char** argv) {
  using namespace flowar;
  for (const auto& [name, run] : tests()) {
    const auto named = [name = name](const char* argument) { return std::strcmp(argument, name) == 0; };
    if (argc > 1 && std::none_of(argv + 1, argv + argc, named)) continue;
    const int before = failures;
    run();
    std::printf("%s: %s\n", name, failures == before ? "ok" : "FAILED");
  }
  return failures != 0;
}
