#pragma once
/// \file
/// The gradient of values given to each channel of a head.

#include <concepts>

#include <blackmamba/ops/expand_heads/expand_heads.hpp>

namespace blackmamba {

/// Arguments of `expand_heads_backward`: what the forward pass read, the gradient of what it wrote, and where those of its inputs
/// go.
template <Scalar T>
struct ExpandHeadsBackwardArgs {
  View<T const, 2> x{};      ///< (rows, H)
  View<T const, 1> bias{};   ///< optional (H)
  bool softplus = false;     ///< as in the forward pass
  double low = 0, high = 0;  ///< as in the forward pass

  View<T const, 2> d_y{};  ///< (rows, H · P)

  View<T, 2> d_x{};                    ///< (rows, H) overwritten; absent: not computed
  View<accumulator_t<T>, 1> d_bias{};  ///< (H) added to; absent: not computed
};

namespace detail {

struct expand_heads_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, ExpandHeadsBackwardArgs<T> const& args) const {
    constexpr char const* op = "expand_heads_backward";
    Index const H = args.x.extent(1), D = args.d_y.extent(1);
    check_value(H > 0 && D % H == 0, op, "d_y has ", D, " channels, not a multiple of the ", H, " heads of x");
    check_shape(op, "d_y", args.d_y, Shape<2>{args.x.extent(0), D}, "x");
    if (args.bias) check_shape(op, "bias", args.bias, Shape<1>{H}, "x");
    check_value(!args.d_bias || args.bias, op, "d_bias is asked for, and bias is absent");
    if (args.d_x) check_shape(op, "d_x", args.d_x, args.x.shape(), "x");
    if (args.d_bias) check_shape(op, "d_bias", args.d_bias, Shape<1>{H}, "x");
    ProfileRange const range{op};
    expand_heads_backward_on(ctx, args);
  }
};

/// The derivative of what `expand_heads` makes of a value, at that value.
template <Scalar T>
accumulator_t<T> expand_heads_slope(ExpandHeadsBackwardArgs<T> const& args, Index r, Index h) {
  using A = accumulator_t<T>;
  A const before = args.bias ? widen(args.x(r, h)) + widen(args.bias(h)) : widen(args.x(r, h));
  if (args.low < args.high) {
    A const value = args.softplus ? softplus(before) : before;
    if (value < A(args.low) || A(args.high) < value) return A(0);
  }
  return args.softplus ? sigmoid(before) : A(1);
}

}  // namespace detail

/// Gradients of `expand_heads`. With v = x(r, h) + bias(h):
///
///   dx(r, h) = f'(v) Σ_p dy(r, h P + p) ;   dbias(h) = Σ_r dx(r, h)
///
/// where f' is σ(v) with softplus and 1 without, and 0 where the clamp took over; at its very ends it did not.
/// Shapes: x, d_x (rows, H); bias, d_bias (H); d_y (rows, H P), any strides. d_x is stored in `T`, rounded once, and overwritten;
/// d_bias is accumulator_t<T>, summed before that rounding, and added to. An absent one is not computed. No aliasing. Results do
/// not depend on the number of threads. Does not synchronise. Throws `shape_error`, and `value_error` when heads do not divide the
/// channels or d_bias is asked for without a bias. Source: Dao & Gu 2024, arXiv:2405.21060, section 7.
inline constexpr detail::expand_heads_backward_fn expand_heads_backward{};

/// Plain loops for every context: rows go over threads, in pieces whose shares of d_bias are added in order.
template <class Ctx, Scalar T>
requires std::derived_from<Ctx, Reference>
void expand_heads_backward_on(Ctx const& ctx, ExpandHeadsBackwardArgs<T> const& args) {
  using A = accumulator_t<T>;
  constexpr Index grain = 64, lanes = 8;  // one sum alone would wait for its own last addition, not for memory
  Index const rows = args.x.extent(0), H = args.x.extent(1), P = args.d_y.extent(1) / H;
  auto const scope = ctx.scratch().scope();
  auto const d_bias = ctx.scratch().template take_zeros<A>(Shape<2>{args.d_bias ? ceil_div(rows, grain) : 0, H});
  parallel_ranges(ctx.threads(), rows, grain, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r)
      for (Index h = 0; h < H; ++h) {
        A parts[lanes]{};
        for (Index p = 0; p < P; ++p) parts[p % lanes] += widen(args.d_y(r, h * P + p));
        A sum{0};
        for (A const part : parts) sum += part;
        sum *= detail::expand_heads_slope(args, r, h);
        if (args.d_x) args.d_x(r, h) = static_cast<T>(sum);
        if (args.d_bias) d_bias(begin / grain, h) += sum;
      }
  });
  for (Index piece = 0; piece < d_bias.extent(0); ++piece)
    for (Index h = 0; h < H; ++h) args.d_bias(h) += d_bias(piece, h);
}

}  // namespace blackmamba
