#pragma once
/// \file
/// Packed sequences on a GPU: the host does not read their offsets, so a kernel looks whether they are right.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/sequences.hpp>

namespace blackmamba::detail {

/// Notes the first offset that is not where an ascent from 0 to `length` can have it.
template <int Threads>
__global__ void __launch_bounds__(Threads)
    check_offsets_kernel(__grid_constant__ View<Index const, 1> const offsets, Index length, FaultSlot* slot) {
  Index const last = offsets.extent(0) - 1;
  for (Index i = threadIdx.x; i <= last; i += Threads) {
    Index const here = offsets[i], least = i == last ? length : i > 0 ? offsets[i - 1] : 0, most = i == 0 ? 0 : length;
    if (here < least || here > most) report_fault(slot, i, here);
  }
}

/// Queues a look at the offsets, if there are any: the next wait throws `value_error` where they do not ascend from 0 to `length`,
/// as the other contexts do at once. Until then operations have to bear any.
inline void check_offsets(Cuda const& ctx, FaultKind const& kind, View<Index const, 1> offsets, Index length) {
  if (!offsets) return;
  constexpr int threads = 256;
  check_offsets_kernel<threads><<<1, threads, 0, ctx.stream()>>>(offsets, length, ctx.fault(kind));
  check_launch(kind.op);
}

/// The words for it.
constexpr FaultKind offset_fault(char const* op) {
  return {op, "offsets[", "] is ", ", and offsets must ascend from 0 to the length"};
}

}  // namespace blackmamba::detail
