#pragma once
/// \file
/// Problems for `sum_squares`.

#include <blackmamba/ops/sum_squares/sum_squares.hpp>
#include <blackmamba/verify/check.hpp>

namespace blackmamba::verify {

struct SumSquaresSize {
  Index n = 0;
};

inline std::string to_string(SumSquaresSize const& s) { return concat("n ", s.n); }

template <Scalar T>
struct SumSquaresProblem {
  using Size = SumSquaresSize;
  static constexpr char const* name = "sum_squares";
  static constexpr auto operation = sum_squares;

  static std::vector<Size> sizes() {
    return {{0}, {1}, {3}, {4}, {7}, {8}, {9}, {255}, {1024}, {1025}, {4099}, {100003}, {1 << 20}};
  }

  Size size;
  Tensor<T, 1> x;
  Tensor<sum_squares_t<T>, 1> sum;

  template <class Stored>
  SumSquaresProblem(Size const& s, Inputs<Stored>& in)
      : size{s}, x{in.template storage<T>(Shape<1>{s.n})}, sum{unwritten<sum_squares_t<T>>(Shape<1>{1})} {}

  auto args(auto& place) { return SumSquaresArgs<T>{.x = place.in(x), .sum = place.out(sum)}; }

  auto outputs() const { return std::tuple{Output{"sum", sum, Cost{.terms = static_cast<double>(size.n), .scale = 1}}}; }
};

}  // namespace blackmamba::verify
