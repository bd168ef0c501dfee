#pragma once
/// \file
/// RMSNorm on packs, rows over threads.

#include <blackmamba/core/math.hpp>
#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/rms_norm/reference.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void rms_norm_on(Cpu const& ctx, RmsNormArgs<T> const& a) {
  using A = accumulator_t<T>;
  using namespace simd;
  constexpr Index W = width<A>;

  bool const fast = a.y.contiguous_rows() && a.weight.contiguous() && (!a.x || a.x.contiguous_rows()) &&
                    (!a.residual || a.residual.contiguous_rows());
  if (!fast) return rms_norm_on(static_cast<Reference const&>(ctx), a);

  Index const rows = a.y.extent(0), D = a.y.extent(1), whole = D / W * W;
  Index const rows_per_piece = 1 + (1 << 14) / (D + 1);
  parallel_ranges(ctx.threads(), rows, rows_per_piece, [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      T const* const x = a.x ? &a.x(r, 0) : nullptr;
      A* const residual = a.residual ? &a.residual(r, 0) : nullptr;
      T* const y = &a.y(r, 0);
      // One pass adds into the stream and sums the squares; the second scales.
      pack<A> squares{};
      for (Index i = 0; i < whole; i += W) {
        pack<A> const v = (residual ? load(residual + i) : pack<A>{}) + (x ? load(x + i) : pack<A>{});
        if (residual) store(residual + i, v);
        squares += v * v;
      }
      if (Index const rest = D - whole) {
        pack<A> const v = (residual ? load_part(residual + whole, rest) : pack<A>{}) + (x ? load_part(x + whole, rest) : pack<A>{});
        if (residual) store_part(residual + whole, v, rest);
        squares += v * v;
      }
      A const scale = A(1) / sqrt(sum(squares) / A(D) + A(a.epsilon));
      for (Index i = 0; i < whole; i += W)
        store(y + i, (residual ? load(residual + i) : load(x + i)) * scale * load(a.weight.data() + i));
      if (Index const rest = D - whole) {
        pack<A> const v = residual ? load_part(residual + whole, rest) : load_part(x + whole, rest);
        store_part(y + whole, v * scale * load_part(a.weight.data() + whole, rest), rest);
      }
    }
  });
}

}  // namespace blackmamba
