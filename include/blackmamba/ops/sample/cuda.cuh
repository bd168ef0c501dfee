#pragma once
/// \file
/// Sampling on a GPU. Of a row with a temperature many blocks find scores and weights, then one block cuts and draws.

#include <algorithm>

#include <blackmamba/ops/sample/advance.hpp>
#include <blackmamba/ops/sample/kernel.cuh>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind sampling_history_full{"advance_sampling", "column ", " is outside the history, which has ", ""};

inline constexpr int advance_threads = 256;

static __global__ void __launch_bounds__(advance_threads)
    advance_sampling_kernel(__grid_constant__ AdvanceSamplingArgs const a, FaultSlot* fault) {
  Index const B = a.tokens.extent(0), column = a.history ? a.column[0] : 0;
  __syncthreads();
  if (a.history && (column < 0 || column >= a.history.extent(1))) {
    if (threadIdx.x == 0) report_fault(fault, column < 0 ? 0 : column, a.history.extent(1));
    return;
  }
  for (Index b = threadIdx.x; b < B; b += advance_threads) {
    if (a.history) a.history(b, column) = a.tokens[b];
    if (a.draws) a.draws[b] += B;
  }
  if (a.history && threadIdx.x == 0) a.column[0] = column + 1;
}

}  // namespace detail

template <std::derived_from<Cuda> Ctx>
void advance_sampling_on(Ctx const& ctx, AdvanceSamplingArgs const& a) {
  detail::DeviceScope const device{ctx.device()};
  detail::advance_sampling_kernel<<<1, detail::advance_threads, 0, ctx.stream()>>>(a, ctx.fault(detail::sampling_history_full));
  detail::check_launch("advance_sampling_kernel");
}

/// The same tokens as the reference chooses. Two kernels at temperature 0, three otherwise; scratch memory is 16 bytes a logit
/// then, and 2 more where top-k or top-p filters. The history is read by every block of a row, so it should not be much longer than
/// the vocabulary.
template <Scalar T>
void sample_on(Cuda const& ctx, SampleArgs<T> const& a) {
  using namespace detail;
  Index const B = a.logits.extent(0), V = a.logits.extent(1);
  if (B == 0) return;
  SampleFaults const faults{ctx.fault(sample_draw_negative), ctx.fault(sample_history_outside), ctx.fault(sample_nan),
                            ctx.fault(sample_infinite), ctx.fault(sample_nothing)};
  bool const draws = a.options.temperature > 0;
  bool const filters = draws && ((a.options.top_k > 0 && a.options.top_k < V) || a.options.top_p < 1);
  SampleSpace s{.V = V, .padded = ceil_div(V, Index{sample_pad}) * sample_pad};
  // As many blocks as run at once are enough for all rows.
  Index const tiles = s.padded / sample_tile, at_once = Index{8} * ctx.multiprocessors();
  Index const together = std::max({ceil_div(tiles, most_sample_blocks), ceil_div(std::min(B, at_once) * tiles, at_once), Index{1}});
  s.span = together * sample_tile;
  s.blocks = std::max(ceil_div(s.padded, s.span), Index{1});

  DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  auto const take = [&]<class X>(X*& to, Index columns) { to = ctx.scratch().template take<X>(Shape{B, columns}).data(); };
  take(s.best, s.blocks);
  if (draws) take(s.scores, s.padded), take(s.weights, s.padded), take(s.sums, s.blocks);
  if (filters) take(s.buckets, s.padded), take(s.rows.sums, weight_buckets), take(s.rows.counts, weight_buckets);

  auto const stream = ctx.stream();
  dim3 const blocks{static_cast<unsigned>(s.blocks), static_cast<unsigned>(std::min(B, Index{65535}))};
  sample_scores_kernel<T><<<blocks, sample_threads, 0, stream>>>(a, faults, s);
  check_launch("sample_scores_kernel");
  if (!draws) {
    auto const warps = static_cast<unsigned>(ceil_div(B * 32, Index{sample_threads}));
    sample_greedy_kernel<<<warps, sample_threads, 0, stream>>>(a.tokens, faults, s);
    return check_launch("sample_greedy_kernel");
  }
  auto const rows = static_cast<unsigned>(B);
  SampleDraw const draw{a.options, a.random, a.draws, a.tokens};
  if (filters) {
    sample_weights_kernel<true><<<blocks, sample_threads, 0, stream>>>(B, a.options, s);
    check_launch("sample_weights_kernel");
    sample_draw_kernel<true><<<rows, draw_threads<true>, 0, stream>>>(draw, faults, s);
  } else {
    sample_weights_kernel<false><<<blocks, sample_threads, 0, stream>>>(B, a.options, s);
    check_launch("sample_weights_kernel");
    sample_draw_kernel<false><<<rows, draw_threads<false>, 0, stream>>>(draw, faults, s);
  }
  check_launch("sample_draw_kernel");
}

}  // namespace blackmamba
