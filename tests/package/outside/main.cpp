// Normalises one row: (3, 4) has the root mean square sqrt(12.5).

#include <cmath>
#include <cstdio>

#include <blackmamba/blackmamba.hpp>

int main() {
  using namespace blackmamba;
  Tensor<float, 2> x{Shape{Index{1}, Index{2}}}, y{Shape{Index{1}, Index{2}}};
  Tensor<float, 1> weight{Shape{Index{2}}};
  x(0, 0) = 3;
  x(0, 1) = 4;
  weight(0) = weight(1) = 1;
  rms_norm(Cpu{2}, RmsNormArgs<float>{.x = x, .weight = weight, .y = y, .epsilon = 0});
  std::printf("%g %g\n", static_cast<double>(y(0, 0)), static_cast<double>(y(0, 1)));
  return std::abs(y(0, 0) - 3 / std::sqrt(12.5f)) < 1e-6f && std::abs(y(0, 1) - 4 / std::sqrt(12.5f)) < 1e-6f ? 0 : 1;
}
