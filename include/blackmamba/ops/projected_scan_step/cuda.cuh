#pragma once
/// \file
/// The step with its projection on a GPU.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/projected_scan_step/kernel.cuh>

namespace blackmamba {

/// One kernel. Fast where R ≤ 96 and N ≤ 16 are multiples of 4 and rows of dt, dt_weight, A_log, B, C and the state are contiguous
/// and aligned to 4 elements. Two runs give the same bits, and an entry's do not depend on how many others there are.
template <Scalar T>
void projected_scan_step_on(Cuda const& ctx, ProjectedScanStepArgs<T> const& a) {
  using Step = detail::ProjectedStep;
  Index const batch = a.u.extent(0), D = a.u.extent(1);
  if (batch == 0 || D == 0) return;
  if (D > 0x7fffffff) throw value_error(concat("projected_scan_step: ", D, " channels are more than one launch can have"));
  detail::DeviceScope const device{ctx.device()};
  Index const tiles = ceil_div(D, Index{Step::channels});
  if constexpr (!std::is_same_v<T, double>) {
    auto const aligned = [](auto const&... view) { return (detail::fours_align(view) && ...); };
    if (a.dt.extent(1) <= Step::most_rank && a.A_log.extent(1) <= Step::most_states &&
        aligned(a.dt, a.dt_weight, a.A_log, a.B, a.C, a.state)) {
      // As many blocks as run at once, and no row left over for a second round.
      Index const at_once = std::max(Index{1}, Index{8} * ctx.multiprocessors() / tiles);
      Index const rows = ceil_div(batch, std::min({batch, at_once, Index{65535}}));
      dim3 const blocks{static_cast<unsigned>(tiles), static_cast<unsigned>(ceil_div(batch, rows))};
      return detail::launch_overlapping(ctx, "projected_scan_step: projected_step_kernel", &detail::projected_step_kernel<T>,
                                        blocks, Step::threads, 0, a, rows, detail::WeightsAtRest::said(ctx));
    }
  }
  dim3 const blocks{static_cast<unsigned>(tiles), static_cast<unsigned>(std::min(batch, Index{65535}))};
  detail::launch_overlapping(ctx, "projected_scan_step: projected_step_plain_kernel", &detail::projected_step_plain_kernel<T>,
                             blocks, Step::threads, 0, a);
}

}  // namespace blackmamba
