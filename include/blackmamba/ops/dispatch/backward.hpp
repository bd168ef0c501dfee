#pragma once
/// \file
/// Gradients of the two ends of a mixture of experts. The sort between them moves integers and has none.

#include <blackmamba/ops/dispatch/dispatch.hpp>

namespace blackmamba {

/// Arguments of `gather_tokens_backward`. `places` says what the forward pass's `order` says, by token.
template <Scalar T>
struct GatherBackwardArgs {
  View<Index const, 2> places{};  ///< (tokens, k) as `dispatch` wrote it
  View<T const, 2> d_y{};         ///< (tokens · k, D) gradient of the loss by the gathered rows
  View<T, 2> d_x{};               ///< (tokens, D) out, overwritten
};

/// Arguments of `combine_backward`.
template <Scalar T>
struct CombineBackwardArgs {
  View<T const, 2> x{};                       ///< (tokens · k, D) the experts' outputs, by place
  View<Index const, 2> places{};              ///< (tokens, k) as `dispatch` wrote it
  View<accumulator_t<T> const, 2> weights{};  ///< (tokens, k)
  View<T const, 2> d_y{};                     ///< (tokens, D) gradient of the loss by what was combined
  View<T, 2> d_x{};                           ///< optional (tokens · k, D) out, overwritten where a place is used
  View<accumulator_t<T>, 2> d_weights{};      ///< optional (tokens, k) out, overwritten
};

namespace detail {

inline void check_places(char const* op, View<Index const, 2> places) {
  for (Index t = 0; t < places.extent(0); ++t)
    for (Index s = 0; s < places.extent(1); ++s)
      check_value(places(t, s) >= -1 && places(t, s) < places.size(), op, "the place of token ", t, ", slot ", s, " is ",
                  places(t, s), ", outside -1 to ", places.size() - 1);
}

struct gather_tokens_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, GatherBackwardArgs<T> const& a) const {
    Index const tokens = a.places.extent(0), D = a.d_y.extent(1);
    check_shape("gather_tokens_backward", "d_y", a.d_y, Shape<2>{element_count(a.places.shape()), D}, "places");
    check_shape("gather_tokens_backward", "d_x", a.d_x, Shape<2>{tokens, D}, "places with d_y");
    ProfileRange const range{"gather_tokens_backward"};
    gather_tokens_backward_on(ctx, a);
  }
};

struct combine_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, CombineBackwardArgs<T> const& a) const {
    Index const tokens = a.places.extent(0), D = a.x.extent(1);
    check_shape("combine_backward", "x", a.x, Shape<2>{element_count(a.places.shape()), D}, "places");
    check_shape("combine_backward", "weights", a.weights, a.places.shape(), "places");
    check_shape("combine_backward", "d_y", a.d_y, Shape<2>{tokens, D}, "places with x");
    if (a.d_x) check_shape("combine_backward", "d_x", a.d_x, a.x.shape(), "x");
    if (a.d_weights) check_shape("combine_backward", "d_weights", a.d_weights, a.places.shape(), "places");
    ProfileRange const range{"combine_backward"};
    combine_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradient of `gather_tokens`, which copies a token once for each of its slots:
///
///   y_p = x_t for p = places(t, s)   ⇒   d_x_t = Σ_s d_y_{places(t, s)} , in the order of the slots
///
/// Shapes: places (tokens, k); d_y (tokens · k, D); d_x (tokens, D); any strides. Summed in accumulator_t<T>, rounded to `T` once;
/// d_x is overwritten. A dropped slot (place -1) adds nothing; a token whose slots are all dropped gets 0. Rows of `d_y` that no
/// place names are not read. `d_x` must not alias `d_y`. Does not synchronise. Throws `shape_error` on extents that disagree, and
/// `value_error` naming token, slot and value on a place outside -1 to tokens · k - 1; nothing is written then.
inline constexpr detail::gather_tokens_backward_fn gather_tokens_backward{};

/// Gradient of `combine`, for every slot (t, s) with p = places(t, s):
///
///   y_t = Σ_s weights(t, s) · x_p   ⇒   d_x_p = weights(t, s) · d_y_t ,   d_weights(t, s) = Σ_d x(p, d) · d_y(t, d)
///
/// Shapes: x, d_x (tokens · k, D); places, weights, d_weights (tokens, k); d_y (tokens, D); any strides. No two slots may share a
/// place. Products and sums in accumulator_t<T>; d_x is rounded to `T` once. Both results are overwritten, and an absent one is not
/// computed. A dropped slot (place -1) gets d_weights 0, and its weight is not read; rows of `x` that no place names are not read,
/// and those of `d_x` stay as they were. `d_x` may be `x`; nothing else may alias. Does not synchronise. Throws `shape_error` on
/// extents that disagree, and `value_error` naming token, slot and value on a place outside -1 to tokens · k - 1; nothing is
/// written then.
inline constexpr detail::combine_backward_fn combine_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/dispatch/backward_cpu.hpp>
#include <blackmamba/ops/dispatch/backward_reference.hpp>
