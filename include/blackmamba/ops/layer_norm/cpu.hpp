#pragma once
/// \file
/// LayerNorm on packs, rows over threads.

#include <blackmamba/core/math.hpp>
#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/layer_norm/reference.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void layer_norm_on(Cpu const& ctx, LayerNormArgs<T> const& a) {
  using A = accumulator_t<T>;
  using namespace simd;
  constexpr Index W = width<A>;

  bool const fast = a.y.contiguous_rows() && a.weight.contiguous() && (!a.bias || a.bias.contiguous()) &&
                    (!a.x || a.x.contiguous_rows()) && (!a.residual || a.residual.contiguous_rows());
  if (!fast) return layer_norm_on(static_cast<Reference const&>(ctx), a);

  Index const rows = a.y.extent(0), D = a.y.extent(1), whole = D / W * W, rest = D - whole;
  T const* const weight = a.weight.data();
  T const* const bias = a.bias.data();
  Index const rows_per_piece = 1 + (1 << 14) / (D + 1);
  parallel_ranges(ctx.threads(), rows, rows_per_piece, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      T const* const x = a.x ? &a.x(r, 0) : nullptr;
      A* const residual = a.residual ? &a.residual(r, 0) : nullptr;
      T* const y = &a.y(r, 0);
      // Three passes over a row that stays in the first-level cache: a centre, mean and variance about it, the result.
      pack<A> sums{};
      for (Index i = 0; i < whole; i += W) {
        pack<A> v = x ? load(x + i) : pack<A>{};
        if (residual) store(residual + i, v += load(residual + i));
        sums += v;
      }
      if (rest) {
        pack<A> v = x ? load_part(x + whole, rest) : pack<A>{};
        if (residual) store_part(residual + whole, v += load_part(residual + whole, rest), rest);
        sums += v;
      }
      A const centre = sum(sums) / A(D);
      auto const centred = [&](Index i) { return (residual ? load(residual + i) : load(x + i)) - centre; };
      auto const centred_rest = [&] {
        pack<A> d = (residual ? load_part(residual + whole, rest) : load_part(x + whole, rest)) - centre;
        for (Index i = rest; i < W; ++i) d[i] = 0;
        return d;
      };
      pack<A> differences{}, squares{};
      for (Index i = 0; i < whole; i += W) {
        pack<A> const d = centred(i);
        differences += d;
        squares += d * d;
      }
      if (rest) {
        pack<A> const d = centred_rest();
        differences += d;
        squares += d * d;
      }
      A const difference = sum(differences), shift = difference / A(D);
      A const scale = A(1) / sqrt((sum(squares) - difference * shift) / A(D) + A(a.epsilon));
      for (Index i = 0; i < whole; i += W) {
        pack<A> const normal = (centred(i) - shift) * scale * load(weight + i);
        store(y + i, bias ? normal + load(bias + i) : normal);
      }
      if (rest) {
        pack<A> const normal = (centred_rest() - shift) * scale * load_part(weight + whole, rest);
        store_part(y + whole, bias ? normal + load_part(bias + whole, rest) : normal, rest);
      }
    }
  });
}

}  // namespace blackmamba
