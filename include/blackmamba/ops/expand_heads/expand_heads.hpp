#pragma once
/// \file
/// Values of a head, given to each of its channels: Mamba-2 learns one step size, decay and skip a head, and the scan wants one
/// a channel.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/math.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>
#include <blackmamba/ops/activation/functions.hpp>

namespace blackmamba {

/// Arguments of `expand_heads`.
template <Scalar T>
struct ExpandHeadsArgs {
  View<T const, 2> x{};      ///< (rows, H)
  View<T const, 1> bias{};   ///< optional (H)
  bool softplus = false;     ///< apply log(1 + e^x) after the bias
  double low = 0, high = 0;  ///< clamp to [low, high] after that, when low < high
  View<T, 2> y{};            ///< (rows, H · P)
};

namespace detail {

struct expand_heads_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, ExpandHeadsArgs<T> const& args) const {
    Index const H = args.x.extent(1), D = args.y.extent(1);
    check_value(H > 0 && D % H == 0, "expand_heads", "y has ", D, " channels, not a multiple of the ", H, " heads of x");
    check_shape("expand_heads", "y", args.y, Shape<2>{args.x.extent(0), D}, "x");
    if (args.bias) check_shape("expand_heads", "bias", args.bias, Shape<1>{H}, "x");
    ProfileRange const range{"expand_heads"};
    expand_heads_on(ctx, args);
  }
};

}  // namespace detail

/// y(r, h P + p) = clamp(softplus(x(r, h) + bias(h))) for every channel p of head h, each step only if it is asked for.
///
/// Shapes: x (rows, H); bias (H); y (rows, H P). Stored in `T`, computed in accumulator_t<T>, rounded once. No aliasing.
/// Does not synchronise. Throws `shape_error`, and `value_error` when heads do not divide the channels.
/// Source: Dao & Gu 2024, arXiv:2405.21060, section 7.
inline constexpr detail::expand_heads_fn expand_heads{};

/// Plain loops: one value a head is computed, and memory is what the copies wait for.
template <Scalar T>
void expand_heads_on(Reference const&, ExpandHeadsArgs<T> const& args) {
  using A = accumulator_t<T>;
  Index const H = args.x.extent(1), P = args.y.extent(1) / H;
  for (Index r = 0; r < args.x.extent(0); ++r)
    for (Index h = 0; h < H; ++h) {
      A value = widen(args.x(r, h));
      if (args.bias) value += widen(args.bias(h));
      if (args.softplus) value = softplus(value);
      if (args.low < args.high) value = value < A(args.low) ? A(args.low) : value > A(args.high) ? A(args.high) : value;
      for (Index p = 0; p < P; ++p) args.y(r, h * P + p) = static_cast<T>(value);
    }
}

}  // namespace blackmamba
