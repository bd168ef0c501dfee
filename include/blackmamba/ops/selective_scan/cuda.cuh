#pragma once
/// \file
/// The selective scan on a GPU: which kernel, and how its work is laid out.

#include <algorithm>
#include <cstdlib>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/sequences.cuh>
#include <blackmamba/ops/selective_scan/kernel.cuh>

namespace blackmamba {

namespace detail {

/// Whether `count` neighbouring elements of the last dimension can be read at once, wherever the others stand; strides of time in
/// bytes fit 32 bits.
template <class T, int Rank>
bool reads_align(View<T, Rank> const& view, Index count) {
  bool aligns = view.stride(Rank - 1) == 1 &&
                reinterpret_cast<std::uintptr_t>(view.data()) % (static_cast<std::size_t>(count) * sizeof(T)) == 0;
  for (int i = 0; i < Rank - 1; ++i) aligns = aligns && (view.extent(i) == 1 || view.stride(i) % count == 0);
  return aligns && std::abs(view.stride(1)) < (Index{1} << 28);
}

template <class T>
bool fast_scan_fits(SelectiveScanArgs<T> const& a) {
  Index const per_group = a.u.extent(2) / a.B.extent(2);
  return a.A.extent(1) <= ScanTuning::most_states && per_group % 2 == 0 && reads_align(a.u, 2) && reads_align(a.delta, 2) &&
         reads_align(a.y, 2) && (!a.z || reads_align(a.z, 2));
}

/// Whether the variant for what networks do fits: see ScanTile.
template <class T>
bool typical_scan_fits(SelectiveScanArgs<T> const& a) {
  constexpr Index wide = 16 / sizeof(T);
  return a.z && a.delta_softplus && a.A.extent(1) == ScanTuning::most_states && a.u.extent(2) / a.B.extent(2) % wide == 0 &&
         reads_align(a.u, wide) && reads_align(a.delta, wide) && reads_align(a.z, wide) && reads_align(a.B, 4) &&
         reads_align(a.C, 4);
}

template <class T>
void launch_scan(Cuda const& ctx, SelectiveScanArgs<T> const& a, ScanPlan const& plan, Index blocks) {
  auto const kernel = typical_scan_fits(a) ? scan_kernel<T, true> : scan_kernel<T, false>;
  kernel<<<static_cast<unsigned>(blocks), ScanTuning::threads, 0, ctx.stream()>>>(a, plan);
  check_launch("selective_scan: scan_kernel");
}

/// Sequences cut into chunks: a first kernel finds what each chunk does to a state, a second one composes and applies that.
template <class T>
void scan_in_chunks(Cuda const& ctx, SelectiveScanArgs<T> const& a, ScanPlan plan, Index tiles, Index parts) {
  using Tuning = ScanTuning;
  // `parts` blocks a tile are busy in each kernel: the first one with a whole chunk of length x beside parts - 1 that only leave
  // states, of length x / local_cost in the same time; the second one with those and a last one as long.
  Index const L = a.u.extent(1), group = Tuning::group;
  double const x = static_cast<double>(L) / (1 + static_cast<double>(parts) / Tuning::local_cost);
  plan.first_chunk = std::max(group, static_cast<Index>(x) / group * group);
  plan.chunk = ceil_div(ceil_div(L - plan.first_chunk, parts), group) * group;
  plan.chunks = static_cast<unsigned>(1 + ceil_div(L - plan.first_chunk, plan.chunk));
  Index const slots = tiles * (plan.chunks - 1);
  plan.states = ctx.scratch().take<float>(Shape<3>{slots, 8, Tuning::threads}).data();
  plan.delta_sums = ctx.scratch().take<float>(Shape<3>{slots, 2, Tuning::threads}).data();
  plan.mode = ScanPlan::summarise;
  launch_scan(ctx, a, plan, slots);
  plan.mode = ScanPlan::apply;
  launch_scan(ctx, a, plan, slots);
}

template <class T>
void scan_fast(Cuda const& ctx, SelectiveScanArgs<T> const& a, Index count) {
  using Tuning = ScanTuning;
  Index const L = a.u.extent(1), groups = a.B.extent(2), per_group = a.u.extent(2) / groups;
  ScanPlan plan{};
  Index const tiles_per_group = ceil_div(per_group, Index{Tuning::channels}), tiles = tiles_per_group * groups * count,
              stages = std::max(Index{1}, ceil_div(L, Index{Tuning::stage}));
  if (tiles > 0x7fffffff || stages > 0x7fffffff / tiles)
    throw value_error(concat("selective_scan: ", tiles, " tiles of ", stages, " stages are more than a launch can have"));
  plan.tiles_per_group = static_cast<unsigned>(tiles_per_group);
  plan.tiles = static_cast<unsigned>(tiles_per_group * groups);
  plan.stages = static_cast<unsigned>(stages);
  if (a.offsets) {
    plan.mode = ScanPlan::packed;
    return launch_scan(ctx, a, plan, tiles);
  }
  Index const multiprocessors = ctx.multiprocessors(), slots = multiprocessors * Tuning::blocks_per_multiprocessor;
  Index const parts = std::min(slots / tiles, L / Tuning::shortest_chunk);
  double const each = static_cast<double>(tiles) / static_cast<double>(multiprocessors);
  if ((each < 1 || (each > Tuning::nearly_two && each < 2)) && parts >= 2) return scan_in_chunks(ctx, a, plan, tiles, parts);
  // As many blocks as run at once, the same number on each multiprocessor; none with less than a whole tile to do.
  Index const blocks = tiles < multiprocessors ? tiles : std::min(slots, tiles / multiprocessors * multiprocessors);
  plan.mode = ScanPlan::balanced;
  plan.share = static_cast<unsigned>(tiles * stages / blocks);
  plan.blocks_with_one_more = static_cast<unsigned>(tiles * stages % blocks);
  if (tiles % blocks != 0) {
    plan.states = ctx.scratch().take<float>(Shape<3>{blocks, 8, Tuning::threads}).data();
    plan.ready = ctx.scratch().take_zeros<int>(Shape<1>{blocks}).data();
  }
  launch_scan(ctx, a, plan, blocks);
}

inline constexpr FaultKind scan_offset_fault = offset_fault("selective_scan");

}  // namespace detail

/// Fast where N ≤ 16 and u, delta, z and y are contiguous in their last dimension, with even channels a group and even strides;
/// elsewhere one thread a channel. Offsets are device memory, which the host does not read: where they do not ascend from 0 to L,
/// what lies inside of the length is scanned, nothing outside is touched, and the next wait throws.
/// Two runs on one kind of device give the same bits. A sequence that is split over time (few channels, long sequences) agrees with
/// an unsplit one up to rounding.
template <Scalar T>
void selective_scan_on(Cuda const& ctx, SelectiveScanArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  Index const count = sequence_count("selective_scan", a.offsets, a.u.extent(0)), D = a.u.extent(2);
  if (count == 0 || D == 0) return;
  detail::DeviceScope const device{ctx.device()};
  detail::check_offsets(ctx, detail::scan_offset_fault, a.offsets, a.u.extent(1));
  auto const scope = ctx.scratch().scope();
  if constexpr (!std::is_same_v<T, double>) {
    if (detail::fast_scan_fits(a)) return detail::scan_fast(ctx, a, count);
  }
  auto const states = ctx.scratch().template take<Acc>(Shape<2>{a.A.extent(1), count * D});
  detail::scan_plain_kernel<T><<<static_cast<unsigned>(ceil_div(count * D, Index{128})), 128, 0, ctx.stream()>>>(a, states.data());
  detail::check_launch("selective_scan: scan_plain_kernel");
}

}  // namespace blackmamba
