#pragma once

#include <vector>

#include <blackmamba/blackmamba.hpp>

/// The same source for both compilers; static, so that each keeps its own.
static std::vector<float> normalised(std::vector<float> const& x) {
  using namespace blackmamba;
  auto const D = static_cast<Index>(x.size());
  Tensor<float, 2> in{Shape{Index{1}, D}}, out{Shape{Index{1}, D}};
  Tensor<float, 1> weight{Shape{D}};
  for (Index i = 0; i < D; ++i) {
    in(0, i) = x[static_cast<std::size_t>(i)];
    weight(i) = 1;
  }
  rms_norm(Cpu{2}, RmsNormArgs<float>{.x = in, .weight = weight, .y = out});
  return {out.data(), out.data() + D};
}
