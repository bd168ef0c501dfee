#pragma once
/// \file
/// Gradients of gather and combine on a GPU.

#include <blackmamba/ops/dispatch/backward.hpp>
#include <blackmamba/ops/dispatch/rows_kernel.cuh>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind gather_back_place_outside{"gather_tokens_backward", "the place of assignment ", " is ",
                                                     ", outside -1 to the last place"};
inline constexpr FaultKind combine_back_place_outside{"combine_backward", "the place of assignment ", " is ",
                                                      ", outside -1 to the last place"};

}  // namespace detail

/// Fast where rows are contiguous and aligned to 16 bytes. A slot whose place is outside adds nothing, and is told at the next
/// wait. Two runs give the same bits.
template <Scalar T>
void gather_tokens_backward_on(Cuda const& ctx, GatherBackwardArgs<T> const& a) {
  detail::sum_slots<false>(ctx, CombineArgs<T>{.x = a.d_y, .places = a.places, .y = a.d_x},
                           ctx.fault(detail::gather_back_place_outside));
}

/// A warp an assignment. Fast where rows are contiguous and aligned to 16 bytes. A slot whose place is outside is taken as dropped,
/// and told at the next wait. Two runs give the same bits.
template <Scalar T>
void combine_backward_on(Cuda const& ctx, CombineBackwardArgs<T> const& a) {
  constexpr int V = detail::RowPiece<T>::columns;
  Index const rows = a.places.size(), D = a.d_y.extent(1);
  if (rows == 0 || (!a.d_x && !a.d_weights)) return;
  detail::DeviceScope const device{ctx.device()};
  auto const aligned = [](auto const& view) { return !view || detail::pieces_align(view); };
  bool const whole = aligned(a.x) && aligned(a.d_y) && aligned(a.d_x);
  detail::RowPlan const plan{rows, D, V, whole ? detail::RowPlan::pieces : detail::RowPlan::summed_pieces, false, whole};
  auto* const fault = ctx.fault(detail::combine_back_place_outside);
  plan.choose([&](auto whole) {
    detail::combine_backward_kernel<T, whole><<<plan.blocks, plan.threads, 0, ctx.stream()>>>(a, plan, fault);
  });
  detail::check_launch("combine_backward_kernel");
}

}  // namespace blackmamba
