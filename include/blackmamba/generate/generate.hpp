#pragma once
/// \file
/// Text from a model: prefill the prompt once, then one step and one draw a token. On a GPU a token is one launch of a CUDA graph.

#include <span>
#include <vector>

#include <blackmamba/core/replay.hpp>
#include <blackmamba/generate/options.hpp>
#include <blackmamba/model/model.hpp>
#include <blackmamba/ops/sample/advance.hpp>
#include <blackmamba/ops/sample/sample.hpp>

namespace blackmamba {

/// Continues `prompt` and hands every new row of tokens, one a continuation, on the host, to `on_tokens`; stops early when that
/// returns false.
/// Returns the number of rows handed out.
///
/// Memory: the states, the logits and the history are allocated before the first token; steps allocate nothing.
/// Throws `value_error` on an empty prompt, on a token outside the vocabulary and on options outside their domains, and when the
/// logits are not numbers.
template <class Net, Scalar T, Context Ctx, class OnTokens>
requires std::is_invocable_r_v<bool, OnTokens&, View<Token const, 1>> Index generate(Model<Net, T, Ctx> const& model,
                                                                                     std::span<Token const> prompt,
                                                                                     GenerateOptions const& options,
                                                                                     OnTokens&& on_tokens) {
  Index const length = static_cast<Index>(prompt.size()), B = options.batch, V = model.dims().vocab;
  check_value(length > 0, "generate", "the prompt is empty: the model needs at least one token to go on from");
  check_value(B >= 1, "generate", "batch is ", B, ", not at least 1");
  check_value(options.max_new_tokens >= 0, "generate", "max_new_tokens is ", options.max_new_tokens, ", not at least 0");
  check_value(options.prefill_chunk >= 1, "generate", "prefill_chunk is ", options.prefill_chunk, ", not at least 1");

  Index positions;
  check_value(!__builtin_add_overflow(length, options.max_new_tokens, &positions) && positions <= Index{1} << 32, "generate",
              "a prompt of ", length, " and ", options.max_new_tokens, " new tokens are more than 2^32");

  Ctx const& ctx = model.ctx();
  TensorOn<Ctx, T, 2> const logits{ctx, Shape<2>{B, V}};
  TensorOn<Ctx, Token, 1> const tokens{ctx, Shape<1>{B}};
  TensorOn<Ctx, Token, 2> const history{ctx, Shape<2>{B, positions}};
  TensorOn<Ctx, Index, 1> const draws{ctx, Shape<1>{B}}, column{ctx, Shape<1>{1}};
  {
    Tensor<Token, 2> known{history.shape()};
    for (Index b = 0; b < B; ++b)
      for (Index i = 0; i < positions; ++i) known(b, i) = i < length ? prompt[static_cast<std::size_t>(i)] : -1;
    upload(ctx, known.view(), history.view());
    Tensor<Index, 1> begin{Shape<1>{B}}, at{Shape<1>{1}};
    for (Index b = 0; b < B; ++b) begin(b) = b;
    at(0) = length;
    upload(ctx, begin.view(), draws.view());
    upload(ctx, at.view(), column.view());
  }

  auto first = model.make_state(1);
  for (Index at = 0; at < length; at += options.prefill_chunk) {
    Index const count = length - at < options.prefill_chunk ? length - at : options.prefill_chunk;
    View<Token const, 2> const chunk = history.view().slice(0, 0, 1).slice(1, at, count);
    model.forward_last(chunk, logits.view().slice(0, 0, 1), {.state = &first});
  }
  auto state = model.make_state(B);
  state.broadcast(first);
  for (Index b = 1; b < B; ++b) copy_within(ctx, logits.view()[0], logits.view()[b]);

  bool const penalised = options.sample.repetition_penalty != 1;  // else a draw need not look at what there is
  auto const draw = [&] {
    sample(ctx, SampleArgs<T>{.logits = logits,
                              .options = options.sample,
                              .random = Random{options.seed},
                              .draws = draws,
                              .history = penalised ? history.view() : View<Token, 2>{},
                              .tokens = tokens});
    advance_sampling(ctx, AdvanceSamplingArgs{.tokens = tokens, .history = history, .column = column, .draws = draws});
  };
  Replay next{ctx, [&] {
                model.step(tokens, logits, state);
                draw();
              }};
  for (Index t = 0; t < options.max_new_tokens; ++t) {
    if (t == 0)
      draw();
    else
      next();
    auto const drawn = on_host(ctx, tokens.view());
    if (!on_tokens(View<Token const, 1>{drawn})) return t + 1;
  }
  return options.max_new_tokens;
}

/// As above, and returns all new tokens, (batch, max_new_tokens).
template <class Net, Scalar T, Context Ctx>
Tensor<Token, 2> generate(Model<Net, T, Ctx> const& model, std::span<Token const> prompt, GenerateOptions const& options) {
  Tensor<Token, 2> out{Shape<2>{options.batch, options.max_new_tokens}};
  Index at = 0;
  generate(model, prompt, options, [&](View<Token const, 1> tokens) {
    for (Index b = 0; b < tokens.size(); ++b) out(b, at) = tokens(b);
    ++at;
    return true;
  });
  return out;
}

}  // namespace blackmamba
