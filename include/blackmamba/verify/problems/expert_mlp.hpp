#pragma once
/// \file
/// Problems for `expert_mlp`.

#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct ExpertMlpSize {
  Index rows = 0, E = 1, D = 0, F = 0;
  Activation kind = Activation::silu;
  bool gated = true, with_bias = true;
};

inline std::string to_string(ExpertMlpSize const& s) {
  return concat("rows ", s.rows, ", E ", s.E, ", D ", s.D, ", F ", s.F, ", ", blackmamba::to_string(s.kind),
                s.gated ? ", gated" : "", s.with_bias ? ", bias" : "");
}

namespace detail {

/// The spread of weights that keeps what they sum, `n` numbers, of unit size.
inline double fan_in(Index n) { return 1 / std::sqrt(static_cast<double>(n > 0 ? n : 1)); }

}  // namespace detail

template <Scalar T>
struct ExpertMlpProblem {
  using Size = ExpertMlpSize;
  static constexpr char const* name = "expert_mlp";
  static constexpr auto operation = expert_mlp;

  static std::vector<Size> sizes() {
    return {{0, 3, 4, 5},
            {1, 1, 1, 1},
            {5, 2, 3, 0},
            {1, 4, 7, 9},
            {9, 3, 8, 16, Activation::gelu_erf, false},
            {13, 8, 17, 5, Activation::gelu_tanh, true, false},
            {31, 5, 16, 33, Activation::relu_squared, false, false},
            {67, 4, 31, 64}};
  }

  Size size;
  Tensor<T, 2> x;
  Tensor<Index, 1> offsets;
  Tensor<T, 3> fc1;
  Tensor<T, 2> bias1;
  Tensor<T, 3> fc2;
  Tensor<T, 2> bias2;
  Tensor<T, 2> y;

  /// Weights are scaled as a network's are, so that hidden units and outputs are of unit size.
  template <class Stored>
  ExpertMlpProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.rows, s.D})},
        offsets{in.offsets(s.E, s.rows)},
        fc1{in.template storage<T>(Shape<3>{s.E, s.gated ? 2 * s.F : s.F, s.D}, Normal{.spread = detail::fan_in(s.D)})},
        bias1{in.template storage<T>(Shape<2>{s.E, s.gated ? 2 * s.F : s.F})},
        fc2{in.template storage<T>(Shape<3>{s.E, s.D, s.F}, Normal{.spread = detail::fan_in(s.F)})},
        bias2{in.template storage<T>(Shape<2>{s.E, s.D})},
        y{unwritten<T>(Shape<2>{s.rows, s.D})} {}

  auto args(auto& place) {
    return ExpertMlpArgs<T>{.x = place.in(x),
                            .offsets = place.in(offsets),
                            .fc1 = place.in(fc1),
                            .bias1 = place.in(bias1, size.with_bias),
                            .fc2 = place.in(fc2),
                            .bias2 = place.in(bias2, size.with_bias),
                            .activation = size.kind,
                            .gated = size.gated,
                            .y = place.out(y)};
  }

  /// The first product (two of them with a gate), what the non-linearity makes of it, and the output are rounded to storage.
  auto outputs() const {
    return std::tuple{
        Output{"y", y, Cost{.terms = static_cast<double>(size.D + size.F), .roundings = size.gated ? 4.0 : 3.0, .scale = 1}}};
  }
};

}  // namespace blackmamba::verify
