#pragma once
/// \file
/// A tensor in another place, and in another scalar if need be.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/parallel.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `convert`.
template <Scalar From, Scalar To>
struct ConvertArgs {
  View<From const, 2> x{};  ///< (rows, D)
  View<To, 2> y{};          ///< (rows, D)
};

namespace detail {

struct convert_fn {
  template <class Ctx, Scalar From, Scalar To>
  void operator()(Ctx const& ctx, ConvertArgs<From, To> const& args) const {
    check_shape("convert", "y", args.y, args.x.shape(), "x");
    ProfileRange const range{"convert"};
    convert_on(ctx, args);
  }
};

template <Scalar From, Scalar To>
void convert_row(ConvertArgs<From, To> const& args, Index r) {
  for (Index i = 0; i < args.y.extent(1); ++i) {
    if constexpr (std::is_same_v<From, To>)
      args.y(r, i) = args.x(r, i);
    else
      args.y(r, i) = static_cast<To>(static_cast<accumulator_t<To>>(widen(args.x(r, i))));
  }
}

}  // namespace detail

/// y = x, element by element, rounded to the scalar of y: the residual stream where a layer keeps it, and its gradient where a
/// mixer reads it in the storage scalar.
///
/// Shapes: (rows, D) both, any strides. No aliasing. Does not synchronise. Throws `shape_error` on shapes that disagree.
inline constexpr detail::convert_fn convert{};

/// Row after row.
template <Scalar From, Scalar To>
void convert_on(Reference const&, ConvertArgs<From, To> const& args) {
  for (Index r = 0; r < args.y.extent(0); ++r) detail::convert_row(args, r);
}

/// Rows shared among the threads.
template <Scalar From, Scalar To>
void convert_on(Cpu const& ctx, ConvertArgs<From, To> const& args) {
  parallel_ranges(ctx.threads(), args.y.extent(0), 1 + (Index{1} << 15) / (args.y.extent(1) + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) detail::convert_row(args, r);
  });
}

}  // namespace blackmamba
