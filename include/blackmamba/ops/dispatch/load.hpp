#pragma once
/// \file
/// How many assignments each expert has.

#include <blackmamba/core/context.hpp>
#include <blackmamba/core/profile.hpp>
#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Arguments of `expert_load`.
struct ExpertLoadArgs {
  View<int const, 2> experts{};  ///< (tokens, k) the expert of each assignment; -1: none
  View<Index, 1> load{};         ///< (E) added to
};

namespace detail {

struct expert_load_fn {
  template <class Ctx>
  void operator()(Ctx const& ctx, ExpertLoadArgs const& a) const {
    ProfileRange const range{"expert_load"};
    expert_load_on(ctx, a);
  }
};

}  // namespace detail

/// load_e += number of assignments whose expert is e.
///
/// Shapes: experts (tokens, k), any strides; load (E). Integers, so exact. Does not synchronise. Throws `value_error` naming token,
/// slot and value on an expert outside -1 to E - 1; the counts before it have been added then.
inline constexpr detail::expert_load_fn expert_load{};

/// One pass over the assignments.
inline void expert_load_on(Reference const&, ExpertLoadArgs const& a) {
  Index const E = a.load.extent(0);
  for (Index t = 0; t < a.experts.extent(0); ++t)
    for (Index s = 0; s < a.experts.extent(1); ++s) {
      int const e = a.experts(t, s);
      check_value(e >= -1 && e < E, "expert_load", "the expert of token ", t, ", slot ", s, " is ", e, ", outside -1 to ", E - 1);
      if (e >= 0) ++a.load(e);
    }
}

}  // namespace blackmamba
