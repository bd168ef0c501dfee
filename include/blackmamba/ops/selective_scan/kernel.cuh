#pragma once
/// \file
/// Kernels of the selective scan.
///
/// Work is laid out for a fixed number of blocks that all run at once. A block takes an equal share of all tiles' time: the
/// beginning of one tile first, then whole tiles, then the end of the tile that the block before it began, whose state it takes
/// over. So nobody waits for long, and all finish together.

#include <blackmamba/ops/selective_scan/tile.cuh>

namespace blackmamba::detail {

/// A stretch of time of one tile.
struct ScanPiece {
  unsigned tile, sequence;
  Index begin, end;
  enum Start : int { initial, handed_over, composed } start;
  enum Finish : int { last, hand_over, state_slot, nothing } finish;
  Index slot_in, slot_out;
  unsigned chunk;
};

/// Which piece a block does as its `index`-th; false when there are no more.
__device__ inline bool next_piece(ScanPlan const& plan, View<Index const, 1> const& offsets, Index L, unsigned index,
                                  ScanPiece& piece) {
  constexpr Index stage = ScanTuning::stage;
  unsigned const block = blockIdx.x;
  piece.start = ScanPiece::initial, piece.finish = ScanPiece::last;
  piece.begin = 0, piece.end = L;
  piece.chunk = 0;
  unsigned tile;
  switch (plan.mode) {
    case ScanPlan::balanced: {
      unsigned const from = plan.share * block + min(block, plan.blocks_with_one_more);
      unsigned const to = from + plan.share + (block < plan.blocks_with_one_more);
      unsigned const from_tile = from / plan.stages, to_tile = to / plan.stages;
      unsigned const head = to - to_tile * plan.stages, tail = from - from_tile * plan.stages;
      unsigned const first_whole = from_tile + (tail != 0), wholes = to_tile - first_whole, place = index - (head != 0);
      if (head && index == 0) {
        tile = to_tile;
        piece.end = head * stage;
        piece.finish = ScanPiece::hand_over, piece.slot_out = block;
      } else if (place < wholes) {
        tile = first_whole + place;
      } else if (tail && place == wholes) {
        tile = from_tile;
        piece.begin = tail * stage;
        piece.start = ScanPiece::handed_over, piece.slot_in = block - 1;
      } else {
        return false;
      }
      break;
    }
    case ScanPlan::packed: {
      if (index) return false;
      tile = block;
      unsigned const s = tile / plan.tiles;
      // Offsets are not known to the host; whatever they say, nothing outside of the length is touched.
      piece.begin = max(Index{0}, min(L, offsets[s]));
      piece.end = max(piece.begin, min(L, offsets[s + 1]));
      break;
    }
    default: {
      if (index) return false;
      unsigned const chunks = plan.chunks - 1;
      tile = block / chunks;
      piece.chunk = block % chunks + (plan.mode == ScanPlan::apply);
      piece.begin = piece.chunk ? plan.first_chunk + (piece.chunk - 1) * plan.chunk : 0;
      piece.end = min(L, plan.first_chunk + piece.chunk * plan.chunk);
      piece.slot_in = Index{tile} * chunks, piece.slot_out = Index{tile} * chunks + piece.chunk;
      if (plan.mode == ScanPlan::apply) piece.start = ScanPiece::composed;
      if (plan.mode == ScanPlan::summarise)
        piece.finish = ScanPiece::state_slot;
      else if (piece.chunk < chunks)
        piece.finish = ScanPiece::nothing;
    }
  }
  piece.sequence = tile / plan.tiles;
  piece.tile = tile - piece.sequence * plan.tiles;
  return true;
}

template <class T, bool Typical>
__global__ void __launch_bounds__(ScanTuning::threads, ScanTuning::blocks_per_multiprocessor)
    scan_kernel(__grid_constant__ SelectiveScanArgs<T> const a, __grid_constant__ ScanPlan const plan) {
  __shared__ typename ScanTile<T, Typical>::Shared shared;
  ScanTile<T, Typical> tile{a, plan, shared};
  Index const L = a.u.extent(1);
  ScanPiece piece;
  for (unsigned index = 0; next_piece(plan, a.offsets, L, index, piece); ++index) {
    tile.set_tile(piece.tile);
    Index const b = a.offsets ? 0 : piece.sequence;
    if (plan.mode == ScanPlan::summarise && piece.chunk > 0) {
      tile.start_from({}, 0);
      tile.template run<false>(b, piece.begin, piece.end);
      tile.store_delta_sums(piece.slot_out);
      tile.store_slot(piece.slot_out);
      continue;
    }
    if (piece.start == ScanPiece::initial) {
      tile.start_from(a.initial_state, piece.sequence);
    } else if (piece.start == ScanPiece::handed_over) {
      // The block before this one did its part before all else, and was started before this one.
      if (threadIdx.x == 0) {
        int ready;
        do asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(ready) : "l"(plan.ready + piece.slot_in) : "memory");
        while (!ready);
      }
      __syncthreads();
      tile.load_slot(piece.slot_in);
    } else {
      tile.load_slot(piece.slot_in);
      for (unsigned k = 1; k < piece.chunk; ++k) tile.compose_slot(piece.slot_in + k);
    }
    tile.template run<true>(b, piece.begin, piece.end);
    if (piece.finish == ScanPiece::last) {
      tile.finish_to(a.last_state, piece.sequence);
    } else if (piece.finish != ScanPiece::nothing) {
      tile.store_slot(piece.slot_out);
      if (piece.finish == ScanPiece::hand_over) {
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0)
          asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(plan.ready + piece.slot_out), "r"(1) : "memory");
      }
    }
  }
}

