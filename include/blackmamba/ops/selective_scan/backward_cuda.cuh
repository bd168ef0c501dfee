#pragma once
/// \file
/// The backward pass of the selective scan on a GPU: which kernels, and how their work is laid out.

#include <algorithm>

#include <blackmamba/core/cuda/sequences.cuh>
#include <blackmamba/ops/selective_scan/backward_kernel.cuh>
#include <blackmamba/ops/selective_scan/backward_plain.cuh>
#include <blackmamba/ops/selective_scan/cuda.cuh>

namespace blackmamba {

namespace detail {

template <class T>
bool fast_scan_backward_fits(SelectiveScanBackwardArgs<T> const& a) {
  constexpr Index wide = 16 / sizeof(T);
  return a.A.extent(1) > 0 && a.A.extent(1) <= ScanBackwardTuning::states && a.u.extent(2) > 0 &&
         a.u.extent(2) / a.B.extent(2) % wide == 0 && reads_align(a.u, wide) && reads_align(a.delta, wide) &&
         reads_align(a.d_y, wide) && (!a.z || reads_align(a.z, wide)) && (!a.d_u || reads_align(a.d_u, 1)) &&
         (!a.d_delta || reads_align(a.d_delta, 1)) && (!a.d_z || reads_align(a.d_z, 1)) &&
         std::abs(a.B.stride(1)) < (Index{1} << 28) && std::abs(a.C.stride(1)) < (Index{1} << 28);
}

template <class T>
void scan_backward_fast(Cuda const& ctx, SelectiveScanBackwardArgs<T> const& a, Index sequences) {
  using Tuning = ScanBackwardTuning;
  Index const L = a.u.extent(1), groups = a.B.extent(2), per_group = a.u.extent(2) / groups;
  Index const tiles_per_group = ceil_div(per_group, Index{Tuning::channels}), tiles = tiles_per_group * groups;
  Index const rows = a.u.extent(0),
              slots = a.offsets ? L / Tuning::group + sequences : std::max(Index{1}, ceil_div(L, Index{Tuning::group}));
  Index const blocks_wanted = Tuning::waves * Tuning::blocks_per_multiprocessor * ctx.multiprocessors();
  Index const segment = std::max(Tuning::least_groups, ceil_div(slots * rows * tiles, blocks_wanted)),
              segments = ceil_div(slots, segment);
  Index const parts = rows * segments, blocks = tiles * parts, kept = rows * slots * tiles;
  if (std::max({L, kept, 16 * tiles * rows, a.u.extent(2)}) > 0x7fffffff)
    throw value_error(
        concat("selective_scan_backward: a length of ", L, " and ", kept, " tiles of 8 steps are more than a launch can have"));
  ScanBackwardLayout plan{};
  plan.tiles_per_group = static_cast<int>(tiles_per_group), plan.tiles = static_cast<int>(tiles);
  plan.rows = static_cast<int>(rows), plan.length = static_cast<int>(L);
  plan.segments = static_cast<int>(segments), plan.slots = static_cast<int>(slots), plan.segment = static_cast<int>(segment);

  Arena& scratch = ctx.scratch();
  auto const states = [&](Index count) { return scratch.take<float4>(Shape<3>{count, 2, Tuning::threads}).data(); };
  auto const channels = [&](Index count) { return scratch.take<float>(Shape<2>{count, Tuning::channels}).data(); };
  plan.kept = states(kept), plan.steps = channels(kept);
  plan.states = states(parts * tiles), plan.d_states = states(parts * tiles), plan.decays = channels(parts * tiles);
  plan.d_A = states(parts * tiles), plan.d_D = channels(parts * tiles), plan.d_bias = channels(parts * tiles);
  if (a.d_B || a.d_C) plan.d_BC = scratch.take<float>(Shape<3>{tiles, rows * L, 2 * Tuning::states}).data();

  auto const stream = ctx.stream();
  auto const grid = static_cast<unsigned>(blocks),
             units = static_cast<unsigned>(ceil_div(2 * blocks, Index{ScanForwardWarp<T>::warps}));
  scan_backward_forward_kernel<T><<<units, Tuning::threads, 0, stream>>>(a, plan);
  check_launch("selective_scan_backward: scan_backward_forward_kernel");
  scan_backward_compose_kernel<<<dim3{static_cast<unsigned>(8 * tiles * rows), 2}, Tuning::threads, 0, stream>>>(
      plan, a.A, a.offsets, static_cast<int>(per_group));
  check_launch("selective_scan_backward: scan_backward_compose_kernel");
  constexpr int shared = sizeof(typename ScanBackwardTile<T>::Shared);
  check_cuda(cudaFuncSetAttribute(scan_backward_kernel<T>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
             "cudaFuncSetAttribute");
  scan_backward_kernel<T><<<grid, Tuning::threads, shared, stream>>>(a, plan);
  check_launch("selective_scan_backward: scan_backward_kernel");
  Index const quads = rows * L * groups * 2 * Tuning::states / 4;
  if (plan.d_BC && quads > 0) {
    scan_backward_rows_kernel<T><<<static_cast<unsigned>(ceil_div(quads, Index{256})), 256, 0, stream>>>(a, plan);
    check_launch("selective_scan_backward: scan_backward_rows_kernel");
  }
  if (a.d_A || a.d_D || a.d_delta_bias) {
    scan_backward_parameters_kernel<T><<<static_cast<unsigned>(9 * tiles), Tuning::threads, 0, stream>>>(a, plan);
    check_launch("selective_scan_backward: scan_backward_parameters_kernel");
  }
}

template <class T>
void scan_backward_plain(Cuda const& ctx, SelectiveScanBackwardArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  using Memory = PlainScanBackward<Acc>;
  Index const rows = a.u.extent(0), L = a.u.extent(1), D = a.u.extent(2), N = a.A.extent(1), columns = rows * D;
  Arena& scratch = ctx.scratch();
  auto const take = [&](Index count) { return scratch.take<Acc>(Shape<3>{count, N, columns}); };
  Index const chunks = ceil_div(L, Memory::chunk), longest = std::min(L, Memory::chunk);
  Memory const memory{take(chunks),
                      take(longest),
                      take(longest),
                      take(longest),
                      scratch.take_zeros<Acc>(Shape<2>{N, columns}),
                      scratch.take_zeros<Acc>(Shape<2>{N, columns}),
                      scratch.take_zeros<Acc>(Shape<2>{N, columns}),
                      scratch.take_zeros<Acc>(Shape<1>{columns}),
                      scratch.take_zeros<Acc>(Shape<1>{columns})};
  auto const stream = ctx.stream();
  auto const blocks = [](Index threads) { return static_cast<unsigned>(ceil_div(threads, Index{128})); };
  if (L > 0 && D > 0) scan_backward_plain_states_kernel<T><<<blocks(columns), 128, 0, stream>>>(a, memory);
  for (Index c = chunks - 1; c >= 0; --c) {
    Index const begin = c * Memory::chunk, end = std::min(L, begin + Memory::chunk);
    if (D > 0) scan_backward_plain_kernel<T><<<blocks(columns), 128, 0, stream>>>(a, memory, begin, end);
    Index const sums = rows * (end - begin) * a.B.extent(2) * N;
    if ((a.d_B || a.d_C) && sums > 0)
      scan_backward_plain_rows_kernel<T><<<blocks(32 * sums), 128, 0, stream>>>(a, memory, begin, end);
  }
  if (D > 0) scan_backward_plain_parameters_kernel<T><<<blocks(D), 128, 0, stream>>>(a, memory);
  check_launch("selective_scan_backward: plain kernels");
}

inline constexpr FaultKind scan_backward_offset_fault = offset_fault("selective_scan_backward");

}  // namespace detail

/// Fast where N ≤ 16 and u, delta, z and d_y can be read 16 bytes at a time, with a multiple of 16 bytes of channels a group, and
/// the gradients of those are contiguous in their last dimension; elsewhere one thread a channel. States are recomputed from one
/// kept for every 8 steps: 8.5 bytes of scratch memory a channel and time, and 2 more where d_B or d_C is asked for. Sums over
/// channels and time have a fixed order: two runs on one kind of device give the same bits. Offsets are device memory, which the
/// host does not read: where they do not ascend from 0 to L, nothing outside of the length is touched, and the next wait throws.
template <Scalar T>
void selective_scan_backward_on(Cuda const& ctx, SelectiveScanBackwardArgs<T> const& a) {
  Index const sequences = sequence_count("selective_scan_backward", a.offsets, a.u.extent(0));
  if (sequences == 0) return;
  detail::DeviceScope const device{ctx.device()};
  detail::check_offsets(ctx, detail::scan_backward_offset_fault, a.offsets, a.u.extent(1));
  auto const scope = ctx.scratch().scope();
  if constexpr (!std::is_same_v<T, double>) {
    if (detail::fast_scan_backward_fits(a)) return detail::scan_backward_fast(ctx, a, sequences);
  }
  detail::scan_backward_plain(ctx, a);
}

}  // namespace blackmamba
