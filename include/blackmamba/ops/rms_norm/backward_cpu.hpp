#pragma once
/// \file
/// The backward pass of RMSNorm on packs, pieces of rows over threads.

#include <blackmamba/core/math.hpp>
#include <blackmamba/ops/rms_norm/backward_packs.hpp>
#include <blackmamba/ops/rms_norm/backward_reference.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void rms_norm_backward_on(Cpu const& ctx, RmsNormBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  using V = simd::pack<A>;
  bool const fast = a.d_y.contiguous_rows() && a.weight.contiguous() &&
                    (a.residual ? a.residual.contiguous_rows() : a.x.contiguous_rows()) &&
                    (!a.d_residual || a.d_residual.contiguous_rows()) && (!a.d_x || a.d_x.contiguous_rows());
  if (!fast) return rms_norm_backward_on(static_cast<Reference const&>(ctx), a);

  Index const D = a.d_y.extent(1);
  T const* const weight = a.weight.data();
  detail::RowPieces const pieces{a.d_y.extent(0), D};
  auto const scope = ctx.scratch().scope();
  View<A, 2> sums;
  if (a.d_weight) sums = ctx.scratch().template take_zeros<A>(Shape{pieces.count, D});
  parallel_for(ctx.threads(), pieces.count, [&](Index piece) {
    A* const d_weight = sums ? &sums(piece, 0) : nullptr;
    for (Index r = pieces.begin(piece); r < pieces.end(piece); ++r) {
      T const* const x = a.residual ? nullptr : &a.x(r, 0);
      A const* const residual = a.residual ? &a.residual(r, 0) : nullptr;
      T const* const d_y = &a.d_y(r, 0);
      A* const d_residual = a.d_residual ? &a.d_residual(r, 0) : nullptr;
      T* const d_x = a.d_x ? &a.d_x(r, 0) : nullptr;
      auto const value = [&](auto at) { return residual ? at.load(residual) : at.load(x); };
      V squares{}, products{};
      detail::for_packs<A>(D, [&](auto at) {
        V const v = value(at);
        squares += v * v;
        products += at.load(d_y) * at.load(weight) * v;
      });
      A const scale = A(1) / sqrt(simd::sum(squares) / A(D) + A(a.epsilon));
      A const along = simd::sum(products) * scale / A(D);
      detail::for_packs<A>(D, [&](auto at) {
        V const normal = value(at) * scale, d = at.load(d_y);
        if (d_weight) at.store(d_weight, at.load(d_weight) + d * normal);
        V total = (d * at.load(weight) - normal * along) * scale;
        if (d_residual) at.store(d_residual, total += at.load(d_residual));
        if (d_x) at.store(d_x, total);
      });
    }
  });
  if (a.d_weight) detail::add_pieces(sums, a.d_weight);
}

}  // namespace blackmamba
