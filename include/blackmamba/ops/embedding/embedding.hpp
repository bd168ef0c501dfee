#pragma once
/// \file
/// Rows of a table, picked by tokens: the first map of a language model.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `embedding`.
template <Scalar T>
struct EmbeddingArgs {
  View<Token const, 1> tokens{};  ///< (n)
  View<T const, 2> weight{};      ///< (V, D)
  View<T, 2> y{};                 ///< (n, D)
};

namespace detail {

struct embedding_fn {
  template <class Ctx, Scalar T>
  void operator()(Ctx const& ctx, EmbeddingArgs<T> const& a) const {
    check_shape("embedding", "y", a.y, Shape<2>{a.tokens.extent(0), a.weight.extent(1)},
                a.y.extent(0) == a.tokens.extent(0) ? "weight" : "tokens");
    ProfileRange const range{"embedding"};
    embedding_on(ctx, a);
  }
};

/// Throws `value_error` naming the first of the tokens that is no row of a table of `vocabulary` rows.
inline void check_tokens(char const* op, View<Token const, 1> const& tokens, Index vocabulary) {
  for (Index i = 0; i < tokens.extent(0); ++i)
    check_value(tokens(i) >= 0 && tokens(i) < vocabulary, op, "token ", i, " is ", tokens(i), ", outside the vocabulary of ",
                vocabulary);
}

}  // namespace detail

/// Row lookup:
///
///   y_i = weight[tokens_i]
///
/// Shapes: tokens (n); weight (V, D); y (n, D). Any strides; fast paths want the last dimension of weight and y contiguous.
/// Copies bits, whatever `T` is. `y` must not alias the weight. Does not synchronise. Throws `shape_error` naming the argument
/// that disagrees, and `value_error` with position and value on a token outside 0 … V-1, before anything is written.
inline constexpr detail::embedding_fn embedding{};

}  // namespace blackmamba

#include <blackmamba/ops/embedding/cpu.hpp>
#include <blackmamba/ops/embedding/reference.hpp>
