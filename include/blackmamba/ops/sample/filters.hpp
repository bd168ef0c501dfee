#pragma once
/// \file
/// The steps from a row of logits to a token, one function each, in the order in which they are applied. They work on doubles and
/// on whole numbers, in memory of the caller's; a token that a filter drops has score -inf or weight 0.
///
/// Nothing here depends on the platform's math library or on how the compiler contracts a·b + c, and weights are whole numbers,
/// whose sums are exact in any order: so a seed gives the same token everywhere, on a GPU too.
///
/// Sources: repetition penalty Keskar et al. 2019, arXiv:1909.05858; top-k Fan et al. 2018, arXiv:1805.04833; nucleus (top-p)
/// Holtzman et al. 2020, arXiv:1904.09751; min-p Nguyen et al. 2024, arXiv:2407.01082.

#include <algorithm>
#include <cstdint>
#include <span>

#include <blackmamba/core/random.hpp>
#include <blackmamba/ops/top_k/strongest.hpp>

namespace blackmamba::detail {

inline constexpr double dropped = -HUGE_VAL;

/// The logit of a token that the history holds. A penalty under 1 could carry it past the largest number, where it stops.
BLACKMAMBA_HOST_DEVICE inline double penalised(double logit, double penalty) {
  constexpr double largest = 0x1.fffffffffffffp1023;
  if (!(logit > 0)) return logit * penalty;
  return logit / penalty < largest ? logit / penalty : largest;
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
BLACKMAMBA_HOST_DEVICE inline double horner(double, double c0) { return c0; }
template <class... Rest>
BLACKMAMBA_HOST_DEVICE double horner(double x, double c0, Rest... rest) {
  return ::fma(x, horner(x, rest...), c0);
}

/// e^x for x ≤ 0, within 2 units in the last place, and 0 below -708.7, where a weight would lose digits.
/// x = n log 2 + r with |r| ≤ ½ log 2, and e^r by its series. Without a branch, so that compilers can vectorise it.
BLACKMAMBA_HOST_DEVICE inline double portable_exp(double x) {
  double const clamped = x > -709.4 ? x : -709.4;  // n = -1023, for which `power` is 0
  int const n = static_cast<int>(::fma(clamped, 1.44269504088896340736, -0.5));
  double const whole = -n;
  double const r = ::fma(whole, 2.3190468138462995584e-17, ::fma(whole, 0.693147180559945309417, clamped));
  double const series = horner(r, 1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,
                               1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800);
  double const power = __builtin_bit_cast(double, static_cast<std::int64_t>(n + 1023) << 52);
  return series * power;
}

/// A probability as a share of the largest one, in units of 2^-weight_bits.
using Weight = std::uint64_t;

/// Bits behind the point: as many as let the weights of all tokens be added up in 62 bits, and at most 46.
BLACKMAMBA_HOST_DEVICE constexpr int weight_bits(Index V) {
  int bits = 16;
  while (V >> bits) ++bits;
  return 62 - bits;
}

/// 2^bits, the weight of the largest score.
BLACKMAMBA_HOST_DEVICE inline double weight_scale(Index V) { return static_cast<double>(Weight{1} << weight_bits(V)); }

/// How far below the largest score: in units of the temperature, at least 0.
BLACKMAMBA_HOST_DEVICE inline double distance_of(double score, double max, double temperature) {
  return (max - score) / temperature;
}

/// e^-distance · scale, rounded to a whole number, ties to even.
BLACKMAMBA_HOST_DEVICE inline Weight weight_of(double distance, double scale) {
  double const rounded = ::fma(portable_exp(-distance), scale, 0x1p52);
  return __builtin_bit_cast(Weight, rounded) - __builtin_bit_cast(Weight, 0x1p52);
}

/// Buckets of scores, falling: 31 to a factor of e. The last one has all whose weights are 0, from e^-33 of the largest on.
inline constexpr int weight_buckets = 1024;
BLACKMAMBA_HOST_DEVICE inline int weight_bucket(double distance) {
  return distance < 33 ? static_cast<int>(distance * 31) : weight_buckets - 1;
}

/// The least sum that is a share p of the whole, and no more than the whole.
BLACKMAMBA_HOST_DEVICE inline Weight share_of(double p, Weight total) {
  auto const share = static_cast<Weight>(::ceil(p * static_cast<double>(total)));
  return share < total ? share : total;
}

/// What the running sum of the weights must pass for a token to be drawn.
BLACKMAMBA_HOST_DEVICE inline Weight draw_threshold(double uniform, Weight total) {
  auto const threshold = static_cast<Weight>(uniform * static_cast<double>(total));
  return threshold < total ? threshold : total - 1;
}

inline void to_weights(std::span<double const> scores, double max, double temperature, std::span<Weight> weights) {
  double const scale = weight_scale(static_cast<Index>(scores.size()));
  for (std::size_t t = 0; t < scores.size(); ++t) weights[t] = weight_of(distance_of(scores[t], max, temperature), scale);
}

/// Keeps the fewest weights whose sum reaches p of the whole: those of the largest scores first, of equals the lower token.
/// Clobbers `order`, which is as long as `weights`.
///
/// A sum for each bucket tells in which one p is reached; only that one has to be put in order, not the vocabulary.
inline void keep_nucleus(std::span<double const> scores, double max, double temperature, double p, std::span<Weight> weights,
                         std::span<int> order) {
  if (p == 1) return;
  auto const bucket = [&](std::size_t t) { return weight_bucket(distance_of(scores[t], max, temperature)); };
  Weight sums[weight_buckets]{}, total = 0;
  for (std::size_t t = 0; t < weights.size(); ++t) sums[bucket(t)] += weights[t];
  for (Weight sum : sums) total += sum;
  Weight const wanted = share_of(p, total);
  Weight reached = 0;
  int last = 0;
  while (last < weight_buckets - 1 && reached + sums[last] < wanted) reached += sums[last++];

  int* end = order.data();
  for (std::size_t t = 0; t < weights.size(); ++t) {
    int const b = bucket(t);
    if (b == last) *end++ = static_cast<int>(t);
    if (b > last) weights[t] = 0;
  }
  if (last == weight_buckets - 1) return;
  std::sort(order.data(), end, Stronger<double>{View<double const, 1>{scores.data(), Shape{static_cast<Index>(scores.size())}}});
  for (int const* t = order.data(); t != end; ++t) {
    Weight& weight = weights[static_cast<std::size_t>(*t)];
    if (reached >= wanted) weight = 0;
    reached += weight;
  }
}

/// The least weight that is a share of the largest.
BLACKMAMBA_HOST_DEVICE inline Weight least_weight(double share, Index V) {
  return static_cast<Weight>(::ceil(share * weight_scale(V)));
}

/// Keeps the weights that are at least `share` of the largest.
inline void keep_likely(std::span<Weight> weights, double share) {
  Weight const least = least_weight(share, static_cast<Index>(weights.size()));
  for (Weight& w : weights)
    if (w < least) w = 0;
}

/// The token at which the running sum of the weights, in index order, passes `uniform` of their total. Never one of weight 0.
inline Token draw(std::span<Weight const> weights, double uniform) {
  Weight total = 0;
  for (Weight w : weights) total += w;
  Weight const threshold = draw_threshold(uniform, total);
  Weight passed = 0;
  std::size_t t = 0;
  while (passed + weights[t] <= threshold) passed += weights[t++];
  return static_cast<Token>(t);
}

}  // namespace blackmamba::detail
