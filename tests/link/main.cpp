// The library's headers in a .cpp and in a .cu of one program: they compile under nvcc, they link, and they agree.

#include <cstdio>

#include "normalised.hpp"
#include "part.hpp"

int main() {
  std::vector<float> x(37);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 0.25f * static_cast<float>(i) - 3;
  auto const here = normalised(x);
  auto const there = normalised_by_nvcc(x);
  bool const equal = here == there;
  std::printf("%s: the first of %zu values is %g here and %g in the .cu\n", equal ? "equal" : "different", here.size(),
              static_cast<double>(here[0]), static_cast<double>(there[0]));
  return equal ? 0 : 1;
}
