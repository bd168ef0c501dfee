#pragma once
/// \file
/// From one draw to the next, in the memory of the context: so a step, a draw and this can be one CUDA graph.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `advance_sampling`. All lie in the memory of the context.
struct AdvanceSamplingArgs {
  View<Token const, 1> tokens{};  ///< (B) that were drawn
  View<Token, 2> history{};       ///< (B, capacity) out, one column of it; may be absent
  View<Index, 1> column{};        ///< (1) in, out: which one; absent with the history
  View<Index, 1> draws{};         ///< (B) in, out: the numbers of the next draws; may be absent
};

namespace detail {

struct advance_sampling_fn {
  template <class Ctx>
  void operator()(Ctx const& ctx, AdvanceSamplingArgs const& a) const {
    constexpr char const* op = "advance_sampling";
    Index const B = a.tokens.extent(0);
    if (a.history) {
      check_shape(op, "history", a.history, Shape{B, a.history.extent(1)}, "tokens");
      check_shape(op, "column", a.column, Shape<1>{1}, "the history");
    }
    if (a.draws) check_shape(op, "draws", a.draws, Shape{B}, "tokens");
    ProfileRange const range{op};
    advance_sampling_on(ctx, a);
  }
};

}  // namespace detail

/// What comes between a draw of tokens and the next:
///
///   history(b, column) = tokens(b) ;   column ← column + 1 ;   draws(b) ← draws(b) + B
///
/// so that B rows which began with the draws 0 … B-1 never share a random number. Shapes: tokens, draws (B); history (B, capacity);
/// column (1). Any strides. Does not synchronise. Throws `shape_error` naming the argument that disagrees, and `value_error` where
/// the column is outside the history, which then stays as it was, like all else: on `Cuda` the next wait for the context throws it.
inline constexpr detail::advance_sampling_fn advance_sampling{};

template <std::derived_from<Reference> Ctx>
void advance_sampling_on(Ctx const&, AdvanceSamplingArgs const& a) {
  Index const B = a.tokens.extent(0);
  if (a.history) {
    Index const column = a.column[0], capacity = a.history.extent(1);
    check_value(column >= 0 && column < capacity, "advance_sampling", "column ", column, " is outside the history, which has ",
                capacity);
    for (Index b = 0; b < B; ++b) a.history(b, column) = a.tokens[b];
    ++a.column[0];
  }
  if (a.draws)
    for (Index b = 0; b < B; ++b) a.draws[b] += B;
}

}  // namespace blackmamba
