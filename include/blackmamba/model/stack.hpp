#pragma once
/// \file
/// A whole network as a type: embedding, body, last norm, output.
///
///   hidden = embedding[tokens];  body(hidden, residual);  logits = norm(residual + hidden) · outputᵀ (+ bias)
///
/// The output is the embedding itself unless `dims.tied` is false.

#include <blackmamba/layers/concepts.hpp>
#include <blackmamba/layers/norm.hpp>
#include <blackmamba/model/repeat.hpp>
#include <blackmamba/ops/convert/convert.hpp>
#include <blackmamba/ops/embedding/backward.hpp>
#include <blackmamba/ops/linear/backward.hpp>

namespace blackmamba {

/// A network over a body (`Repeat`, `Mixed`, or yours). `N`: the norm after the last block.
template <class Body, class N = LayerNorm>
struct Stack {
  static_assert(require_norm<N>());
  using Dims = typename Body::Dims;
  using body = Body;

  template <class T>
  struct Params {
    View<T, 2> embedding{};  ///< (vocab, d_model)
    typename Body::template Params<T> body{};
    typename N::template Params<T> norm{};
    View<T, 2> output{};       ///< (vocab, d_model), unless tied
    View<T, 1> output_bias{};  ///< (vocab), with output_bias
  };
  template <class T>
  using State = typename Body::template State<T>;

  /// What the backward pass needs beside the tokens.
  template <class T>
  struct Saved {
    typename Body::template Saved<T> body{};
    View<accumulator_t<T>, 3> residual{};  ///< (B, L, d_model) the stream that the last norm read
  };

  static constexpr void parameters(auto& p, Dims const& d, auto& visit) {
    visit("embedding.word_embeddings.weight", p.embedding, Shape<2>{d.vocab, d.d_model}, Init::embedding, Decay::yes);
    visit.enter("decoder");
    Body::parameters(p.body, d, visit);
    visit.enter("final_layernorm");
    N::parameters(p.norm, d.d_model, visit);
    visit.leave();
    visit.leave();
    if (!d.tied) visit("output_layer.weight", p.output, Shape<2>{d.vocab, d.d_model}, Init::embedding, Decay::yes);
    if (d.output_bias) visit("output_layer.bias", p.output_bias, Shape<1>{d.vocab}, Init::zeros, Decay::no);
  }

  static constexpr void state(auto& s, Dims const& d, Index batch, auto& visit) { Body::state(s, d, batch, visit); }

  /// Floating-point operations of a token's forward pass, output included.
  static constexpr Index flops_per_token(Dims const& d) {
    Index flops = 2 * d.vocab * d.d_model;
    Body::describe(d,
                   [&](Index, auto block, blackmamba::Dims const& dims) { flops += decltype(block)::type::flops_per_token(dims); });
    return flops;
  }

  /// What the output reads, for tokens (B, L): y (B, L, d_model), normalised.
  template <class Ctx, Scalar T>
  static void hidden(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, View<Token const, 2> tokens, Output<T, 3> y,
                     State<T> const* state) {
    auto const scope = pass.ctx.scratch().scope();
    auto const residual = pass.ctx.scratch().template take_zeros<accumulator_t<T>>(y.shape());
    pass.tokens = tokens.reshaped(Shape<1>{tokens.size()});
    embedding(pass.ctx, EmbeddingArgs<T>{.tokens = pass.tokens, .weight = p.embedding, .y = y.rows()});
    Body::forward(pass, d, p.body, y, residual, state);
    N::apply(pass, d, p.norm, y.rows(), residual.rows(), y.rows());
  }

  /// The same, keeping on the pass's tape what `backward` needs.
  template <class Ctx, Scalar T>
  static void hidden(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, View<Token const, 2> tokens, Output<T, 3> y,
                     Saved<T>& saved) {
    saved.residual = pass.tape->template take_zeros<accumulator_t<T>>(y.shape());
    pass.tokens = tokens.reshaped(Shape<1>{tokens.size()});
    embedding(pass.ctx, EmbeddingArgs<T>{.tokens = pass.tokens, .weight = p.embedding, .y = y.rows()});
    State<T> const* const from_the_beginning = nullptr;
    Body::forward(pass, d, p.body, y, saved.residual, from_the_beginning, &saved.body);
    N::apply(pass, d, p.norm, y.rows(), saved.residual.rows(), y.rows());
  }

  /// From d_y (B, L, d_model), the gradient of what the output reads; the gradients of the parameters are added to g.
  template <class Ctx, Scalar T>
  static void backward(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, Saved<T>& saved, View<Token const, 2> tokens,
                       Input<T, 3> d_y, Params<accumulator_t<T>> const& g) {
    static_assert(require_norm_backward<N>());
    Arena& scratch = pass.ctx.scratch();
    auto const scope = scratch.scope();
    pass.tokens = tokens.reshaped(Shape<1>{tokens.size()});
    auto const d_residual = scratch.template take_zeros<accumulator_t<T>>(d_y.shape());
    N::backward(pass, d, p.norm, saved.residual.rows(), d_y.rows(), d_residual.rows(), g.norm);
    Body::backward(pass, d, p.body, saved.body, d_residual, g.body);
    auto const d_embedded = scratch.template take<T>(d_y.shape());
    convert(pass.ctx, ConvertArgs<accumulator_t<T>, T>{.x = d_residual.rows(), .y = d_embedded.rows()});
    embedding_backward(pass.ctx,
                       EmbeddingBackwardArgs<T>{.tokens = pass.tokens, .d_y = d_embedded.rows(), .d_weight = g.embedding});
  }

  /// From d_logits (rows, vocab): d_x (rows, d_model), overwritten; the gradients of the output's parameters are added to g.
  template <class Ctx, Scalar T>
  static void output_backward(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Input<T, 2> d_logits,
                              Output<T, 2> d_x, Params<accumulator_t<T>> const& g) {
    linear_backward(pass.ctx, LinearBackwardArgs<T>{.x = x,
                                                    .weight = d.tied ? p.embedding : p.output,
                                                    .d_y = d_logits,
                                                    .d_x = d_x,
                                                    .d_weight = d.tied ? g.embedding : g.output,
                                                    .d_bias = g.output_bias});
  }

  /// One token of each sequence: tokens (B), y (B, d_model), normalised.
  template <class Ctx, Scalar T>
  static void hidden_step(Pass<Ctx, T> pass, Dims const& d, Params<T> const& p, View<Token const, 1> tokens, Output<T, 2> y,
                          State<T> const& state) {
    auto const scope = pass.ctx.scratch().scope();
    pass.tokens = tokens;
    auto const residual = pass.ctx.scratch().template take_zeros<accumulator_t<T>>(y.shape());
    embedding(pass.ctx, EmbeddingArgs<T>{.tokens = tokens, .weight = p.embedding, .y = y});
    Body::step(pass, d, p.body, y, residual, state);
    N::apply(pass, d, p.norm, y, residual, y);
  }

  /// logits (rows, vocab) of normalised rows (rows, d_model).
  template <class Ctx, Scalar T>
  static void output(Pass<Ctx, T> const& pass, Dims const& d, Params<T> const& p, Input<T, 2> x, Output<T, 2> logits) {
    linear(pass.ctx, LinearArgs<T>{.x = x, .weight = d.tied ? p.embedding : p.output, .bias = p.output_bias, .y = logits});
  }
};

}  // namespace blackmamba
