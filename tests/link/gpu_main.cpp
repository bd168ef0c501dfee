// Whether a model whose kernels were compiled with the file that calls them says what the CPU says. 77: there is no GPU.

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "gpu.hpp"

int main() {
  if (!gpu_there()) {
    std::puts("no NVIDIA GPU here: compiled and linked only");
    return 77;
  }
  auto const there = logits_on_gpu(), here = logits_on_cpu();
  float largest = 0, error = 0;
  for (std::size_t i = 0; i < here.size(); ++i) {
    largest = std::max(largest, std::fabs(here[i]));
    error = std::max(error, std::fabs(here[i] - there[i]));
  }
  std::printf("%zu logits, largest difference %.2g of %.3g\n", here.size(), static_cast<double>(error),
              static_cast<double>(largest));
  return there.size() == here.size() && error <= 1e-5f * largest ? 0 : 1;
}
