#pragma once
/// \file
/// How probable a model finds given tokens.

#include <type_traits>

#include <blackmamba/generate/options.hpp>
#include <blackmamba/model/model.hpp>
#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>

namespace blackmamba {

namespace detail {

/// Nobody wants the logits, so nothing brings them to the host.
struct NoLogits {};

}  // namespace detail

/// Scores targets (B, L) after tokens (B, L), both on the host, and hands the logits of every chunk, (B, length, vocab) from
/// position `begin` on, to `on_logits(begin, logits)` while they are valid, on the host. Losses are in the accumulator scalar,
/// their sum in double, in order. Throws what the model's forward pass throws, and `value_error` on a target outside the
/// vocabulary.
template <class Net, Scalar T, Context Ctx, class OnLogits>
requires std::is_same_v<OnLogits, detail::NoLogits> || std::is_invocable_v<OnLogits&, Index, View<T const, 3>> Score
score(Model<Net, T, Ctx> const& model, View<Token const, 2> tokens, View<Token const, 2> targets, ScoreOptions const& options,
      OnLogits&& on_logits) {
  Index const B = tokens.extent(0), L = tokens.extent(1), V = model.dims().vocab;
  check_shape("score", "targets", targets, tokens.shape(), "tokens");
  check_value(options.chunk >= 0, "score", "chunk is ", options.chunk, ", not at least 0");
  Index const chunk = options.chunk == 0 || options.chunk > L ? L : options.chunk;
  Ctx const& ctx = model.ctx();
  auto state = model.make_state(B);
  TensorOn<Ctx, T, 3> const logits{ctx, Shape<3>{B, chunk, V}};
  TensorOn<Ctx, accumulator_t<T>, 1> const losses{ctx, Shape<1>{B * chunk}};
  TensorOn<Ctx, Token, 2> const inputs{ctx, Shape<2>{2, B * chunk}};
  Score result;
  for (Index at = 0; at < L; at += chunk) {
    Index const length = L - at < chunk ? L - at : chunk;
    auto const wanted = converted<Token>(targets.slice(1, at, length));
    auto const place = [&](Tensor<Token, 2> const& rows, Index row) {
      View<Token, 2> const there{inputs.data() + row * B * chunk, rows.shape()};
      upload(ctx, rows.view(), there);
      return there;
    };
    auto const piece = place(converted<Token>(tokens.slice(1, at, length)), 0), labels = place(wanted, 1);
    View<T, 3> const out{logits.data(), Shape<3>{B, length, V}};
    model.forward(piece, out, {.state = chunk < L ? &state : nullptr});
    View<accumulator_t<T>, 1> const loss{losses.data(), Shape<1>{B * length}};
    cross_entropy(ctx, CrossEntropyArgs<T>{.logits = out.rows(),
                                           .targets = labels.reshaped(Shape<1>{B * length}),
                                           .ignore_index = options.ignore_index,
                                           .losses = loss});
    auto const here = on_host(ctx, loss);
    for (Index i = 0; i < here.size(); ++i)
      if (wanted.data()[i] != options.ignore_index) {
        result.sum += static_cast<double>(here(i));
        ++result.count;
      }
    if constexpr (!std::is_same_v<OnLogits, detail::NoLogits>) {
      auto const shown = on_host(ctx, out);
      on_logits(at, View<T const, 3>{shown});
    }
  }
  return result;
}

/// As above, without looking at the logits.
template <class Net, Scalar T, Context Ctx>
Score score(Model<Net, T, Ctx> const& model, View<Token const, 2> tokens, View<Token const, 2> targets,
            ScoreOptions const& options = {}) {
  return score(model, tokens, targets, options, detail::NoLogits{});
}

}  // namespace blackmamba
