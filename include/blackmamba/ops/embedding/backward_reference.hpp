#pragma once
/// \file
/// The backward pass of the row lookup, plainly.

#include <blackmamba/ops/embedding/backward.hpp>

namespace blackmamba {

template <Scalar T>
void embedding_backward_on(Reference const&, EmbeddingBackwardArgs<T> const& a) {
  detail::check_tokens("embedding_backward", a.tokens, a.d_weight.extent(0));
  for (Index i = 0; i < a.d_y.extent(0); ++i)
    for (Index d = 0; d < a.d_y.extent(1); ++d) a.d_weight(a.tokens(i), d) += widen(a.d_y(i, d));
}

}  // namespace blackmamba
