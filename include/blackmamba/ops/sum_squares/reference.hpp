#pragma once
/// \file
/// The sum of squares, plainly.

#include <blackmamba/ops/sum_squares/sum_squares.hpp>

namespace blackmamba {

template <Scalar T>
sum_squares_t<T> sum_squares_on(Reference const&, SumSquaresArgs<T> const& a) {
  using S = sum_squares_t<T>;
  S sum{0};
  for (Index i = 0; i < a.x.extent(0); ++i) {
    S const x = static_cast<S>(widen(a.x(i)));
    sum += x * x;
  }
  return sum;
}

}  // namespace blackmamba
