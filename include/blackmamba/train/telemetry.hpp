#pragma once
/// \file
/// What a mixture layer did in a step: how even the load of its experts is, how sure the router was, what it cost and what was
/// lost. docs/guide/report.md says how to read each number.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include <blackmamba/core/simd_math.hpp>
#include <blackmamba/core/view.hpp>
#include <blackmamba/layers/routers/router.hpp>

namespace blackmamba {

/// How even a load is. Nothing assigned counts as even.
struct LoadBalance {
  Index max_load = 0, min_load = 0;
  double variation = 0;  ///< coefficient of variation: standard deviation over experts / mean
  double max_vio = 0;    ///< max / mean - 1: 0 is even, E - 1 is all on one expert
  double gini = 0;       ///< Σ_ij |l_i - l_j| / (2 E Σ_i l_i): 0 is even, 1 - 1/E is all on one
  double entropy = 1;    ///< of the shares, over log E: 1 is even, 0 is all on one
  Index dead = 0;        ///< experts without load
};

/// One mixture layer in one step, over all its passes.
struct RoutingStats {
  Index layer = 0;              ///< index of the block
  Index tokens = 0;             ///< of the step
  std::vector<Index> load;      ///< (E) assignments by expert, those included that found it full where the caller counted them
  LoadBalance balance;          ///< of `load`
  double confidence = 0;        ///< mean over tokens of the largest probability, softmax(logits), whatever weights the router gives
  double margin = 0;            ///< mean over tokens of the largest less the second largest probability
  double logit_rms = 0;         ///< root of the mean square over tokens and experts
  Index dropped = 0;            ///< assignments that found their expert full
  Index unrouted = 0;           ///< tokens without any expert
  double loss = 0;              ///< the router's own loss, its coefficient included: mean over tokens
  double z_loss = 0;            ///< the router z-loss likewise
  Index iterations = 0;         ///< of the plan, the most over the passes
  double marginal_error = 0;    ///< of the plan, the largest over the passes
  std::optional<double> moved;  ///< share of tokens whose experts at inference are others; absent where nobody asked
};

/// What one pass of a mixture layer leaves for telemetry. Views of the host's memory.
template <Scalar T>
struct RoutingArgs {
  View<T const, 2> logits{};       ///< (tokens, E)
  View<int const, 2> experts{};    ///< (tokens, slots) as trained with; -1 for an empty slot
  View<int const, 2> inference{};  ///< optional (tokens, any slots): as inference would have chosen
  View<Index const, 1> load{};     ///< optional (E): assignments, dropped ones included; absent: counted from `experts`
  RouterReport<accumulator_t<T>> report{};
};

/// max, min, variation, MaxVio, Gini, entropy and dead experts of a load. `sorted` is room that is reused.
inline LoadBalance load_balance(std::vector<Index> const& load, std::vector<Index>& sorted) {
  LoadBalance out;
  Index total = 0;
  for (Index const l : load) total += l;
  if (load.empty()) return out;
  auto const E = static_cast<double>(load.size());
  sorted.assign(load.begin(), load.end());
  std::sort(sorted.begin(), sorted.end());
  out.min_load = sorted.front(), out.max_load = sorted.back();
  out.dead = static_cast<Index>(std::upper_bound(sorted.begin(), sorted.end(), Index{0}) - sorted.begin());
  if (total == 0) return out;
  double const mean = static_cast<double>(total) / E;
  double squares = 0, ranks = 0, entropy = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    double const l = static_cast<double>(sorted[i]), share = l / static_cast<double>(total);
    squares += (l - mean) * (l - mean);
    ranks += (2 * static_cast<double>(i) + 1 - E) * l;
    if (l > 0) entropy -= share * std::log(share);
  }
  out.variation = std::sqrt(squares / E) / mean;
  out.max_vio = static_cast<double>(out.max_load) / mean - 1;
  out.gini = ranks / (E * static_cast<double>(total));
  if (load.size() > 1) out.entropy = entropy / std::log(E);
  return out;
}
inline LoadBalance load_balance(std::vector<Index> const& load) {
  std::vector<Index> sorted;
  return load_balance(load, sorted);
}

