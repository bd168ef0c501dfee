#pragma once
/// \file
/// Expert networks, plainly: row by row.

#include <blackmamba/ops/expert_mlp/expert_mlp.hpp>

namespace blackmamba {

namespace detail {

inline void check_expert_offsets(char const* op, View<Index const, 1> offsets, Index rows) {
  Index const E = offsets.extent(0) - 1;
  check_value(offsets(0) == 0, op, "offsets[0] is ", offsets(0), ", not 0");
  for (Index e = 0; e < E; ++e)
    check_value(offsets(e) <= offsets(e + 1), op, "offsets[", e + 1, "] is ", offsets(e + 1), ", below offsets[", e, "], which is ",
                offsets(e));
  check_value(offsets(E) <= rows, op, "offsets[", E, "] is ", offsets(E), ", more than the ", rows, " rows of x");
}

}  // namespace detail

template <Scalar T>
void expert_mlp_on(Reference const& ctx, ExpertMlpArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::check_expert_offsets("expert_mlp", a.offsets, a.x.extent(0));
  Index const E = a.fc1.extent(0), F1 = a.fc1.extent(1), D = a.x.extent(1), F = a.fc2.extent(2);
  auto const scope = ctx.scratch().scope();
  auto const hidden = ctx.scratch().template take<T>(Shape<1>{F1});
  for (Index e = 0; e < E; ++e)
    for (Index r = a.offsets(e); r < a.offsets(e + 1); ++r) {
      for (Index h = 0; h < F1; ++h) {
        A sum{0};
        for (Index d = 0; d < D; ++d) sum += widen(a.x(r, d)) * widen(a.fc1(e, h, d));
        if (a.bias1) sum += widen(a.bias1(e, h));
        hidden(h) = static_cast<T>(sum);
        if (a.hidden) a.hidden(r, h) = hidden(h);
      }
      for (Index h = 0; h < F; ++h) {
        A const activated = activate(a.activation, widen(hidden(h)));
        hidden(h) = static_cast<T>(a.gated ? activated * widen(hidden(F + h)) : activated);
      }
      for (Index d = 0; d < D; ++d) {
        A sum{0};
        for (Index h = 0; h < F; ++h) sum += widen(hidden(h)) * widen(a.fc2(e, d, h));
        if (a.bias2) sum += widen(a.bias2(e, d));
        a.y(r, d) = static_cast<T>(sum);
      }
    }
}

}  // namespace blackmamba
