#pragma once
/// \file
/// Problems for `linear` and its backward pass.

#include <blackmamba/ops/linear/backward.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct LinearSize {
  Index M = 0, N = 0, K = 0;
  bool with_bias = true;
};

inline std::string to_string(LinearSize const& s) {
  return concat("M ", s.M, ", N ", s.N, ", K ", s.K, s.with_bias ? ", bias" : "");
}

template <Scalar T>
struct LinearProblem {
  using Size = LinearSize;
  static constexpr char const* name = "linear";
  static constexpr auto operation = linear;

  static std::vector<Size> sizes() {
    return {{0, 5, 3},  {2, 0, 3},         {2, 3, 0},   {1, 1, 1},           {1, 8, 8, false},   {1, 127, 65}, {3, 7, 9},
            {8, 9, 16}, {9, 8, 17, false}, {17, 31, 5}, {33, 15, 64, false}, {64, 65, 63, true}, {5, 3, 257},  {127, 2, 31}};
  }

  Size size;
  Tensor<T, 2> x, weight;
  Tensor<T, 1> bias;
  Tensor<T, 2> y;

  template <class Stored>
  LinearProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.M, s.K})},
        weight{in.template storage<T>(Shape<2>{s.N, s.K})},
        bias{in.template storage<T>(Shape<1>{s.N})},
        y{unwritten<T>(Shape<2>{s.M, s.N})} {}

  auto args(auto& place) {
    return LinearArgs<T>{.x = place.in(x), .weight = place.in(weight), .bias = place.in(bias, size.with_bias), .y = place.out(y)};
  }

  auto outputs() const {
    auto const terms = static_cast<double>(size.K);
    // K products of unit size, of either sign, sum to the size of √K.
    return std::tuple{Output{"y", y, Cost{.terms = terms, .scale = std::sqrt(terms)}}};
  }
};

struct LinearBackwardSize {
  Index M = 0, N = 0, K = 0;
  bool with_d_x = true, with_d_weight = true, with_d_bias = true, in_place = false, add_to_d_x = false;
};

inline std::string to_string(LinearBackwardSize const& s) {
  return concat("M ", s.M, ", N ", s.N, ", K ", s.K, s.with_d_x ? ", d_x" : "",
                s.in_place     ? " in the place of x"
                : s.add_to_d_x ? " added to"
                               : "",
                s.with_d_weight ? ", d_weight" : "", s.with_d_bias ? ", d_bias" : "");
}

template <Scalar T>
struct LinearBackwardProblem {
  using Size = LinearBackwardSize;
  using A = accumulator_t<T>;
  static constexpr char const* name = "linear_backward";
  static constexpr auto operation = linear_backward;

  static std::vector<Size> sizes() {
    return {{0, 5, 3},
            {2, 0, 3},
            {2, 3, 0},
            {1, 1, 1},
            {1, 127, 65},
            {3, 7, 9, true, true, false},
            {8, 9, 16, false},
            {9, 8, 17, true, false},
            {17, 31, 5, true, true, true, true},
            {33, 15, 64, false, true, false},
            {5, 0, 7, true, true, true, false, true},
            {34, 13, 65, true, true, true, false, true},
            {65, 8, 128, true, false, false, false, true},
            {64, 65, 63},
            {257, 3, 5, false, false, true},
            {127, 2, 31}};
  }

  Size size;
  Tensor<T, 2> x, weight, d_y, d_x;
  Tensor<A, 2> d_weight;
  Tensor<A, 1> d_bias;

  template <class Stored>
  LinearBackwardProblem(Size const& s, Inputs<Stored>& in)
      : size{s},
        x{in.template storage<T>(Shape<2>{s.M, s.K})},
        weight{in.template storage<T>(Shape<2>{s.N, s.K})},
        d_y{in.template storage<T>(Shape<2>{s.M, s.N})},
        d_x{s.add_to_d_x ? in.template storage<T>(Shape<2>{s.M, s.K}) : unwritten<T>(Shape<2>{s.M, s.K})},
        d_weight{in.template accumulator<A>(Shape<2>{s.N, s.K})},
        d_bias{in.template accumulator<A>(Shape<1>{s.N})} {}

  auto args(auto& place) {
    LinearBackwardArgs<T> a;
    a.weight = place.in(weight), a.d_y = place.in(d_y);
    if (size.in_place) d_x = x.clone();
    a.d_x = place.out(d_x, size.with_d_x), a.add_to_d_x = size.add_to_d_x;
    a.x = size.in_place ? View<T const, 2>{a.d_x} : place.in(x);
    a.d_weight = place.out(d_weight, size.with_d_weight);
    a.d_bias = place.out(d_bias, size.with_d_bias);
    return a;
  }

  auto outputs() const {
    // Sums of products of unit size, of either sign; the parameters', and d_x if asked to, are added to numbers of unit size.
    auto const over_outputs = static_cast<double>(size.N + size.add_to_d_x), over_rows = static_cast<double>(size.M + 1);
    // What is added to d_x may be rounded first.
    double const roundings = size.add_to_d_x ? 2 : 1;
    return std::tuple{
        Output{"d_x", d_x, Cost{.terms = over_outputs, .roundings = roundings, .scale = std::sqrt(over_outputs)}, size.with_d_x},
        Output{"d_weight", d_weight, Cost{.terms = over_rows, .scale = std::sqrt(over_rows)}, size.with_d_weight},
        Output{"d_bias", d_bias, Cost{.terms = over_rows, .scale = std::sqrt(over_rows)}, size.with_d_bias}};
  }
};

}  // namespace blackmamba::verify
