#pragma once
/// \file
/// Problems for `rms_norm_backward` and `layer_norm_backward`, which are one but for the mean.

#include <algorithm>
#include <cmath>

#include <blackmamba/ops/layer_norm/backward.hpp>
#include <blackmamba/ops/rms_norm/backward.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct NormBackwardSize {
  Index rows = 0, D = 0;
  bool residual = true, from_above = true, in_place = false;
};
inline std::string to_string(NormBackwardSize const& s) {
  return concat("rows ", s.rows, ", D ", s.D, s.residual ? ", residual" : "", s.from_above ? ", from above" : "",
                s.in_place ? ", d_x in the place of d_y" : "");
}

/// Gradients of parameters are added to random numbers, so that overwriting is seen.
template <Scalar T, bool Centred>
struct NormBackwardProblem {
  using Size = NormBackwardSize;
  using A = accumulator_t<T>;
  using Args = std::conditional_t<Centred, LayerNormBackwardArgs<T>, RmsNormBackwardArgs<T>>;
  static constexpr char const* name = Centred ? "layer_norm_backward" : "rms_norm_backward";

  static void operation(auto const& ctx, Args const& a) {
    if constexpr (Centred)
      layer_norm_backward(ctx, a);
    else
      rms_norm_backward(ctx, a);
  }

  static std::vector<Size> sizes() {
    std::vector<Size> out;
    for (auto const& [rows, D] : {std::pair<Index, Index>{0, 5}, {3, 0}, {1, 1}, {5, 3}, {2, 8}, {7, 67}, {131, 33}})
      for (int bits = 0; bits < 8; ++bits) out.push_back({rows, D, (bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0});
    return out;
  }

  Size size;
  Tensor<T, 2> x, d_y;
  Tensor<T, 1> weight;
  Tensor<A, 2> residual, d_residual;
  Tensor<A, 1> d_weight, d_bias;
  Tensor<T, 2> d_x;
  double largest = 0;

  template <class Stored>
  NormBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.rows, s.D})},
        d_y{in.template storage<T>(Shape<2>{s.rows, s.D})},
        weight{in.template storage<T>(Shape<1>{s.D})},
        residual{in.template accumulator<A>(Shape<2>{s.rows, s.D})},
        d_residual{in.template accumulator<A>(Shape<2>{s.rows, s.D})},
        d_weight{in.template accumulator<A>(Shape<1>{s.D})},
        d_bias{in.template accumulator<A>(Shape<1>{s.D})},
        d_x{unwritten<T>(Shape<2>{s.rows, s.D})} {
    // The largest term of a row's gradient, s g, which the others may cancel: with one column they do, but for ε.
    for (Index r = 0; r < s.rows; ++r) {
      double squares = 0, sum = 0, g = 0;
      for (Index i = 0; i < s.D; ++i) {
        double const v = static_cast<double>(s.residual ? residual(r, i) : widen(x(r, i)));
        squares += v * v, sum += v;
        g = std::max(g, std::fabs(static_cast<double>(widen(d_y(r, i)) * widen(weight(i)))));
      }
      auto const D = static_cast<double>(s.D);
      double const variance = squares / D - (Centred ? sum / D * (sum / D) : 0);
      largest = std::max(largest, g / std::sqrt(std::max(0.0, variance) + 1e-5));
    }
  }

  auto args(auto& place) {
    Args a;
    a.weight = place.in(weight);
    if (size.residual)
      a.residual = place.in(residual);
    else
      a.x = place.in(x);
    if (size.in_place) d_x = d_y.clone();
    a.d_x = place.out(d_x);
    a.d_y = size.in_place ? View<T const, 2>{a.d_x} : place.in(d_y);
    if (size.from_above) a.d_residual = place.out(d_residual);
    a.d_weight = place.out(d_weight);
    if constexpr (Centred) a.d_bias = place.out(d_bias);
    return a;
  }

  auto outputs() const {
    // With a mean taken off, roundings of numbers of size 1 are amplified like the gradient itself where a row hardly varies.
    Cost const of_row{.terms = static_cast<double>(size.D), .scale = largest};
    Cost const of_columns{.terms = static_cast<double>(size.rows + size.D), .scale = 1};
    return std::tuple{Output{"d_x", d_x, of_row}, Output{"d_residual", d_residual, of_row, size.from_above},
                      Output{"d_weight", d_weight, of_columns}, Output{"d_bias", d_bias, of_columns, Centred}};
  }
};

template <Scalar T>
using RmsNormBackwardProblem = NormBackwardProblem<T, false>;
template <Scalar T>
using LayerNormBackwardProblem = NormBackwardProblem<T, true>;

}  // namespace blackmamba::verify
