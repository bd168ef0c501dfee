#pragma once
/// \file
/// The backward pass of the row lookup.

#include <blackmamba/ops/embedding/embedding.hpp>

namespace blackmamba {

/// Arguments of `embedding_backward`. The gradient does not depend on the table, so the table is not asked for.
template <Scalar T>
struct EmbeddingBackwardArgs {
  View<Token const, 1> tokens{};         ///< (n)
  View<T const, 2> d_y{};                ///< (n, D)
  View<accumulator_t<T>, 2> d_weight{};  ///< (V, D), added to
};

namespace detail {

struct embedding_backward_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, EmbeddingBackwardArgs<T> const& a) const {
    check_shape("embedding_backward", "d_y", a.d_y, Shape<2>{a.tokens.extent(0), a.d_weight.extent(1)},
                a.d_y.extent(0) == a.tokens.extent(0) ? "d_weight" : "tokens");
    ProfileRange const range{"embedding_backward"};
    embedding_backward_on(ctx, a);
  }
};

}  // namespace detail

/// Gradient of `embedding`, y_i = weight[tokens_i], from d_y = ∂loss/∂y:
///
///   d_weight[tokens_i] += d_y_i ,   i = 0, 1, …
///
/// Shapes: tokens (n); d_y (n, D); d_weight (V, D), of which only the rows of tokens that occur change. Any strides; fast paths
/// want the last dimension of d_y and d_weight contiguous. d_weight is accumulator_t<T> and added to, row after row in the order of
/// the positions, so the result is the same bit for bit on any number of threads and on every CPU context. `d_weight` must not
/// alias `d_y`. Does not synchronise. Throws `shape_error` naming the argument that disagrees, and `value_error` with position and
/// value on a token outside 0 … V-1, before anything is written.
inline constexpr detail::embedding_backward_fn embedding_backward{};

}  // namespace blackmamba

#include <blackmamba/ops/embedding/backward_cpu.hpp>
#include <blackmamba/ops/embedding/backward_reference.hpp>
