#pragma once
/// \file
/// The sum of the squares of a flat array: the square of a gradient's norm.

#include <type_traits>

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `sum_squares`. `T` is the storage scalar.
template <Scalar T>
struct SumSquaresArgs {
  View<T const, 1> x{};  ///< (n)
};

/// The scalar of the sum: double for all that are computed in float, else the accumulator.
template <Scalar T>
using sum_squares_t = std::conditional_t<std::is_same_v<accumulator_t<T>, float>, double, accumulator_t<T>>;

namespace detail {

struct sum_squares_fn {
  template <class Ctx, Scalar T>
  sum_squares_t<T> operator()(Ctx const& ctx, SumSquaresArgs<T> const& a) const {
    ProfileRange const range{"sum_squares"};
    return sum_squares_on(ctx, a);
  }
};

}  // namespace detail

/// Returns the sum of squares
///
///   sum_i x_i²
///
/// Shape: x (n); n = 0 gives 0. Any stride; fast paths want it contiguous.
/// Squares and sums are in sum_squares_t<T>: in double the square of a float is exact and cannot overflow, so for every `T` but
/// double the sum is finite exactly when every element is, and NaN or infinite otherwise; of doubles, when their squares are. On
/// `Cpu` the array is cut into pieces of a fixed size whose sums are added in order: same bits on any number of threads.
/// Synchronises, since the value comes back. Throws nothing of its own.
inline constexpr detail::sum_squares_fn sum_squares{};

}  // namespace blackmamba

#include <blackmamba/ops/sum_squares/cpu.hpp>
#include <blackmamba/ops/sum_squares/reference.hpp>
