#pragma once
/// \file
/// Problems for `causal_conv1d` and `causal_conv1d_step`.

#include <blackmamba/ops/causal_conv1d/causal_conv1d.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct CausalConv1dSize {
  Index batch = 1, L = 0, D = 0, K = 4;
  bool with_bias = true, silu = true, with_state = true;
  Index packed = 0;  ///< sequences packed along L; 0: none are
};

inline std::string to_string(CausalConv1dSize const& s) {
  return concat("batch ", s.batch, ", L ", s.L, ", D ", s.D, ", K ", s.K, s.with_bias ? ", bias" : "", s.silu ? ", silu" : "",
                s.with_state ? ", state" : "", s.packed ? concat(", packed ", s.packed) : std::string{});
}

namespace detail {

/// K products and a bias, all of unit size.
inline Cost conv_cost(Index K) { return {.terms = static_cast<double>(K + 1), .scale = 1}; }

}  // namespace detail

template <Scalar T>
struct CausalConv1dProblem {
  using Size = CausalConv1dSize;
  static constexpr char const* name = "causal_conv1d";
  static constexpr auto operation = causal_conv1d;

  static std::vector<Size> sizes() {
    return {
        {.batch = 0, .L = 3, .D = 4},
        {.batch = 2, .L = 0, .D = 4},
        {.batch = 2, .L = 5, .D = 0},
        {.batch = 1, .L = 1, .D = 1, .K = 1},
        {.batch = 1, .L = 1, .D = 9},
        {.batch = 2, .L = 2, .D = 8},
        {.batch = 3, .L = 3, .D = 7, .with_bias = false},
        {.batch = 1, .L = 17, .D = 16, .K = 2, .silu = false},
        {.batch = 2, .L = 31, .D = 17, .K = 7},
        {.batch = 1, .L = 5, .D = 8, .K = 9, .with_state = false},
        {.batch = 1, .L = 67, .D = 33, .K = 3, .with_bias = false, .silu = false, .with_state = false},
        {.L = 29, .D = 9, .packed = 5},
        {.L = 4, .D = 8, .packed = 9},
        {.L = 0, .D = 8, .packed = 1},
    };
  }

  Size size;
  Tensor<T, 3> x;
  Tensor<T, 2> weight;
  Tensor<T, 1> bias;
  Tensor<Index, 1> offsets;
  Tensor<T, 3> initial_state, last_state, y;

  template <class Stored>
  CausalConv1dProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<3>{s.batch, s.L, s.D})},
        weight{in.template storage<T>(Shape<2>{s.D, s.K})},
        bias{in.template storage<T>(Shape<1>{s.D})},
        offsets{in.offsets(s.packed, s.L)},
        initial_state{in.template storage<T>(Shape<3>{s.packed ? s.packed : s.batch, s.K - 1, s.D})},
        last_state{unwritten<T>(initial_state.shape())},
        y{unwritten<T>(Shape<3>{s.batch, s.L, s.D})} {}

  auto args(auto& place) {
    return CausalConv1dArgs<T>{.x = place.in(x),
                               .weight = place.in(weight),
                               .bias = place.in(bias, size.with_bias),
                               .offsets = place.in(offsets, size.packed > 0),
                               .initial_state = place.in(initial_state, size.with_state),
                               .last_state = place.out(last_state, size.with_state),
                               .silu = size.silu,
                               .y = place.out(y)};
  }

  auto outputs() const {
    auto const cost = detail::conv_cost(size.K);
    return std::tuple{Output{"y", y, cost}, Output{"last_state", last_state, cost, size.with_state}};
  }
};

struct CausalConv1dStepSize {
  Index batch = 1, D = 0, K = 4;
  bool with_bias = true, silu = true;
};

inline std::string to_string(CausalConv1dStepSize const& s) {
  return concat("batch ", s.batch, ", D ", s.D, ", K ", s.K, s.with_bias ? ", bias" : "", s.silu ? ", silu" : "");
}

template <Scalar T>
struct CausalConv1dStepProblem {
  using Size = CausalConv1dStepSize;
  static constexpr char const* name = "causal_conv1d_step";
  static constexpr auto operation = causal_conv1d_step;

  static std::vector<Size> sizes() {
    return {{.batch = 0, .D = 4},
            {.batch = 2, .D = 0},
            {.batch = 1, .D = 1, .K = 1},
            {.batch = 1, .D = 7, .K = 2},
            {.batch = 2, .D = 8, .with_bias = false},
            {.batch = 3, .D = 9, .silu = false},
            {.batch = 1, .D = 131, .K = 5}};
  }

  Size size;
  Tensor<T, 2> x, weight;
  Tensor<T, 1> bias;
  Tensor<T, 3> state;
  Tensor<T, 2> y;

  template <class Stored>
  CausalConv1dStepProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.batch, s.D})},
        weight{in.template storage<T>(Shape<2>{s.D, s.K})},
        bias{in.template storage<T>(Shape<1>{s.D})},
        state{in.template storage<T>(Shape<3>{s.batch, s.K - 1, s.D})},
        y{unwritten<T>(Shape<2>{s.batch, s.D})} {}

  auto args(auto& place) {
    return CausalConv1dStepArgs<T>{.x = place.in(x),
                                   .weight = place.in(weight),
                                   .bias = place.in(bias, size.with_bias),
                                   .state = place.out(state),
                                   .silu = size.silu,
                                   .y = place.out(y)};
  }

  auto outputs() const {
    auto const cost = detail::conv_cost(size.K);
    return std::tuple{Output{"y", y, cost}, Output{"state", state, cost}};
  }
};

}  // namespace blackmamba::verify
