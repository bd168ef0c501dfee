#pragma once
/// \file
/// Experts that are full.

#include <cmath>

#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// Arguments of `limit_capacity`.
struct LimitCapacityArgs {
  View<int, 2> experts{};    ///< (tokens, slots) in, out: an expert, or -1
  Index n_experts = 0;       ///< E
  Index capacity = 0;        ///< most assignments that an expert keeps
  View<Index, 1> dropped{};  ///< optional (1) out, where the context computes: how many were set to -1
};

/// ceil(factor · tokens · slots / n_experts): what an expert may take of a pass. Rounding does not add an assignment that the exact
/// product has not.
inline Index expert_capacity(double factor, Index tokens, Index slots, Index n_experts) {
  double const exact = factor * static_cast<double>(tokens) * static_cast<double>(slots) / static_cast<double>(n_experts);
  double const nearest = std::nearbyint(exact);
  return static_cast<Index>(std::fabs(exact - nearest) <= exact * 0x1p-50 ? nearest : std::ceil(exact));
}

inline Index limit_capacity_on(Reference const& ctx, LimitCapacityArgs const& a) {
  detail::check_experts("limit_capacity", a.experts, a.n_experts);
  auto const scope = ctx.scratch().scope();
  auto const taken = ctx.scratch().take_zeros<Index>(Shape<1>{a.n_experts});
  Index dropped = 0;
  for (Index i = 0; i < a.experts.extent(0); ++i)
    for (Index s = 0; s < a.experts.extent(1); ++s)
      if (int& e = a.experts(i, s); e >= 0 && taken(e)++ >= a.capacity) e = -1, ++dropped;
  if (a.dropped) a.dropped[0] = dropped;
  return dropped;
}

namespace detail {

struct limit_capacity_fn {
  template <class Ctx>
  auto operator()(Ctx const& ctx, LimitCapacityArgs const& a) const {
    check_value(a.capacity >= 0, "limit_capacity", "capacity is ", a.capacity, ", not at least 0");
    check_value(a.n_experts >= 0, "limit_capacity", "n_experts is ", a.n_experts, ", not at least 0");
    if (a.dropped) check_shape("limit_capacity", "dropped", a.dropped, Shape<1>{1}, "the one number");
    ProfileRange const range{"limit_capacity"};
    return limit_capacity_on(ctx, a);
  }
};

}  // namespace detail

/// Lets every expert keep its first `capacity` assignments, in the order of tokens and then of slots, sets the others to -1, and
/// counts how many those were. Integers only: the same result on every context.
///
/// Shapes: experts (tokens, slots), any strides; changed in place; dropped (1), overwritten. Scratch for E numbers on contexts of
/// the host. Those wait for the count, and return it; others return nothing, and it is where the context computes. Throws
/// `value_error` on a negative capacity and on an expert outside -1 to E - 1; nothing is written then, by contexts of the host.
/// Source: Lepikhin et al. 2020, arXiv:2006.16668, section 2.2; Fedus et al. 2021, arXiv:2101.03961, section 2.2.
inline constexpr detail::limit_capacity_fn limit_capacity{};

}  // namespace blackmamba
