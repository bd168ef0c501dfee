#pragma once
/// \file
/// The backward pass of LayerNorm on packs, pieces of rows over threads.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/layer_norm/backward_reference.hpp>
#include <blackmamba/ops/rms_norm/backward_packs.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void layer_norm_backward_on(Cpu const& ctx, LayerNormBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  using V = simd::pack<A>;
  bool const fast = a.d_y.contiguous_rows() && a.weight.contiguous() &&
                    (a.residual ? a.residual.contiguous_rows() : a.x.contiguous_rows()) &&
                    (!a.d_residual || a.d_residual.contiguous_rows()) && (!a.d_x || a.d_x.contiguous_rows());
  if (!fast) return layer_norm_backward_on(static_cast<Reference const&>(ctx), a);

  Index const D = a.d_y.extent(1);
  T const* const weight = a.weight.data();
  detail::RowPieces const pieces{a.d_y.extent(0), D};
  auto const scope = ctx.scratch().scope();
  View<A, 2> weight_sums, bias_sums;
  if (a.d_weight) weight_sums = ctx.scratch().template take_zeros<A>(Shape{pieces.count, D});
  if (a.d_bias) bias_sums = ctx.scratch().template take_zeros<A>(Shape{pieces.count, D});
  parallel_for(ctx.threads(), pieces.count, [&](Index piece) {
    A* const d_weight = weight_sums ? &weight_sums(piece, 0) : nullptr;
    A* const d_bias = bias_sums ? &bias_sums(piece, 0) : nullptr;
    for (Index r = pieces.begin(piece); r < pieces.end(piece); ++r) {
      T const* const x = a.residual ? nullptr : &a.x(r, 0);
      A const* const residual = a.residual ? &a.residual(r, 0) : nullptr;
      T const* const d_y = &a.d_y(r, 0);
      A* const d_residual = a.d_residual ? &a.d_residual(r, 0) : nullptr;
      T* const d_x = a.d_x ? &a.d_x(r, 0) : nullptr;
      auto const value = [&](auto at) { return residual ? at.load(residual) : at.load(x); };
      V total_of_values{};
      detail::for_packs<A>(D, [&](auto at) { total_of_values += value(at); });
      A const centre = simd::sum(total_of_values) / A(D);
      V rests{}, squares{}, d_sums{}, products{};
      detail::for_packs<A>(D, [&](auto at) {
        V const d = at.clear(value(at) - centre), g = at.load(d_y) * at.load(weight);
        rests += d;
        squares += d * d;
        d_sums += g;
        products += g * d;
      });
      A const rest = simd::sum(rests), shift = rest / A(D), d_sum = simd::sum(d_sums);
      A const scale = A(1) / sqrt((simd::sum(squares) - rest * shift) / A(D) + A(a.epsilon));
      A const d_mean = d_sum / A(D), along = (simd::sum(products) - d_sum * shift) * scale / A(D);
      detail::for_packs<A>(D, [&](auto at) {
        V const normal = (value(at) - centre - shift) * scale, d = at.load(d_y);
        if (d_weight) at.store(d_weight, at.load(d_weight) + d * normal);
        if (d_bias) at.store(d_bias, at.load(d_bias) + d);
        V total = (d * at.load(weight) - d_mean - normal * along) * scale;
        if (d_residual) at.store(d_residual, total += at.load(d_residual));
        if (d_x) at.store(d_x, total);
      });
    }
  });
  if (a.d_weight) detail::add_pieces(weight_sums, a.d_weight);
  if (a.d_bias) detail::add_pieces(bias_sums, a.d_bias);
}

}  // namespace blackmamba
