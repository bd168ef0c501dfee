#pragma once
/// \file
/// One step of the selective scan on a GPU.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/selective_scan_step/kernel.cuh>

namespace blackmamba {

/// Fast where N is a multiple of 4 and the rows of A, B, C and the state are contiguous and aligned to 4 elements.
template <Scalar T>
void selective_scan_step_on(Cuda const& ctx, SelectiveScanStepArgs<T> const& a) {
  Index const batch = a.u.extent(0), D = a.u.extent(1);
  if (batch == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  Index const tiles = ceil_div(D, Index{detail::step_threads / detail::step_lanes});
  if (D > 0x7fffffff) throw value_error(concat("selective_scan_step: ", D, " channels are more than one launch can have"));
  dim3 const blocks{static_cast<unsigned>(tiles), static_cast<unsigned>(std::min(batch, Index{65535}))};
  bool const fours =
      detail::fours_align(a.A) && detail::fours_align(a.state) && detail::fours_align(a.B) && detail::fours_align(a.C);
  detail::launch_overlapping(ctx, "selective_scan_step: scan_step_kernel", &detail::scan_step_kernel<T>, blocks,
                             detail::step_threads, 0, a, fours);
}

}  // namespace blackmamba
