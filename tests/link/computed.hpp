#pragma once

#include <string>
#include <vector>

#include <blackmamba/blackmamba.hpp>

/// What one compiler made of the library. Static functions: each file of the program keeps its own.
struct Computed {
  std::string facts;          ///< what the bodies of inline functions depend on
  std::vector<float> values;  ///< a normalised matrix times a matrix: packs, threads and Eigen's product
};

static Computed computed() {
  using namespace blackmamba;
  Shape const in{Index{70}, Index{90}};
  Tensor<float, 2> x{in}, normalised{in}, weight{Shape{Index{50}, Index{90}}}, y{Shape{Index{70}, Index{50}}};
  Tensor<float, 1> scale{Shape{Index{90}}};
  Random const random{1};
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  for (Index i = 0; i < weight.size(); ++i) weight.data()[i] = static_cast<float>(random.normal(static_cast<std::uint64_t>(i)));
  for (Index i = 0; i < scale.size(); ++i) scale.data()[i] = 1;
  rms_norm(Cpu{2}, RmsNormArgs<float>{.x = x, .weight = scale, .y = normalised});
  linear(Cpu{2}, LinearArgs<float>{.x = normalised, .weight = weight, .y = y});
  return {concat("packs of ", simd::width<float>, ", Eigen's packets of ", int{Eigen::internal::packet_traits<float>::size}),
          {y.data(), y.data() + y.size()}};
}

/// The same, compiled by nvcc.
Computed computed_by_nvcc();
