#pragma once
/// \file
/// Row lookup, rows over threads.

#include <cstring>

#include <blackmamba/ops/embedding/reference.hpp>

namespace blackmamba {

template <Scalar T>
void embedding_on(Cpu const& ctx, EmbeddingArgs<T> const& a) {
  if (!a.weight.contiguous_rows() || !a.y.contiguous_rows()) return embedding_on(static_cast<Reference const&>(ctx), a);
  detail::check_tokens("embedding", a.tokens, a.weight.extent(0));
  Index const D = a.y.extent(1), row_bytes = D * static_cast<Index>(sizeof(T));
  // 64 KiB a piece: less is copied before a second thread has begun.
  parallel_ranges(ctx.threads(), D == 0 ? 0 : a.y.extent(0), (Index{1} << 16) / (row_bytes + 1) + 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      std::memcpy(static_cast<void*>(&a.y(i, 0)), &a.weight(a.tokens(i), 0), static_cast<std::size_t>(row_bytes));
  });
}

}  // namespace blackmamba
