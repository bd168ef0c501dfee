#pragma once
/// \file
/// One step of the selective scan on a GPU.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/selective_scan_step/kernel.cuh>

namespace blackmamba {

/// Fast where N is a multiple of 4 and the rows of A and of the state are contiguous and aligned to 4 elements.
template <Scalar T>
void selective_scan_step_on(Cuda const& ctx, SelectiveScanStepArgs<T> const& a) {
  Index const batch = a.u.extent(0), D = a.u.extent(1);
  if (batch == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  Index const threads = detail::step_lanes * batch * D, blocks = ceil_div(threads, Index{detail::step_threads});
  if (blocks > 0x7fffffff) throw value_error(concat("selective_scan_step: ", blocks, " blocks are more than one launch can have"));
  detail::scan_step_kernel<T><<<static_cast<unsigned>(blocks), detail::step_threads, 0, ctx.stream()>>>(
      a, detail::fours_align(a.A) && detail::fours_align(a.state));
  detail::check_launch("selective_scan_step: scan_step_kernel");
}

}  // namespace blackmamba
