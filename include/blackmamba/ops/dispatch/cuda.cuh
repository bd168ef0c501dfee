#pragma once
/// \file
/// Dispatch, gather and combine on a GPU.

#include <blackmamba/ops/dispatch/dispatch.hpp>
#include <blackmamba/ops/dispatch/rows_kernel.cuh>
#include <blackmamba/ops/dispatch/sort_kernel.cuh>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind dispatch_expert_outside{"dispatch", "the expert of assignment ", " is ", ", outside -1 to E - 1"};
inline constexpr FaultKind gather_order_outside{"gather_tokens", "order[", "] is ", ", outside -1 to the last assignment"};
inline constexpr FaultKind combine_place_outside{"combine", "the place of assignment ", " is ", ", outside -1 to the last place"};

/// A view of scalars as one of unsigned integers of their size.
template <std::size_t Size>
using BitsOfSize = std::conditional_t<Size == 2, std::uint16_t, std::conditional_t<Size == 4, std::uint32_t, std::uint64_t>>;
template <class T>
View<BitsOfSize<sizeof(T)> const, 2> bits_of(View<T const, 2> const& x) {
  return {reinterpret_cast<BitsOfSize<sizeof(T)> const*>(x.data()), x.shape(), x.strides()};
}
template <class T>
View<BitsOfSize<sizeof(T)>, 2> bits_of(View<T, 2> const& x) {
  return {reinterpret_cast<BitsOfSize<sizeof(T)>*>(x.data()), x.shape(), x.strides()};
}

}  // namespace detail

/// One launch for up to 2048 assignments, two for more; for each 256 experts. Scratch for 256 numbers a multiprocessor. An
/// assignment whose expert is outside is dropped, and told at the next wait.
template <std::derived_from<Cuda> Ctx>
void dispatch_on(Ctx const& ctx, DispatchArgs const& a) {
  detail::DeviceScope const device{ctx.device()};
  detail::sort_assignments(ctx, a.experts, a.offsets.extent(0) - 1, a.places, ctx.fault(detail::dispatch_expert_outside),
                           detail::SortTo{a.offsets, a.order, a.places});
}

/// Fast where rows are contiguous and aligned to 16 bytes. A place whose assignment is outside is left as it was, and told at the
/// next wait.
template <Scalar T>
void gather_tokens_on(Cuda const& ctx, GatherArgs<T> const& a) {
  using Bits = detail::BitsOfSize<sizeof(T)>;
  constexpr int V = detail::RowPiece<T>::columns;
  Index const rows = a.y.extent(0), D = a.y.extent(1);
  if (rows == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  detail::RowPlan const plan{rows, D, V, detail::RowPlan::pieces, true, detail::pieces_align(a.x) && detail::pieces_align(a.y)};
  auto* const fault = ctx.fault(detail::gather_order_outside);
  plan.choose([&](auto whole) {
    detail::launch_overlapping(ctx, "gather_tokens_kernel", &detail::gather_tokens_kernel<Bits, whole>, plan.blocks, plan.threads,
                               0, detail::bits_of(a.x), a.order, a.slots, detail::bits_of(a.y), plan, fault);
  });
}

/// Fast where rows are contiguous and aligned to 16 bytes. A slot whose place is outside adds nothing, and is told at the next
/// wait. Two runs give the same bits.
template <Scalar T>
void combine_on(Cuda const& ctx, CombineArgs<T> const& a) {
  detail::sum_slots<true>(ctx, a, ctx.fault(detail::combine_place_outside));
}

}  // namespace blackmamba