namespace detail {

/// Whether two rows of slots name the same experts, in any order and empty slots aside.
inline bool same_experts(View<int const, 1> a, View<int const, 1> b) {
  auto const within = [](View<int const, 1> these, View<int const, 1> those) {
    for (Index i = 0; i < these.extent(0); ++i) {
      bool found = these(i) < 0;
      for (Index j = 0; j < those.extent(0) && !found; ++j) found = these(i) == those(j);
      if (!found) return false;
    }
    return true;
  };
  bool equal = a.extent(0) == b.extent(0);
  for (Index i = 0; equal && i < a.extent(0); ++i) equal = a(i) == b(i);
  return equal || (within(a, b) && within(b, a));
}

inline Index count_moved(char const* op, View<int const, 2> before, View<int const, 2> after) {
  check_shape(op, "experts", after, Shape<2>{before.extent(0), after.extent(1)}, "the choice before");
  Index moved = 0;
  for (Index i = 0; i < before.extent(0); ++i) moved += !same_experts(before[i], after[i]);
  return moved;
}

/// Sums over tokens of what softmax(logits) tells.
struct LogitSums {
  double confidence = 0, margin = 0, squares = 0;
};

/// A pack holds one expert's logits of `width` tokens, so nothing runs across a pack and each token costs about E / 2 instructions
/// of each kind; the order of the sums is fixed.
template <Scalar T>
LogitSums sum_logits(View<T const, 2> logits) {
  using A = accumulator_t<T>;
  using Pack = simd::pack<A>;
  constexpr Index W = simd::width<A>;
  Index const tokens = logits.extent(0), E = logits.extent(1), down = logits.stride(0);
  LogitSums out;
  if (E == 0) return out;
  for (Index begin = 0; begin < tokens; begin += W) {
    Index const count = std::min(W, tokens - begin);
    auto const gather = [&](Index j) {
      Pack x{};
      T const* const from = &logits(begin, j);
      if (count == W)
        for (Index i = 0; i < W; ++i) x[i] = widen(from[i * down]);
      else
        for (Index i = 0; i < count; ++i) x[i] = widen(from[i * down]);
      return x;
    };
    Pack first = gather(0), second = simd::broadcast(-std::numeric_limits<A>::infinity()), squares = first * first;
    for (Index j = 1; j < E; ++j) {
      Pack const x = gather(j);
      auto const above = x > first;
      second = simd::select(above, first, simd::select(x > second, x, second));
      first = simd::select(above, x, first);
      squares += x * x;
    }
    Pack sum{};
    for (Index j = 0; j < E; ++j) sum += simd::exp_flushed(gather(j) - first);
    Pack const top = A(1) / sum, apart = top - simd::exp_flushed(second - first) / sum;
    for (Index i = 0; i < count; ++i) {
      out.confidence += static_cast<double>(top[i]);
      out.margin += static_cast<double>(apart[i]);
      out.squares += static_cast<double>(squares[i]);
    }
  }
  return out;
}

}  // namespace detail

/// Share of tokens whose set of experts changed between two choices, (tokens, any slots) each; 0 without tokens. Throws
/// `shape_error` where the tokens are not as many.
inline double churn(View<int const, 2> before, View<int const, 2> after) {
  Index const moved = detail::count_moved("churn", before, after), tokens = before.extent(0);
  return tokens ? static_cast<double>(moved) / static_cast<double>(tokens) : 0;
}

/// Gathers one layer's numbers over the passes of a step. Allocates when it is made; afterwards only what `stats` returns by value.
class RoutingCounter {
 public:
  explicit RoutingCounter(Index n_experts, Index layer = 0) {
    check_value(n_experts >= 0, "RoutingCounter", "n_experts is ", n_experts, ", not at least 0");
    sums_.layer = layer;
    sums_.load.resize(static_cast<std::size_t>(n_experts));
    sorted_.reserve(sums_.load.size());
  }

