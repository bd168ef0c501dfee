#pragma once
/// \file
/// Gradients of the experts' networks on a GPU.

#include <blackmamba/ops/expert_mlp/backward.hpp>
#include <blackmamba/ops/expert_mlp/cuda.cuh>

namespace blackmamba {

namespace detail {

/// a and d_h from d_y and h, on tensor cores; sets `counters` to 0.
template <Scalar T>
bool expert_d_hidden(Cuda const& ctx, char const* op, Groups const& groups, unsigned* counters, ExpertMlpBackwardArgs<T> const& a,
                     View<T const, 2> hidden, View<T, 2> active, View<T, 2> d_hidden) {
  RowsProduct<T> p{};
  p.groups = groups, p.clear = counters, p.kind = a.activation, p.gated = a.gated;
  p.depth = static_cast<int>(a.d_y.extent(1)), p.columns = static_cast<int>(a.fc2.extent(2));
  p.forward = RowsOf<T const>{hidden}, p.hidden = RowsOf<T>{d_hidden}, p.y = RowsOf<T>{active};
  return tensor_rows<RowsEnd::d_hidden, true>(ctx, op, p, a.d_y, a.fc2);
}

}  // namespace detail

/// Fast on the tensor cores of compute capability 9.0, for bf16 and half, in programs compiled for sm_90a, where all matrices are
/// contiguous in their last dimension and aligned to 8 elements; plain tiles elsewhere. The gradients of the parameters are summed
/// in one order whatever the spread of rows: two runs give the same bits. `d_x` is written after everything that reads `d_y`.
///
/// Offsets are device memory, as in `expert_mlp`. Temporary memory is that of a and d_h, (rows, F + F1), and of h, (rows, F1),
/// without `hidden`.
template <Scalar T>
void expert_mlp_backward_on(Cuda const& ctx, ExpertMlpBackwardArgs<T> const& a) {
  constexpr char const* op = "expert_mlp_backward";
  Index const rows = a.x.extent(0), E = a.fc1.extent(0), F1 = a.fc1.extent(1), F = a.fc2.extent(2);
  if (rows == 0 || E == 0) return;
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  detail::Groups groups{a.offsets, rows, ctx.fault(detail::expert_offset_wrong_backward)};
  auto const active = ctx.scratch().template take<T>(Shape<2>{rows, F});
  auto const d_hidden = ctx.scratch().template take<T>(Shape<2>{rows, F1});
  auto const made = a.hidden ? View<T, 2>{} : ctx.scratch().template take<T>(Shape<2>{rows, F1});
  auto const hidden = a.hidden ? a.hidden : View<T const, 2>{made};
  View<T const, 2> const d_hidden_in{d_hidden}, active_in{active};
  auto* const counters = ctx.scratch().template take<unsigned>(Shape<1>{detail::cleared_counters}).data();
  bool fast = false;
  if constexpr (sizeof(T) == 2) {
    fast = detail::has_wgmma(ctx.device()) && detail::experts_align(a.x, a.fc1, a.fc2, a.d_y, a.d_x, a.hidden) &&
           detail::encode_tiles() != nullptr;
    if (fast) {
      if (!a.hidden) {
        fast = detail::expert_up(ctx, op, groups, counters, a.x, a.fc1, a.bias1, a.activation, a.gated, active, made);
        groups.slot = nullptr;
      }
      fast = fast && detail::expert_d_hidden(ctx, op, groups, counters, a, hidden, active, d_hidden);
    }
  }
  if (!fast) {
    if (!a.hidden) detail::plain_rows(ctx, op, groups, a.x, a.fc1, a.bias1, made);
    detail::plain_rows(ctx, op, groups, a.d_y, a.fc2.transposed(1, 2), View<T const, 2>{}, active);
    detail::expert_inner(ctx, op, detail::ExpertInner<T, true>{groups, a.activation, a.gated, hidden, active, active_in, d_hidden});
  }
  groups.slot = nullptr;
  detail::expert_sums(ctx, op, groups, a.d_y, a.d_bias2);
  detail::expert_sums(ctx, op, groups, d_hidden_in, a.d_bias1);
  // Each product alone can go the plain way, which gives what the other does.
  if constexpr (sizeof(T) == 2) {
    if (fast) {
      if (!detail::tensor_weights<T>(ctx, op, groups, {counters}, {{a.d_y, active_in, a.d_fc2}, {d_hidden_in, a.x, a.d_fc1}})) {
        detail::plain_weights(ctx, op, groups, a.d_y, active_in, a.d_fc2);
        detail::plain_weights(ctx, op, groups, d_hidden_in, a.x, a.d_fc1);
      }
      if (a.d_x && !detail::expert_product<true>(ctx, op, groups, {counters + 1}, d_hidden_in, a.fc1, View<T const, 2>{}, a.d_x))
        detail::plain_rows(ctx, op, groups, d_hidden_in, a.fc1.transposed(1, 2), View<T const, 2>{}, a.d_x);
      return;
    }
  }
  detail::plain_weights(ctx, op, groups, a.d_y, active_in, a.d_fc2);
  if (a.d_x) detail::plain_rows(ctx, op, groups, d_hidden_in, a.fc1.transposed(1, 2), View<T const, 2>{}, a.d_x);
  detail::plain_weights(ctx, op, groups, d_hidden_in, a.x, a.d_fc1);
}

}  // namespace blackmamba
