// The library's headers in a .cpp and in a .cu of one program: they compile under nvcc, they link, what decides the bodies of
// inline functions is the same on both sides, and so are the numbers.

#include <cstdio>

#include "computed.hpp"

int main() {
  auto const here = computed();
  auto const there = computed_by_nvcc();
  bool const equal = here.facts == there.facts && here.values == there.values;
  std::printf("%s\n.cpp: %s, first value %.9g\n.cu:  %s, first value %.9g\n", equal ? "equal" : "different", here.facts.c_str(),
              static_cast<double>(here.values[0]), there.facts.c_str(), static_cast<double>(there.values[0]));
  return equal ? 0 : 1;
}
