#pragma once
/// \file
/// Sampling, a row at a time. One body serves both CPU contexts, since they must agree on every token.

#include <blackmamba/ops/sample/filters.hpp>
#include <blackmamba/ops/sample/sample.hpp>

namespace blackmamba {

namespace detail {

/// A row of logits as doubles, penalised. False if it holds NaN or +inf.
template <Scalar T>
bool read_scores(SampleArgs<T> const& a, Index b, std::span<double> scores) {
  bool legal = true;
  for (std::size_t t = 0; t < scores.size(); ++t) {
    scores[t] = static_cast<double>(widen(a.logits(b, t)));
    legal = legal && scores[t] < HUGE_VAL;
  }
  if (a.history)
    for (Index i = 0; i < a.history.extent(1); ++i) {
      // From the logit and not from the score, so that a token that occurs twice is penalised once.
      if (Token const t = a.history(b, i); t >= 0)
        scores[static_cast<std::size_t>(t)] = penalised(static_cast<double>(widen(a.logits(b, t))), a.options.repetition_penalty);
    }
  return legal;
}

/// The token of row `b`, or -1 if its logits do not define one. `scores`, `weights` and `order` hold V elements of scratch each.
template <Scalar T>
Token sample_row(SampleArgs<T> const& a, Index b, std::span<double> scores, std::span<Weight> weights, std::span<int> order) {
  SampleOptions const& o = a.options;
  if (!read_scores(a, b, scores)) return -1;
  Token const best = largest(scores);
  if (best < 0 || o.temperature == 0) return best;
  double const max = scores[static_cast<std::size_t>(best)];
  keep_top_k(scores, o.top_k, order);
  to_weights(scores, max, o.temperature, weights);
  keep_nucleus(scores, max, o.temperature, o.top_p, weights, order);
  keep_likely(weights, o.min_p);
  return draw(weights, a.random.uniform(static_cast<std::uint64_t>(a.draws ? a.draws[b] : b)));
}

/// Throws for the first argument whose value is outside what `sample` takes, logits excepted.
template <Scalar T>
void check_sample_values(SampleArgs<T> const& a) {
  Index const V = a.logits.extent(1);
  if (a.draws)
    for (Index b = 0; b < a.draws.extent(0); ++b)
      check_value(a.draws[b] >= 0, "sample", "draws(", b, ") is ", a.draws[b], ", not at least 0");
  if (a.history)
    for (Index b = 0; b < a.history.extent(0); ++b)
      for (Index i = 0; i < a.history.extent(1); ++i)
        check_value(a.history(b, i) < V, "sample", "history(", b, ", ", i, ") is ", a.history(b, i), ", and tokens are 0 to ",
                    V - 1, ", or negative where there is none");
}

/// Throws what is wrong with the logits of row `b`, which gave no token.
template <Scalar T>
[[noreturn]] void refuse_logits(SampleArgs<T> const& a, Index b) {
  for (Index t = 0; t < a.logits.extent(1); ++t) {
    double const x = static_cast<double>(widen(a.logits(b, t)));
    if (is_nan(x)) throw value_error(concat("sample: row ", b, " of the logits has NaN at token ", t));
    if (x == HUGE_VAL) throw value_error(concat("sample: row ", b, " of the logits has +inf at token ", t));
  }
  throw value_error(concat("sample: row ", b, " of the logits leaves no token: all ", a.logits.extent(1), " are -inf"));
}

template <Scalar T>
void sample_rows(int threads, Arena& scratch, SampleArgs<T> const& a) {
  check_sample_values(a);
  Index const B = a.logits.extent(0), V = a.logits.extent(1);
  Index const lanes = std::min(static_cast<Index>(threads), B);  // rows that are worked on at once, each in its own scratch
  auto const scope = scratch.scope();
  auto const scores = scratch.take<double>(Shape{lanes, V});
  auto const weights = scratch.take<Weight>(Shape{lanes, V});
  auto const order = scratch.take<int>(Shape{lanes, V});
  parallel_for(threads, lanes, [&](Index lane) {
    auto const size = static_cast<std::size_t>(V);
    for (Index b = lane; b < B; b += lanes)
      a.tokens[b] = sample_row(a, b, {scores[lane].data(), size}, {weights[lane].data(), size}, {order[lane].data(), size});
  });
  for (Index b = 0; b < B; ++b)
    if (a.tokens[b] < 0) refuse_logits(a, b);
}

}  // namespace detail

/// `Reference` runs the rows on one thread, `Cpu` on its own.
template <std::derived_from<Reference> Ctx, Scalar T>
void sample_on(Ctx const& ctx, SampleArgs<T> const& a) {
  detail::sample_rows(ctx.threads(), ctx.scratch(), a);
}

}  // namespace blackmamba
