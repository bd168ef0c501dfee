#pragma once
/// \file
/// Row lookup, plainly.

#include <blackmamba/ops/embedding/embedding.hpp>

namespace blackmamba {

template <Scalar T>
void embedding_on(Reference const&, EmbeddingArgs<T> const& a) {
  detail::check_tokens("embedding", a.tokens, a.weight.extent(0));
  for (Index i = 0; i < a.y.extent(0); ++i)
    for (Index d = 0; d < a.y.extent(1); ++d) a.y(i, d) = a.weight(a.tokens(i), d);
}

}  // namespace blackmamba
