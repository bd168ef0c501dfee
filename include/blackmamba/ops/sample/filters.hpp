#pragma once
/// \file
/// The steps from a row of logits to a token, one function each, in the order in which they are applied. They work in place on
/// doubles, in memory of the caller's; a token that a filter drops has score -inf, and weight 0 once scores have become weights.
///
/// Nothing here depends on the platform's math library or on how the compiler contracts a·b + c, so a seed gives the same token
/// everywhere: sums run in index order, and every fma is written out.
///
/// Sources: repetition penalty Keskar et al. 2019, arXiv:1909.05858; top-k Fan et al. 2018, arXiv:1805.04833; nucleus (top-p)
/// Holtzman et al. 2020, arXiv:1904.09751; min-p Nguyen et al. 2024, arXiv:2407.01082.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include <blackmamba/core/random.hpp>
#include <blackmamba/ops/top_k/strongest.hpp>

namespace blackmamba::detail {

inline constexpr double dropped = -HUGE_VAL;

/// The logit of a token that the history holds. A penalty under 1 could carry it past the largest number, where it stops.
inline double penalised(double logit, double penalty) {
  return logit > 0 ? std::min(logit / penalty, std::numeric_limits<double>::max()) : logit * penalty;
}

/// The largest score's token, the lowest of equals; -1 if every score is -inf.
inline Token largest(std::span<double const> scores) {
  Token best = -1;
  double best_score = dropped;
  for (std::size_t t = 0; t < scores.size(); ++t)
    if (scores[t] > best_score) best = static_cast<Token>(t), best_score = scores[t];
  return best;
}

/// Keeps the k largest scores, of equals the lower tokens. Clobbers `order`, which is as long as `scores`.
inline void keep_top_k(std::span<double> scores, Index k, std::span<int> order) {
  Index const V = static_cast<Index>(scores.size());
  if (k == 0 || k >= V) return;
  Strongest<double> strongest{View<double const, 1>{scores.data(), Shape{V}}, order.data(), k};
  for (Index t = k; t < V; ++t) strongest.offer(t);
  std::sort(order.data(), order.data() + k);
  int const* kept = order.data();
  int const* const end = kept + k;
  for (Index t = 0; t < V; ++t) {
    if (kept != end && *kept == t)
      ++kept;
    else
      scores[static_cast<std::size_t>(t)] = dropped;
  }
}

/// c0 + x (c1 + x (c2 + …)), each step one fma. Not a loop, which would keep GCC from vectorising the loop around it.
inline double horner(double, double c0) { return c0; }
template <class... Rest>
double horner(double x, double c0, Rest... rest) {
  return std::fma(x, horner(x, rest...), c0);
}

/// e^x for x ≤ 0, within 2 units in the last place, and 0 below -708.7, where a weight would lose digits.
/// x = n log 2 + r with |r| ≤ ½ log 2, and e^r by its series. Without a branch, so that compilers can vectorise it.
inline double portable_exp(double x) {
  double const clamped = std::max(x, -709.4);  // n = -1023, for which `power` is 0
  int const n = static_cast<int>(std::fma(clamped, 1.44269504088896340736, -0.5));
  double const r = std::fma(-n, 2.3190468138462995584e-17, std::fma(-n, 0.693147180559945309417, clamped));
  double const series = horner(r, 1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
                               1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800);
  double const power = __builtin_bit_cast(double, static_cast<std::int64_t>(n + 1023) << 52);
  return series * power;
}

/// Scores become weights: each probability as a share of the largest one, e^((score - max) / temperature).
inline void to_weights(std::span<double> scores, double max, double temperature) {
  for (double& x : scores) x = portable_exp((x - max) / temperature);
}

/// Buckets of weights in (0, 1]: 16 to a factor of 2, rising, and bucket 0 for everything under 2^-64.
inline constexpr int weight_buckets = 64 * 16 + 2;
inline int weight_bucket(double w) {
  auto const upper = static_cast<int>(__builtin_bit_cast(std::uint64_t, w) >> 48);
  return std::max(upper - ((1023 - 64) * 16 - 1), 0);
}

/// Keeps the fewest weights whose sum reaches p of the whole: the largest first, of equals the lower token.
/// Clobbers `order`, which is as long as `weights`.
///
/// A sum for each bucket tells in which one p is reached; only that one has to be put in order, not the vocabulary.
inline void keep_nucleus(std::span<double> weights, double p, std::span<int> order) {
  if (p == 1) return;
  double sums[weight_buckets]{};
  for (double w : weights) sums[weight_bucket(w)] += w;
  double total = 0;
  for (int b = weight_buckets; b-- > 0;) total += sums[b];
  double const wanted = p * total;
  double reached = 0;
  int last = weight_buckets - 1;
  while (last > 0 && reached + sums[last] < wanted) reached += sums[last--];

  int* end = order.data();
  for (std::size_t t = 0; t < weights.size(); ++t) {
    int const b = weight_bucket(weights[t]);
    if (b == last) *end++ = static_cast<int>(t);
    if (b < last) weights[t] = 0;
  }
  std::sort(order.data(), end, Stronger<double>{View<double const, 1>{weights.data(), Shape{static_cast<Index>(weights.size())}}});
  for (int const* t = order.data(); t != end; ++t) {
    double& weight = weights[static_cast<std::size_t>(*t)];
    if (reached >= wanted) weight = 0;
    reached += weight;
  }
}

/// Keeps the weights that are at least `share` of the largest, which is 1.
inline void keep_likely(std::span<double> weights, double share) {
  for (double& w : weights)
    if (w < share) w = 0;
}

/// The token at which the running sum of the weights, in index order, passes `uniform` of their total. Never one of weight 0.
inline Token draw(std::span<double const> weights, double uniform) {
  double total = 0;
  for (double w : weights) total += w;
  double const threshold = uniform * total;
  double passed = 0;
  Token token = -1;
  for (std::size_t t = 0; t < weights.size(); ++t) {
    if (weights[t] == 0) continue;
    token = static_cast<Token>(t);
    passed += weights[t];
    if (passed > threshold) break;
  }
  return token;
}

}  // namespace blackmamba::detail
