#pragma once
/// \file
/// Gradients of the experts' networks, plainly: row by row.

#include <blackmamba/ops/activation/derivatives.hpp>
#include <blackmamba/ops/expert_mlp/backward.hpp>

namespace blackmamba {

template <Scalar T>
void expert_mlp_backward_on(Reference const& ctx, ExpertMlpBackwardArgs<T> const& a) {
  using A = accumulator_t<T>;
  detail::check_expert_offsets("expert_mlp_backward", a.offsets, a.x.extent(0));
  Index const E = a.fc1.extent(0), F1 = a.fc1.extent(1), D = a.x.extent(1), F = a.fc2.extent(2);
  auto const scope = ctx.scratch().scope();
  auto const hidden = ctx.scratch().template take<T>(Shape<1>{F1}), d_hidden = ctx.scratch().template take<T>(Shape<1>{F1});
  for (Index e = 0; e < E; ++e)
    for (Index r = a.offsets(e); r < a.offsets(e + 1); ++r) {
      for (Index h = 0; h < F1; ++h) {
        if (a.hidden) {
          hidden(h) = a.hidden(r, h);
          continue;
        }
        A sum{0};
        for (Index d = 0; d < D; ++d) sum += widen(a.x(r, d)) * widen(a.fc1(e, h, d));
        if (a.bias1) sum += widen(a.bias1(e, h));
        hidden(h) = static_cast<T>(sum);
      }
      if (a.d_bias2)
        for (Index d = 0; d < D; ++d) a.d_bias2(e, d) += widen(a.d_y(r, d));
      for (Index h = 0; h < F; ++h) {
        A const gate = widen(hidden(h)), activated = activate(a.activation, gate);
        T const active = static_cast<T>(a.gated ? activated * widen(hidden(F + h)) : activated);
        if (a.d_fc2)
          for (Index d = 0; d < D; ++d) a.d_fc2(e, d, h) += widen(a.d_y(r, d)) * widen(active);
        A sum{0};
        for (Index d = 0; d < D; ++d) sum += widen(a.d_y(r, d)) * widen(a.fc2(e, d, h));
        A const d_active = widen(static_cast<T>(sum)), slope = activation_derivative(a.activation, gate);
        d_hidden(h) = static_cast<T>(a.gated ? d_active * widen(hidden(F + h)) * slope : d_active * slope);
        if (a.gated) d_hidden(F + h) = static_cast<T>(d_active * activated);
      }
      for (Index h = 0; h < F1; ++h) {
        if (a.d_bias1) a.d_bias1(e, h) += widen(d_hidden(h));
        if (a.d_fc1)
          for (Index d = 0; d < D; ++d) a.d_fc1(e, h, d) += widen(d_hidden(h)) * widen(a.x(r, d));
      }
      if (a.d_x)
        for (Index d = 0; d < D; ++d) {
          A sum{0};
          for (Index h = 0; h < F1; ++h) sum += widen(d_hidden(h)) * widen(a.fc1(e, h, d));
          a.d_x(r, d) = static_cast<T>(sum);
        }
    }
}

}  // namespace blackmamba
