#pragma once
/// \file
/// The k largest of every row.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `top_k`. k is the number of columns of `indices`.
template <Scalar T>
struct TopKArgs {
  View<T const, 2> x{};    ///< (rows, D)
  View<T, 2> values{};     ///< (rows, k), the largest first; may be absent
  View<int, 2> indices{};  ///< (rows, k), where they stand in their row
};

namespace detail {

struct top_k_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, TopKArgs<T> const& a) const {
    Index const rows = a.x.extent(0), D = a.x.extent(1), k = a.indices.extent(1);
    check_shape("top_k", "indices", a.indices, Shape{rows, k}, "x");
    if (a.values) check_shape("top_k", "values", a.values, Shape{rows, k}, "indices");
    check_value(k <= D, "top_k", "k is ", k, ", and a row has only ", D, " elements");
    check_value(D <= 0x7fffffff, "top_k", "a row has ", D, " elements, and an index holds at most 2147483647");
    ProfileRange const range{"top_k"};
    if (k > 0) top_k_on(ctx, a);
  }
};

}  // namespace detail

/// The k largest elements of each row, in descending order, and their columns; of equal elements the one further left comes first.
///
///   values(r, j) = x(r, indices(r, j)) ;   indices(r, ·) = the first k columns ordered by (-x(r, i), i)
///
/// Shapes: x (rows, D); values and indices (rows, k) with 0 ≤ k ≤ D. Any strides; fast paths want the last dimension contiguous.
/// Values are compared, never computed with, so the result is exact in every scalar. Outputs must not overlap `x`.
/// Does not synchronise. Throws `shape_error` naming the argument that disagrees, `value_error` if k > D, and `value_error` naming
/// the first NaN of `x` by row and column (the outputs then hold nothing of use); infinities are ordinary values.
inline constexpr detail::top_k_fn top_k{};

}  // namespace blackmamba

#include <blackmamba/ops/top_k/cpu.hpp>
#include <blackmamba/ops/top_k/reference.hpp>
