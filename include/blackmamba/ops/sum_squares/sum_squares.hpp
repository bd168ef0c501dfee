#pragma once
/// \file
/// The sum of the squares of a flat array: the square of a gradient's norm.

#include <type_traits>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// The scalar of the sum: double for all that are computed in float, else the accumulator.
template <Scalar T>
using sum_squares_t = std::conditional_t<std::is_same_v<accumulator_t<T>, float>, double, accumulator_t<T>>;

/// Arguments of `sum_squares`. `T` is the storage scalar.
template <Scalar T>
struct SumSquaresArgs {
  View<T const, 1> x{};             ///< (n)
  View<sum_squares_t<T>, 1> sum{};  ///< (1) overwritten; may be absent on contexts of the host
};

namespace detail {

struct sum_squares_fn {
  template <class Ctx, Scalar T>
  auto operator()(Ctx const& ctx, SumSquaresArgs<T> const& a) const {
    constexpr bool queued = std::is_void_v<decltype(sum_squares_on(ctx, a))>;
    if (queued || a.sum) check_shape("sum_squares", "sum", a.sum, Shape<1>{1}, "the one sum");
    ProfileRange const range{"sum_squares"};
    if constexpr (queued) {
      sum_squares_on(ctx, a);
    } else {
      auto const sum = sum_squares_on(ctx, a);
      if (a.sum) a.sum[0] = sum;
      return sum;
    }
  }
};

}  // namespace detail

/// The sum of squares
///
///   sum = Σ_i x_i²
///
/// left in `sum`, and on contexts of the host returned as well.
///
/// Shapes: x (n), sum (1); n = 0 gives 0. Any stride; fast paths want it contiguous.
/// Squares and sums are in sum_squares_t<T>: in double the square of a float is exact and cannot overflow, so for every `T` but
/// double the sum is finite exactly when every element is, and NaN or infinite otherwise; of doubles, when their squares are. On
/// `Cpu` and `Cuda` the array is cut into pieces of a fixed size whose sums are added in order: same bits on any number of threads,
/// and in every run. On `Cuda` nothing waits and nothing is returned. Throws `shape_error` if `sum` is not one element, or absent
/// where nothing is returned.
inline constexpr detail::sum_squares_fn sum_squares{};

}  // namespace blackmamba

#include <blackmamba/ops/sum_squares/cpu.hpp>
#include <blackmamba/ops/sum_squares/reference.hpp>
