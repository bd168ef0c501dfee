#pragma once
/// \file
/// Problem for `causal_conv1d_backward`.

#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/verify/problems/causal_conv1d.hpp>

namespace blackmamba::verify {

/// Gradients of parameters are added to random numbers, so that overwriting is seen.
template <Scalar T>
struct CausalConv1dBackwardProblem {
  using Size = CausalConv1dSize;
  using Acc = accumulator_t<T>;
  static constexpr char const* name = "causal_conv1d_backward";
  static constexpr auto operation = causal_conv1d_backward;
  static std::vector<Size> sizes() { return CausalConv1dProblem<T>::sizes(); }

  Size size;
  Tensor<T, 3> x, d_y;
  Tensor<T, 2> weight;
  Tensor<T, 1> bias;
  Tensor<Index, 1> offsets;
  Tensor<T, 3> initial_state;
  Tensor<Acc, 3> d_last_state;
  Tensor<Acc, 2> d_weight;
  Tensor<Acc, 1> d_bias;
  Tensor<T, 3> d_x;
  Tensor<Acc, 3> d_initial_state;

  template <class Stored>
  CausalConv1dBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<3>{s.batch, s.L, s.D})},
        d_y{in.template storage<T>(Shape<3>{s.batch, s.L, s.D})},
        weight{in.template storage<T>(Shape<2>{s.D, s.K})},
        bias{in.template storage<T>(Shape<1>{s.D})},
        offsets{in.offsets(s.packed, s.L)},
        initial_state{in.template storage<T>(Shape<3>{s.packed ? s.packed : s.batch, s.K - 1, s.D})},
        d_last_state{in.template accumulator<Acc>(initial_state.shape())},
        d_weight{in.template accumulator<Acc>(Shape<2>{s.D, s.K})},
        d_bias{in.template accumulator<Acc>(Shape<1>{s.D})},
        d_x{unwritten<T>(x.shape())},
        d_initial_state{unwritten<Acc>(initial_state.shape())} {}

  auto args(auto& place) {
    return CausalConv1dBackwardArgs<T>{.x = place.in(x),
                                       .weight = place.in(weight),
                                       .bias = place.in(bias, size.with_bias),
                                       .offsets = place.in(offsets, size.packed > 0),
                                       .initial_state = place.in(initial_state, size.with_state),
                                       .silu = size.silu,
                                       .d_y = place.in(d_y),
                                       .d_last_state = place.in(d_last_state, size.with_state),
                                       .d_x = place.out(d_x),
                                       .d_weight = place.out(d_weight),
                                       .d_bias = place.out(d_bias, size.with_bias),
                                       .d_initial_state = place.out(d_initial_state)};
  }

  auto outputs() const {
    // An element sums up to K outputs, a weight all of them, and each knows its own K inputs.
    Cost const cost{.terms = static_cast<double>(2 * size.K + size.batch * size.L), .scale = 1};
    return std::tuple{Output{"d_x", d_x, cost}, Output{"d_weight", d_weight, cost}, Output{"d_bias", d_bias, cost, size.with_bias},
                      Output{"d_initial_state", d_initial_state, cost}};
  }
};

}  // namespace blackmamba::verify
