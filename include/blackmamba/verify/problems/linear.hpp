#pragma once
/// \file
/// Problems for `linear`.

#include <blackmamba/ops/linear/linear.hpp>
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

}  // namespace blackmamba::verify
