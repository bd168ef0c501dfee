#pragma once
/// \file
/// Problems for `activation_backward` and `gated_unit_backward`.

#include <blackmamba/ops/activation/backward.hpp>
#include <blackmamba/verify/problems/activation.hpp>

namespace blackmamba::verify {

template <Scalar T>
struct ActivationBackwardProblem {
  using Size = ActivationSize;
  static constexpr char const* name = "activation_backward";
  static constexpr auto operation = activation_backward;
  static std::vector<Size> sizes() { return detail::activation_sizes(); }

  Size size;
  Tensor<T, 2> x, d_y, d_x;
  double largest = 0;

  template <class Stored>
  ActivationBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.rows, s.D}, detail::activation_inputs)},
        d_y{in.template storage<T>(Shape<2>{s.rows, s.D})},
        d_x{unwritten<T>(Shape<2>{s.rows, s.D})} {
    // Slopes are sums of terms of size 1 that cancel where the function is flat.
    for (T const& d : d_y) largest = std::max(largest, std::fabs(static_cast<double>(widen(d))));
  }

  auto args(auto& place) {
    return ActivationBackwardArgs<T>{.kind = size.kind, .x = place.in(x), .d_y = place.in(d_y), .d_x = place.out(d_x)};
  }
  auto outputs() const { return std::tuple{Output{"d_x", d_x, Cost{.scale = largest}}}; }
};

template <Scalar T>
struct GatedUnitBackwardProblem {
  using Size = ActivationSize;
  static constexpr char const* name = "gated_unit_backward";
  static constexpr auto operation = gated_unit_backward;
  static std::vector<Size> sizes() { return detail::activation_sizes(); }

  Size size;
  Tensor<T, 2> gate, value, d_y, d_gate, d_value;
  double largest = 0, largest_product = 0;

  template <class Stored>
  GatedUnitBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        gate{in.template storage<T>(Shape<2>{s.rows, s.D}, detail::activation_inputs)},
        value{in.template storage<T>(Shape<2>{s.rows, s.D})},
        d_y{in.template storage<T>(Shape<2>{s.rows, s.D})},
        d_gate{unwritten<T>(Shape<2>{s.rows, s.D})},
        d_value{unwritten<T>(Shape<2>{s.rows, s.D})} {
    // What the slope, and the value where it cancels, are multiplied by.
    for (Index i = 0; i < d_y.size(); ++i) {
      double const d = std::fabs(static_cast<double>(widen(d_y.data()[i])));
      largest = std::max(largest, d);
      largest_product = std::max(largest_product, d * std::fabs(static_cast<double>(widen(value.data()[i]))));
    }
  }

  auto args(auto& place) {
    return GatedUnitBackwardArgs<T>{.kind = size.kind,
                                    .gate = place.in(gate),
                                    .value = place.in(value),
                                    .d_y = place.in(d_y),
                                    .d_gate = place.out(d_gate),
                                    .d_value = place.out(d_value)};
  }
  auto outputs() const {
    return std::tuple{Output{"d_gate", d_gate, Cost{.scale = largest_product}}, Output{"d_value", d_value, Cost{.scale = largest}}};
  }
};

}  // namespace blackmamba::verify
