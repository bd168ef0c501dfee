#pragma once
/// \file
/// What softmax, log-softmax and cross-entropy need of a row: its maximum, and the sum of the other exponentials beside it.

#include <blackmamba/core/math.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

/// sum_i e^(x_i - max) = 1 + rest, where the 1 is one element that is the maximum. Kept apart, a small rest keeps its digits, and
/// log1p(rest) is exact to the rounding where nearly all of the probability lies on one element. Nothing overflows.
/// A row with NaN or +inf in it, or with nothing but -inf, has rest NaN.
template <class A>
struct RowSum {
  A max, rest;
};

template <class T>
RowSum<accumulator_t<T>> row_sum(View<T, 1> x) {
  using A = accumulator_t<T>;
  Index at = 0;
  for (Index i = 1; i < x.extent(0); ++i)
    if (widen(x[at]) < widen(x[i])) at = i;
  A const max = widen(x[at]);
  A rest = max - max;  // 0, or NaN if the maximum is not finite
  for (Index i = 0; i < x.extent(0); ++i)
    if (i != at) rest += exp(widen(x[i]) - max);
  return {max, rest};
}

}  // namespace blackmamba::detail
