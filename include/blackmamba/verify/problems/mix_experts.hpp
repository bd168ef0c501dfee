#pragma once
/// \file
/// Problems for `mix_experts`.

#include <blackmamba/ops/mix_experts/mix_experts.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct MixExpertsSize {
  Index tokens = 0, k = 1, E = 1, D = 0, F = 0;
  Activation kind = Activation::silu;
  bool gated = true, with_bias = true;
};

inline std::string to_string(MixExpertsSize const& s) {
  return concat("tokens ", s.tokens, ", k ", s.k, ", E ", s.E, ", D ", s.D, ", F ", s.F, ", ", blackmamba::to_string(s.kind),
                s.gated ? ", gated" : "", s.with_bias ? ", bias" : "");
}

/// Assignments at random, about one in E + 1 of them to no expert.
template <Scalar T>
struct MixExpertsProblem {
  using Size = MixExpertsSize;
  static constexpr char const* name = "mix_experts";
  static constexpr auto operation = mix_experts;

  static std::vector<Size> sizes() {
    return {{0, 2, 3, 4, 5},
            {3, 0, 2, 4, 5},
            {1, 1, 1, 1, 1},
            {4, 2, 2, 3, 0},
            {5, 3, 4, 7, 9},
            {1, 1, 8, 72, 200},
            {4, 2, 3, 520, 48, Activation::gelu_erf, false},
            {8, 1, 4, 24, 40, Activation::gelu_tanh, true, false},
            {33, 1, 5, 64, 136, Activation::relu_squared, false, false},
            {40, 2, 12, 136, 72}};
  }

  Size size;
  Tensor<T, 2> x;
  Tensor<int, 2> experts;
  Tensor<accumulator_t<T>, 2> weights;
  Tensor<T, 3> fc1;
  Tensor<T, 2> bias1;
  Tensor<T, 3> fc2;
  Tensor<T, 2> bias2;
  Tensor<T, 2> y;

  /// Weights are scaled as a network's are, so that hidden units and what experts put out are of unit size.
  template <class Stored>
  MixExpertsProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.tokens, s.D})},
        experts{in.template integers<int>(Shape<2>{s.tokens, s.k}, s.E + 1)},
        weights{in.template accumulator<accumulator_t<T>>(Shape<2>{s.tokens, s.k}, Uniform{0, 1})},
        fc1{in.template storage<T>(Shape<3>{s.E, s.gated ? 2 * s.F : s.F, s.D}, Normal{.spread = fan_in(s.D)})},
        bias1{in.template storage<T>(Shape<2>{s.E, s.gated ? 2 * s.F : s.F})},
        fc2{in.template storage<T>(Shape<3>{s.E, s.D, s.F}, Normal{.spread = fan_in(s.F)})},
        bias2{in.template storage<T>(Shape<2>{s.E, s.D})},
        y{unwritten<T>(Shape<2>{s.tokens, s.D})} {
    for (int& e : experts) --e;
  }

  auto args(auto& place) {
    return MixExpertsArgs<T>{.x = place.in(x),
                             .experts = place.in(experts),
                             .weights = place.in(weights),
                             .fc1 = place.in(fc1),
                             .bias1 = place.in(bias1, size.with_bias),
                             .fc2 = place.in(fc2),
                             .bias2 = place.in(bias2, size.with_bias),
                             .activation = size.kind,
                             .gated = size.gated,
                             .y = place.out(y)};
  }

  /// The roundings of `expert_mlp` for each slot, whose weight is at most 1, and that of the sum.
  auto outputs() const {
    auto const k = static_cast<double>(std::max(size.k, Index{1}));
    return std::tuple{
        Output{"y", y,
               Cost{.terms = static_cast<double>(size.D + size.F) + k, .roundings = 1 + k * (size.gated ? 4.0 : 3.0), .scale = 1}}};
  }

 private:
  static double fan_in(Index n) { return 1 / std::sqrt(static_cast<double>(n > 0 ? n : 1)); }
};

}  // namespace blackmamba::verify