  /// A step begins.
  void start() {
    RoutingStats zero;
    zero.layer = sums_.layer, zero.load = std::move(sums_.load);
    std::fill(zero.load.begin(), zero.load.end(), Index{0});
    sums_ = std::move(zero);
    logits_ = {};
    compared_ = moved_ = 0;
  }

  /// Adds a pass. Throws `shape_error` on extents that disagree, `value_error` on an expert that there is not; nothing is added
  /// then.
  template <Scalar T>
  requires simd::supported<T>
  void add(RoutingArgs<T> const& a) {
    auto const E = static_cast<Index>(sums_.load.size());
    Index const tokens = a.logits.extent(0), slots = a.experts.extent(1);
    check_shape("RoutingCounter", "logits", a.logits, Shape<2>{tokens, E}, "n_experts");
    check_shape("RoutingCounter", "experts", a.experts, Shape<2>{tokens, slots}, "logits");
    if (a.load) check_shape("RoutingCounter", "load", a.load, Shape<1>{E}, "n_experts");
    for (Index i = 0; i < tokens; ++i)
      for (Index s = 0; s < slots; ++s)
        check_value(a.experts(i, s) < E, "RoutingCounter", "token ", i, " goes to expert ", a.experts(i, s), " of ", E);
    if (a.inference) moved_ += detail::count_moved("RoutingCounter", a.experts, a.inference), compared_ += tokens;

    for (Index i = 0; i < tokens; ++i) {
      bool routed = false;
      for (Index s = 0; s < slots; ++s) {
        int const expert = a.experts(i, s);
        if (expert < 0) continue;
        routed = true;
        if (!a.load) ++sums_.load[static_cast<std::size_t>(expert)];
      }
      sums_.unrouted += !routed;
    }
    if (a.load)
      for (Index e = 0; e < E; ++e) sums_.load[static_cast<std::size_t>(e)] += a.load(e);
    auto const logits = detail::sum_logits(a.logits);
    logits_.confidence += logits.confidence, logits_.margin += logits.margin, logits_.squares += logits.squares;
    sums_.tokens += tokens;
    sums_.dropped += a.report.dropped;
    sums_.loss += static_cast<double>(a.report.loss) * static_cast<double>(tokens);
    sums_.z_loss += static_cast<double>(a.report.z_loss) * static_cast<double>(tokens);
    sums_.iterations = std::max(sums_.iterations, a.report.iterations);
    double& worst = sums_.marginal_error;  // not a number is the worst of all
    if (worst == worst && !(a.report.marginal_error <= worst)) worst = a.report.marginal_error;
  }

  /// The step so far, written where no memory has to be taken once `out` has been used.
  void stats(RoutingStats& out) {
    out = sums_;
    out.balance = load_balance(sums_.load, sorted_);
    if (compared_) out.moved = static_cast<double>(moved_) / static_cast<double>(compared_);
    if (!sums_.tokens) return;
    auto const tokens = static_cast<double>(sums_.tokens), E = static_cast<double>(sums_.load.size());
    out.confidence = logits_.confidence / tokens, out.margin = logits_.margin / tokens;
    if (E > 0) out.logit_rms = std::sqrt(logits_.squares / (tokens * E));
    out.loss /= tokens, out.z_loss /= tokens;
  }
  RoutingStats stats() {
    RoutingStats out;
    stats(out);
    return out;
  }

 private:
  RoutingStats sums_;
  detail::LogitSums logits_;
  Index compared_ = 0, moved_ = 0;
  std::vector<Index> sorted_;
};

/// The numbers of a single pass.
template <Scalar T>
requires simd::supported<T> RoutingStats routing_stats(RoutingArgs<T> const& a, Index layer = 0) {
  RoutingCounter counter{a.logits.extent(1), layer};
  counter.add(a);
  return counter.stats();
}

}  // namespace blackmamba
