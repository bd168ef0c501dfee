#pragma once
/// \file
/// Problem for `expert_mlp_backward`.

#include <blackmamba/ops/expert_mlp/backward.hpp>
#include <blackmamba/verify/problems/expert_mlp.hpp>

namespace blackmamba::verify {

/// Gradients of parameters are added to random numbers, so that overwriting is seen. Activations are smooth: at the corner of a
/// ReLU the last bit of h decides about all of its gradient.
template <Scalar T>
struct ExpertMlpBackwardProblem {
  using Size = ExpertMlpSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "expert_mlp_backward";
  static constexpr auto operation = expert_mlp_backward;
  static std::vector<Size> sizes() { return ExpertMlpProblem<T>::sizes(); }

  Size size;
  Index F1;
  Tensor<T, 2> x, d_y;
  Tensor<Index, 1> offsets;
  Tensor<T, 3> fc1, fc2;
  Tensor<T, 2> bias1, bias2;
  Tensor<T, 2> d_x;
  Tensor<A, 3> d_fc1, d_fc2;
  Tensor<A, 2> d_bias1, d_bias2;

  template <class Stored>
  ExpertMlpBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        F1{s.gated ? 2 * s.F : s.F},
        x{in.template storage<T>(Shape<2>{s.rows, s.D})},
        d_y{in.template storage<T>(Shape<2>{s.rows, s.D})},
        offsets{in.offsets(s.E, s.rows)},
        fc1{in.template storage<T>(Shape<3>{s.E, F1, s.D}, Normal{.spread = detail::fan_in(s.D)})},
        fc2{in.template storage<T>(Shape<3>{s.E, s.D, s.F}, Normal{.spread = detail::fan_in(s.F)})},
        bias1{in.template storage<T>(Shape<2>{s.E, F1})},
        bias2{in.template storage<T>(Shape<2>{s.E, s.D})},
        d_x{unwritten<T>(x.shape())},
        d_fc1{in.template accumulator<A>(fc1.shape())},
        d_fc2{in.template accumulator<A>(fc2.shape())},
        d_bias1{in.template accumulator<A>(bias1.shape())},
        d_bias2{in.template accumulator<A>(bias2.shape())} {}

  auto args(auto& place) {
    return ExpertMlpBackwardArgs<T>{.x = place.in(x),
                                    .offsets = place.in(offsets),
                                    .fc1 = place.in(fc1),
                                    .bias1 = place.in(bias1, size.with_bias),
                                    .fc2 = place.in(fc2),
                                    .bias2 = place.in(bias2, size.with_bias),
                                    .activation = size.kind,
                                    .gated = size.gated,
                                    .d_y = place.in(d_y),
                                    .d_x = place.out(d_x),
                                    .d_fc1 = place.out(d_fc1),
                                    .d_bias1 = place.out(d_bias1, size.with_bias),
                                    .d_fc2 = place.out(d_fc2),
                                    .d_bias2 = place.out(d_bias2, size.with_bias)};
  }

  /// h, d_a, both halves of d_h and d_x are stored, and through the curvature of the activation an error of h reaches the result as
  /// often as one of d_h.
  auto outputs() const {
    Cost const cost{.terms = static_cast<double>(2 * size.D + F1 + size.rows),
                    .roundings = size.gated ? 6.0 : 4.0,
                    .scale = 1,
                    .stored = scalar_traits<T>::unit_roundoff};
    return std::tuple{Output{"d_x", d_x, cost}, Output{"d_fc1", d_fc1, cost}, Output{"d_fc2", d_fc2, cost},
                      Output{"d_bias1", d_bias1, cost, size.with_bias}, Output{"d_bias2", d_bias2, cost, size.with_bias}};
  }
};

}  // namespace blackmamba::verify
