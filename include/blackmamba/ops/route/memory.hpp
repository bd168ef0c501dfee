#pragma once
/// \file
/// What a router carries from step to step, a number for each expert: how a pass begins from it, and what a pass leaves of it.

#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// Arguments of `route_memory`. `T` is the scalar of the memory.
template <Scalar T>
struct RouteMemoryArgs {
  View<T const, 1> memory{};                  ///< (E)
  View<accumulator_t<T> const, 1> earlier{};  ///< optional (E): goes before memory
  View<accumulator_t<T> const, 1> instead{};  ///< optional (E): stands in for both
  double otherwise = 0;                       ///< stands in for both where there is no `instead`
  View<accumulator_t<T>, 1> out{};            ///< (E) out
};

/// Arguments of `route_blend`. `A` is the scalar of y.
template <Scalar A>
struct RouteBlendArgs {
  View<A const, 1> x{};           ///< (E)
  View<Index const, 1> counts{};  ///< (E), in the place of x
  double factor = 1;              ///< of x
  bool add = false;               ///< whether to y as it was
  View<A, 1> y{};                 ///< (E) out
};

namespace detail {

/// Expert by expert, though each looks at all.
template <Scalar T>
struct MemoryRule {
  using A = accumulator_t<T>;
  RouteMemoryArgs<T> a;

  template <class S>
  BLACKMAMBA_HOST_DEVICE static bool untouched(View<S const, 1> const& view) {
    for (Index e = 0; e < view.extent(0); ++e)
      if (!(widen(view(e)) == A(0))) return false;
    return true;
  }
  BLACKMAMBA_HOST_DEVICE void operator()(Index e) const {
    a.out(e) = a.earlier && !untouched(a.earlier) ? a.earlier(e)
               : !untouched(a.memory)             ? widen(a.memory(e))
               : a.instead                        ? a.instead(e)
                                                  : A(a.otherwise);
  }
};

template <Scalar A>
struct BlendRule {
  RouteBlendArgs<A> a;
  BLACKMAMBA_HOST_DEVICE void operator()(Index e) const {
    A const x = A(a.factor) * (a.counts ? A(static_cast<double>(a.counts(e))) : a.x(e));
    a.y(e) = a.add ? a.y(e) + x : x;
  }
};

}  // namespace detail

template <Scalar T>
void route_memory_on(Reference const&, RouteMemoryArgs<T> const& a) {
  for (Index e = 0; e < a.out.extent(0); ++e) detail::MemoryRule<T>{a}(e);
}

template <Scalar A>
void route_blend_on(Reference const&, RouteBlendArgs<A> const& a) {
  for (Index e = 0; e < a.y.extent(0); ++e) detail::BlendRule<A>{a}(e);
}

namespace detail {

struct route_memory_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, RouteMemoryArgs<T> const& a) const {
    constexpr char const* op = "route_memory";
    check_shape(op, "out", a.out, a.memory.shape(), "memory");
    if (a.earlier) check_shape(op, "earlier", a.earlier, a.memory.shape(), "memory");
    if (a.instead) check_shape(op, "instead", a.instead, a.memory.shape(), "memory");
    ProfileRange const range{op};
    route_memory_on(ctx, a);
  }
};

struct route_blend_fn {
  template <class Ctx, Scalar A>
  requires std::same_as<A, accumulator_t<A>>
  void operator()(Ctx const& ctx, RouteBlendArgs<A> const& a) const {
    constexpr char const* op = "route_blend";
    check_value(static_cast<bool>(a.x) != static_cast<bool>(a.counts), op, "one of x and counts is needed");
    if (a.x) check_shape(op, "x", a.x, a.y.shape(), "y");
    if (a.counts) check_shape(op, "counts", a.counts, a.y.shape(), "y");
    ProfileRange const range{op};
    route_blend_on(ctx, a);
  }
};

}  // namespace detail

/// Where a pass begins. Memory is zeros before the first step, which no router that asks leaves behind, so out is the first of
/// `earlier`, `memory` and `instead` that is not all zeros, and `otherwise` where there is none; `instead`, where it is given, is
/// taken as it is.
///
/// Shapes: memory, earlier, instead, out (E), any strides. Memory is read in `T`, all else is in accumulator_t<T>. Nothing may
/// alias. Does not synchronise. Throws `shape_error` on extents that disagree.
inline constexpr detail::route_memory_fn route_memory{};

/// What a pass leaves: y ← factor · x, or with `add` y + factor · x.
///
/// Shapes: x, counts, y (E), any strides. In `A`. y may be x. Does not synchronise. Throws `shape_error` on extents that disagree,
/// and `value_error` where neither or both of x and counts are given.
inline constexpr detail::route_blend_fn route_blend{};

}  // namespace blackmamba
