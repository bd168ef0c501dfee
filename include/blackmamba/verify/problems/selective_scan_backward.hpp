#pragma once
/// \file
/// Problem for `selective_scan_backward`.

#include <blackmamba/ops/selective_scan/backward.hpp>
#include <blackmamba/verify/problems/selective_scan.hpp>

namespace blackmamba::verify {

/// Gradients of parameters are added to random numbers, so that overwriting is seen.
template <Scalar T>
struct SelectiveScanBackwardProblem {
  using Size = SelectiveScanSize;
  using A_t = accumulator_t<T>;
  static constexpr char const* name = "selective_scan_backward";
  static constexpr auto operation = selective_scan_backward;
  static std::vector<Size> sizes() { return SelectiveScanProblem<T>::sizes(); }

  SelectiveScanProblem<T> forward;
  Tensor<T, 3> d_y;
  Tensor<A_t, 3> d_last_state;
  Tensor<T, 3> d_u, d_delta, d_z;
  Tensor<T, 4> d_B, d_C;
  Tensor<A_t, 2> d_A;
  Tensor<A_t, 1> d_D, d_delta_bias;
  Tensor<A_t, 3> d_initial_state;

  template <class Stored>
  SelectiveScanBackwardProblem(Size const& s, Inputs<Stored>& in)
      : forward{s, in},
        d_y{in.template storage<T>(forward.y.shape())},
        d_last_state{in.template accumulator<A_t>(forward.initial_state.shape())},
        d_u{unwritten<T>(d_y.shape())},
        d_delta{unwritten<T>(d_y.shape())},
        d_z{unwritten<T>(d_y.shape())},
        d_B{unwritten<T>(forward.B.shape())},
        d_C{unwritten<T>(forward.C.shape())},
        d_A{in.template accumulator<A_t>(forward.A.shape())},
        d_D{in.template accumulator<A_t>(Shape<1>{s.D})},
        d_delta_bias{in.template accumulator<A_t>(Shape<1>{s.D})},
        d_initial_state{unwritten<A_t>(d_last_state.shape())} {}

  auto args(auto& place) {
    auto const& s = forward.size;
    return SelectiveScanBackwardArgs<T>{.u = place.in(forward.u),
                                        .delta = place.in(forward.delta),
                                        .A = place.in(forward.A),
                                        .B = place.in(forward.B),
                                        .C = place.in(forward.C),
                                        .D = place.in(forward.D, s.with_D),
                                        .z = place.in(forward.z, s.with_z),
                                        .delta_bias = place.in(forward.delta_bias, s.with_bias),
                                        .delta_softplus = s.softplus,
                                        .offsets = place.in(forward.offsets, s.packed > 0),
                                        .initial_state = place.in(forward.initial_state, s.with_state),
                                        .d_y = place.in(d_y),
                                        .d_last_state = place.in(d_last_state, s.with_state),
                                        .d_u = place.out(d_u),
                                        .d_delta = place.out(d_delta),
                                        .d_A = place.out(d_A),
                                        .d_B = place.out(d_B),
                                        .d_C = place.out(d_C),
                                        .d_D = place.out(d_D, s.with_D),
                                        .d_z = place.out(d_z, s.with_z),
                                        .d_delta_bias = place.out(d_delta_bias, s.with_bias),
                                        .d_initial_state = place.out(d_initial_state, s.with_state)};
  }

  /// Sums run over the states, over time, over the batch, and over the channels of a group.
  auto outputs() const {
    auto const& s = forward.size;
    Cost const cost{.terms = static_cast<double>(s.N + s.L + s.batch * s.L + s.D), .scale = 1};
    return std::tuple{Output{"d_u", d_u, cost},
                      Output{"d_delta", d_delta, cost},
                      Output{"d_A", d_A, cost},
                      Output{"d_B", d_B, cost},
                      Output{"d_C", d_C, cost},
                      Output{"d_D", d_D, cost, s.with_D},
                      Output{"d_z", d_z, cost, s.with_z},
                      Output{"d_delta_bias", d_delta_bias, cost, s.with_bias},
                      Output{"d_initial_state", d_initial_state, cost, s.with_state}};
  }
};

}  // namespace blackmamba::verify
