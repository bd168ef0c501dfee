#pragma once
/// \file
/// How probable a model finds given tokens.

#include <type_traits>

#include <blackmamba/generate/options.hpp>
#include <blackmamba/model/model.hpp>
#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>

namespace blackmamba {

/// Scores targets (B, L) after tokens (B, L), and hands the logits of every chunk, (B, length, vocab) from position `begin` on, to
/// `on_logits(begin, logits)` while they are valid. Losses are in the accumulator scalar, their sum in double, in order.
/// Throws what the model's forward pass throws, and `value_error` on a target outside the vocabulary.
template <class Net, Scalar T, Context Ctx, class OnLogits>
requires std::is_invocable_v<OnLogits&, Index, View<T const, 3>> Score score(Model<Net, T, Ctx> const& model,
                                                                             View<Token const, 2> tokens,
                                                                             View<Token const, 2> targets,
                                                                             ScoreOptions const& options, OnLogits&& on_logits) {
  Index const B = tokens.extent(0), L = tokens.extent(1), V = model.dims().vocab;
  check_shape("score", "targets", targets, tokens.shape(), "tokens");
  check_value(options.chunk >= 0, "score", "chunk is ", options.chunk, ", not at least 0");
  Index const chunk = options.chunk == 0 || options.chunk > L ? L : options.chunk;
  auto state = model.make_state(B);
  Tensor<T, 3> logits{Shape<3>{B, chunk, V}};
  Tensor<accumulator_t<T>, 1> losses{Shape<1>{B * chunk}};
  Score result;
  for (Index at = 0; at < L; at += chunk) {
    Index const length = L - at < chunk ? L - at : chunk;
    auto const piece = converted<Token>(tokens.slice(1, at, length));
    auto const wanted = converted<Token>(targets.slice(1, at, length));
    View<T, 3> const out{logits.data(), Shape<3>{B, length, V}};
    model.forward(piece, out, {.state = chunk < L ? &state : nullptr});
    View<accumulator_t<T>, 1> const loss{losses.data(), Shape<1>{B * length}};
    cross_entropy(model.ctx(), CrossEntropyArgs<T>{.logits = out.rows(),
                                                   .targets = wanted.view().reshaped(Shape<1>{B * length}),
                                                   .ignore_index = options.ignore_index,
                                                   .losses = loss});
    for (Index i = 0; i < loss.size(); ++i)
      if (wanted.data()[i] != options.ignore_index) {
        result.sum += static_cast<double>(loss(i));
        ++result.count;
      }
    on_logits(at, View<T const, 3>{out});
  }
  return result;
}

/// As above, without looking at the logits.
template <class Net, Scalar T, Context Ctx>
Score score(Model<Net, T, Ctx> const& model, View<Token const, 2> tokens, View<Token const, 2> targets,
            ScoreOptions const& options = {}) {
  return score(model, tokens, targets, options, [](Index, View<T const, 3>) {});
}

}  // namespace blackmamba
