#pragma once
/// \file
/// The rules that look down the columns, on a GPU.

#include <blackmamba/ops/route/rules.cuh>
#include <blackmamba/ops/route/select.cuh>
#include <blackmamba/ops/route/threshold.hpp>

namespace blackmamba {

namespace detail {

template <Scalar A>
BLACKMAMBA_HOST_DEVICE View<A const, 2>& rows_read(ThresholdRule<A>& rule) {
  return rule.a.scores;
}
template <Scalar A>
BLACKMAMBA_HOST_DEVICE View<int, 2>& rows_written(ThresholdRule<A>& rule) {
  return rule.a.experts;
}

inline constexpr auto expert_choice_faults = logit_faults("route_expert_choice");
inline constexpr auto threshold_faults = logit_faults("route_threshold");
inline constexpr auto balance_thresholds_faults = logit_faults("balance_thresholds");

/// A token's scores, less what it asks for where that is given, as keys of its experts' columns.
template <class A>
struct KeyRule {
  View<A const, 2> scores;
  View<A const, 1> margin;
  View<OrderKey<A>, 2> keys;

  __device__ void operator()(Index i) const {
    for (Index e = 0; e < scores.extent(1); ++e) keys(e, i) = order_key(margin ? scores(i, e) - margin(i) : scores(i, e));
  }
  __device__ void refuse(Index i) const {
    for (Index e = 0; e < scores.extent(1); ++e) keys(e, i) = 0;
  }
};

template <class A>
BLACKMAMBA_HOST_DEVICE View<A const, 2>& rows_read(KeyRule<A>& rule) {
  return rule.scores;
}

/// A token's margin, and its keys by it.
template <class A>
struct MarginKeyRule {
  MarginRule<A> margin;
  View<OrderKey<A>, 2> keys;

  __device__ KeyRule<A> key() const { return {margin.a.scores, margin.margin, keys}; }
  __device__ void operator()(Index i) const { margin(i), key()(i); }
  __device__ void refuse(Index i) const { margin.refuse(i), key().refuse(i); }
};

template <class A>
BLACKMAMBA_HOST_DEVICE View<A const, 2>& rows_read(MarginKeyRule<A>& rule) {
  return rule.margin.a.scores;
}

template <class A>
struct TakeRule {
  Selection<A> best;
  View<int, 2> experts;

  __device__ void operator()(Index i) const {
    for (Index e = 0; e < experts.extent(1); ++e) experts(i, e) = best.among(i, e) ? static_cast<int>(e) : -1;
  }
};

template <class A>
BLACKMAMBA_HOST_DEVICE View<int, 2>& rows_written(TakeRule<A>& rule) {
  return rule.experts;
}

/// Room for the keys of (tokens, E) scores and what a selection finds in them.
template <class A>
struct Columns {
  View<OrderKey<A>, 2> keys;
  Selection<A> best;

  Columns(Cuda const& ctx, View<A const, 2> scores, Index n, View<A, 1> value) {
    Index const tokens = scores.extent(0), E = scores.extent(1);
    Arena& scratch = ctx.scratch();
    keys = scratch.take<OrderKey<A>>(Shape<2>{E, tokens});
    best = {keys, n, scratch.take<OrderKey<A>>(Shape<1>{E}), scratch.take<Index>(Shape<1>{E}), value};
  }
};

}  // namespace detail

/// Reads the scores once, then their keys, (E, tokens) numbers of scratch, once for every eight bits.
template <Scalar A>
void route_expert_choice_on(Cuda const& ctx, ExpertChoiceArgs<A> const& a) {
  constexpr char const* op = "route_expert_choice";
  Index const tokens = a.scores.extent(0);
  auto const scope = ctx.scratch().scope();
  detail::Columns<A> const columns{ctx, a.scores, a.capacity, a.thresholds};
  detail::for_each_token(ctx, op, tokens, detail::KeyRule<A>{a.scores, {}, columns.keys},
                         detail::check_of(ctx, detail::expert_choice_faults, a.scores));
  detail::select(ctx, op, columns.best);
  detail::for_each_token(ctx, op, tokens, detail::TakeRule<A>{columns.best, a.experts});
}

template <Scalar A>
void route_threshold_on(Cuda const& ctx, RouteThresholdArgs<A> const& a) {
  detail::for_each_token(ctx, "route_threshold", a.scores.extent(0), detail::ThresholdRule<A>{a},
                         detail::check_of(ctx, detail::threshold_faults, a.scores));
}

/// As `route_expert_choice`, by the margins of the tokens.
template <Scalar A>
void balance_thresholds_on(Cuda const& ctx, BalanceThresholdsArgs<A> const& a) {
  constexpr char const* op = "balance_thresholds";
  Index const tokens = a.scores.extent(0), E = a.scores.extent(1), share = even_share(tokens, a.k, E);
  auto const scope = ctx.scratch().scope();
  detail::Columns<A> const columns{ctx, a.scores, std::min(share, tokens - 1) + 1, a.thresholds};
  auto const margin = ctx.scratch().template take<A>(Shape<1>{tokens});
  auto const room = ctx.scratch().template take<A>(Shape<2>{tokens, E});
  detail::for_each_token(ctx, op, tokens, detail::MarginKeyRule<A>{{a, margin, room.data()}, columns.keys},
                         detail::check_of(ctx, detail::balance_thresholds_faults, a.scores));
  detail::select(ctx, op, columns.best);
}

}  // namespace blackmamba