/// Any scalar, any strides, any number of states: a thread has a channel of a sequence, its states lie in scratch memory (N, S·D).
template <class T>
__global__ void __launch_bounds__(128) scan_plain_kernel(__grid_constant__ SelectiveScanArgs<T> const a, accumulator_t<T>* states) {
  using Acc = accumulator_t<T>;
  Index const D = a.u.extent(2), N = a.A.extent(1), L = a.u.extent(1), per_group = D / a.B.extent(2);
  Index const count = a.offsets ? a.offsets.extent(0) - 1 : a.u.extent(0);
  Index const i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count * D) return;
  Index const s = i / D, d = i % D, g = d / per_group, b = a.offsets ? 0 : s;
  Index const begin = a.offsets ? max(Index{0}, min(L, a.offsets[s])) : 0;
  Index const end = a.offsets ? min(L, a.offsets[s + 1]) : L;
  Acc* const h = states + i;
  Index const step = count * D;
  for (Index n = 0; n < N; ++n) h[n * step] = a.initial_state ? a.initial_state(s, d, n) : Acc(0);
  Acc const skip = a.D ? widen(a.D[d]) : Acc(0), bias = a.delta_bias ? widen(a.delta_bias[d]) : Acc(0);
  for (Index t = begin; t < end; ++t) {
    Acc const u = widen(a.u(b, t, d));
    Acc delta = widen(a.delta(b, t, d)) + bias;
    if (a.delta_softplus) delta = device_softplus(delta);
    Acc const input = delta * u;
    Acc y = 0;
    for (Index n = 0; n < N; ++n) {
      Acc const next = device_exp2(delta * (a.A(d, n) * Acc(1.44269504088896340735992468100189214))) * h[n * step] +
                       input * widen(a.B(b, t, g, n));
      h[n * step] = next;
      y += next * widen(a.C(b, t, g, n));
    }
    y += skip * u;
    if (a.z) y *= device_silu(widen(a.z(b, t, d)));
    a.y(b, t, d) = static_cast<T>(y);
  }
  if (a.last_state)
    for (Index n = 0; n < N; ++n) a.last_state(s, d, n) = h[n * step];
}

}  // namespace blackmamba::detail
