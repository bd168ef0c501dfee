#pragma once
/// \file
/// The sum of two tensors: where parallel branches of a block meet.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/parallel.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `add`.
template <Scalar T>
struct AddArgs {
  View<T const, 2> a{};  ///< (rows, D)
  View<T const, 2> b{};  ///< (rows, D)
  View<T, 2> y{};        ///< (rows, D)
};

namespace detail {

struct add_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, AddArgs<T> const& args) const {
    check_shape("add", "b", args.b, args.a.shape(), "a");
    check_shape("add", "y", args.y, args.a.shape(), "a");
    ProfileRange const range{"add"};
    add_on(ctx, args);
  }
};

}  // namespace detail

/// y = a + b, element by element.
///
/// Shapes: all (rows, D), any strides. Stored in `T`, added in accumulator_t<T>, rounded once. `y` may alias `a` or `b`.
/// Does not synchronise. Throws `shape_error` naming the argument that disagrees with `a`. It has no backward pass of its own: both
/// inputs have the gradient of y, and where one tensor went two ways this very sum adds its gradients.
inline constexpr detail::add_fn add{};

namespace detail {

template <Scalar T>
void add_row(AddArgs<T> const& args, Index r) {
  for (Index i = 0; i < args.y.extent(1); ++i) args.y(r, i) = static_cast<T>(widen(args.a(r, i)) + widen(args.b(r, i)));
}

}  // namespace detail

/// Row after row.
template <Scalar T>
void add_on(Reference const&, AddArgs<T> const& args) {
  for (Index r = 0; r < args.y.extent(0); ++r) detail::add_row(args, r);
}

/// Rows shared among the threads.
template <Scalar T>
void add_on(Cpu const& ctx, AddArgs<T> const& args) {
  parallel_ranges(ctx.threads(), args.y.extent(0), 1 + (Index{1} << 15) / (args.y.extent(1) + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) detail::add_row(args, r);
  });
}

}  // namespace blackmamba
