#pragma once
/// \file
/// Tokens sorted by expert, and their results put back: the two ends of every mixture of experts.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `dispatch`. An assignment is a pair of token and slot, numbered token · k + slot.
struct DispatchArgs {
  View<int const, 2> experts{};  ///< (tokens, k) the expert of each assignment; -1: dropped
  View<Index, 1> offsets{};      ///< (E + 1) out: expert e has the places [offsets[e], offsets[e + 1])
  View<Index, 1> order{};        ///< (tokens · k) out: the assignment at each place; -1 at places past offsets[E]
  View<Index, 2> places{};       ///< (tokens, k) out: the place of each assignment; -1: dropped
};

/// Arguments of `gather_tokens`.
template <Scalar T>
struct GatherArgs {
  View<T const, 2> x{};          ///< (tokens, D)
  View<Index const, 1> order{};  ///< (tokens · slots) as `dispatch` wrote it
  Index slots = 1;               ///< k, assignments of a token
  View<T, 2> y{};                ///< (tokens · slots, D) out: row p is the token of the assignment at place p
};

/// Arguments of `combine`.
template <Scalar T>
struct CombineArgs {
  View<T const, 2> x{};                       ///< (tokens · k, D) the experts' outputs, by place
  View<Index const, 2> places{};              ///< (tokens, k) as `dispatch` wrote it
  View<accumulator_t<T> const, 2> weights{};  ///< (tokens, k)
  View<T, 2> y{};                             ///< (tokens, D)
};

namespace detail {

struct dispatch_fn {
  template <class Ctx>
  void operator()(Ctx const& ctx, DispatchArgs const& a) const {
    check_value(a.offsets.extent(0) >= 1, "dispatch", "offsets has length 0, not the number of experts + 1");
    check_shape("dispatch", "places", a.places, a.experts.shape(), "experts");
    check_shape("dispatch", "order", a.order, Shape<1>{element_count(a.experts.shape())}, "experts");
    ProfileRange const range{"dispatch"};
    dispatch_on(ctx, a);
  }
};

struct gather_tokens_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, GatherArgs<T> const& a) const {
    check_value(a.slots >= 1, "gather_tokens", "slots is ", a.slots, ", not at least 1");
    Index const rows = element_count(Shape<2>{a.x.extent(0), a.slots});
    check_shape("gather_tokens", "order", a.order, Shape<1>{rows}, "x by slots");
    check_shape("gather_tokens", "y", a.y, Shape<2>{rows, a.x.extent(1)}, "x by slots");
    ProfileRange const range{"gather_tokens"};
    gather_tokens_on(ctx, a);
  }
};

struct combine_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, CombineArgs<T> const& a) const {
    check_shape("combine", "x", a.x, Shape<2>{element_count(a.places.shape()), a.y.extent(1)}, "places with y");
    check_shape("combine", "weights", a.weights, a.places.shape(), "places");
    check_shape("combine", "y", a.y, Shape<2>{a.places.extent(0), a.x.extent(1)}, "places with x");
    ProfileRange const range{"combine"};
    combine_on(ctx, a);
  }
};

}  // namespace detail

/// Sorts assignments by expert with a stable counting sort: the places of an expert hold its assignments in ascending order.
///
///   offsets = prefix sums of the experts' counts ;   order[places(t, s)] = t · k + s
///
/// Shapes: experts, places (tokens, k); offsets (E + 1); order (tokens · k). Integers only; the same result on every context and
/// with any number of threads. Nothing may alias. Does not synchronise. Throws `shape_error` on extents that disagree, and
/// `value_error` naming token, slot and value on an expert outside -1 to E - 1; nothing is written then.
inline constexpr detail::dispatch_fn dispatch{};

/// Copies tokens to the places of their assignments:
///
///   y_p = x_{order[p] div slots}
///
/// Shapes: x (tokens, D); order (tokens · slots); y (tokens · slots, D); any strides. Rows of `y` whose place holds -1 stay as
/// they were. `y` must not alias `x`. Does not synchronise. Throws `shape_error` on extents that disagree, and `value_error` on
/// an assignment outside -1 to tokens · slots - 1.
inline constexpr detail::gather_tokens_fn gather_tokens{};

/// Adds up what a token's experts put out, in the order of its slots:
///
///   y_t = Σ_s weights(t, s) · x_{places(t, s)}
///
/// Shapes: x (tokens · k, D); places, weights (tokens, k); y (tokens, D); any strides. Summed in accumulator_t<T>, rounded to `T`
/// once. A dropped slot (place -1) adds nothing, and its weight is not read; a token whose slots are all dropped gets 0. Rows of
/// `x` that no place names are not read. `y` must not alias `x`. Does not synchronise. Throws `shape_error` on extents that
/// disagree, and `value_error` naming token, slot and value on a place outside -1 to tokens · k - 1.
inline constexpr detail::combine_fn combine{};

}  // namespace blackmamba

#include <blackmamba/ops/dispatch/cpu.hpp>
#include <blackmamba/ops/dispatch/reference.hpp>
