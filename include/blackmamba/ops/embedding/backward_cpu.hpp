#pragma once
/// \file
/// The backward pass of the row lookup: columns over threads, since two positions may have the same token.

#include <blackmamba/core/simd.hpp>
#include <blackmamba/ops/embedding/backward_reference.hpp>

namespace blackmamba {

template <Scalar T>
requires simd::supported<T>
void embedding_backward_on(Cpu const& ctx, EmbeddingBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  constexpr Index W = simd::width<A>, grain = 256 / static_cast<Index>(sizeof(A));  // whole cache lines
  if (!a.d_y.contiguous_rows() || !a.d_weight.contiguous_rows())
    return embedding_backward_on(static_cast<Reference const&>(ctx), a);
  detail::check_tokens("embedding_backward", a.tokens, a.d_weight.extent(0));
  Index const n = a.d_y.extent(0);
  parallel_ranges(ctx.threads(), n == 0 ? 0 : a.d_y.extent(1), grain, [&](Index begin, Index end) {
    for (Index i = 0; i < n; ++i) {
      T const* const from = &a.d_y(i, 0);
      A* const to = &a.d_weight(a.tokens(i), 0);
      Index d = begin;
      for (; d + W <= end; d += W) simd::store(to + d, simd::load(to + d) + simd::load(from + d));
      for (; d < end; ++d) to[d] += widen(from[d]);
    }
  });
}

}  // namespace blackmamba
