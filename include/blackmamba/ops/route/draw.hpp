#pragma once
/// \file
/// Experts by chance or by a hash: whatever a token is, or wherever it stands, decides without being looked at.

#include <blackmamba/core/random.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba {

/// Arguments of `route_draw`.
struct RouteDrawArgs {
  Random random{0};             ///< the stream to draw from
  View<Token const, 1> keys{};  ///< optional (tokens) which draw of the stream each row gets; absent: its number
  Index n_experts = 0;          ///< E
  View<int, 2> experts{};       ///< (tokens, k) out, all different
};

namespace detail {

struct DrawRule {
  RouteDrawArgs a;

  BLACKMAMBA_HOST_DEVICE void operator()(Index i) const {
    Index const k = a.experts.extent(1);
    auto const key = static_cast<std::uint64_t>(a.keys ? Index{a.keys(i)} : i);
    std::uint64_t taken = 0;  // of the first 64 experts
    for (Index s = 0; s < k; ++s) {
      // One of the E - s experts that are left, counted past those that are taken.
      Index e = a.random.below(key * static_cast<std::uint64_t>(k) + static_cast<std::uint64_t>(s), a.n_experts - s);
      for (Index c = 0; c <= e; ++c) {
        bool is = c < 64 && (taken >> c & 1u) != 0;
        for (Index t = 0; c >= 64 && t < s; ++t) is = is || a.experts(i, t) == c;
        if (is) ++e;
      }
      if (e < 64) taken |= std::uint64_t{1} << e;
      a.experts(i, s) = static_cast<int>(e);
    }
  }
};

}  // namespace detail

template <std::derived_from<Reference> Ctx>
void route_draw_on(Ctx const& ctx, RouteDrawArgs const& a) {
  detail::for_each_token(ctx, a.experts.extent(0), a.n_experts, detail::DrawRule{a});
}

namespace detail {

struct route_draw_fn {
  template <class Ctx>
  void operator()(Ctx const& ctx, RouteDrawArgs const& a) const {
    Index const tokens = a.experts.extent(0), k = a.experts.extent(1);
    check_value(k >= 1 && k <= a.n_experts, "route_draw", "experts has ", k, " slots for a token, outside 1 to the ", a.n_experts,
                " experts");
    if (a.keys) check_shape("route_draw", "keys", a.keys, Shape<1>{tokens}, "experts");
    ProfileRange const range{"route_draw"};
    route_draw_on(ctx, a);
  }
};

}  // namespace detail

/// k different experts for every token, all sets equally likely, from the numbers key · k … key · k + k - 1 of a stream: a fixed
/// hash of the key.
///
/// Shapes: keys (tokens); experts (tokens, k), 1 ≤ k ≤ E. Integers only: the same result on every context. Nothing may alias. Does
/// not synchronise. Throws `shape_error` on extents that disagree, and `value_error` on k outside its range.
/// Sources: Roller et al. 2021, arXiv:2106.04426 (hash); Zuo et al. 2021, arXiv:2110.04260 (random).
inline constexpr detail::route_draw_fn route_draw{};

}  // namespace blackmamba
