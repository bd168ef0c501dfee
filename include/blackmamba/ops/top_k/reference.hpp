#pragma once
/// \file
/// Top-k, plainly: every element is offered to the k strongest so far.

#include <blackmamba/ops/top_k/strongest.hpp>
#include <blackmamba/ops/top_k/top_k.hpp>

namespace blackmamba {

template <Scalar T>
void top_k_on(Reference const& ctx, TopKArgs<T> const& a) {
  Index const rows = a.x.extent(0), D = a.x.extent(1), k = a.indices.extent(1);
  detail::refuse_nan("top_k", a.x, 0);
  auto const scope = ctx.scratch().scope();
  auto const heap = ctx.scratch().template take<int>(Shape{k});
  for (Index r = 0; r < rows; ++r) {
    detail::Strongest<T> strongest{a.x[r], heap.data(), k};
    for (Index i = k; i < D; ++i) strongest.offer(i);
    strongest.sort();
    detail::write_row(a.x[r], heap.data(), a.indices[r], a.values ? a.values[r] : View<T, 1>{});
  }
}

}  // namespace blackmamba
