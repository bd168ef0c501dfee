#pragma once
/// \file
/// Kernels of the selective scan. The fast one holds states in registers and walks time:
///
///   a thread has 2 neighbouring channels and 4 of their 16 states; 4 lanes of a warp share the channels, 8 pairs make a warp,
///   4 warps a block of 64 channels. For what is done once for a channel and a time (softplus, the gate) the 4 lanes take
///   different times and exchange step sizes through shared memory. B and C lie in shared memory as floats, the next stage of
///   them is on its way while one is used.
///
/// Work is laid out for a fixed number of blocks that all run at once. A block takes an equal share of all tiles' time: the
/// beginning of one tile first, then whole tiles, then the end of the tile that the block before it began, whose state it takes
/// over. So nobody waits for long, and all finish together.

#include <cuda_runtime.h>

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/ops/selective_scan/selective_scan.hpp>
#include <blackmamba/ops/selective_scan/tuning.cuh>

namespace blackmamba::detail {

/// How the work of a launch is laid out.
struct ScanPlan {
  enum Mode : int {
    balanced,   ///< whole sequences, each block an equal share of all time
    packed,     ///< one block a tile of a packed sequence
    summarise,  ///< chunks: the first as a whole, the others but the last for what they do to a state
    apply       ///< chunks but the first, from their composed initial states
  };
  Mode mode;
  Index tiles_per_group, tiles;        ///< of one sequence
  Index stages;                        ///< of one sequence
  Index chunks, first_chunk, chunk;    ///< number and lengths
  float* states;                       ///< what blocks or chunks hand on: (slot, 8, threads)
  float* delta_sums;                   ///< (slot, 2, threads)
  int* ready;                          ///< (block)
  bool aligned_bc;                     ///< whether 4 neighbouring elements of B and of C can be read at once
};

/// A stretch of time of one tile.
struct ScanPiece {
  Index tile, sequence, begin, end;
  enum Start : int { initial, handed_over, composed } start;
  enum Finish : int { last, hand_over, state_slot, nothing } finish;
  Index slot_in, slot_out;
  Index chunk;
};

template <class T>
class ScanTile {
  using Tuning = ScanTuning;
  using Pair = StoredPair<T>;
  static constexpr int threads = Tuning::threads, group = Tuning::group, stage = Tuning::stage;
  static constexpr int pairs_in_warp = 8, lanes = Tuning::lanes_per_channel, halves = group / lanes;
  static constexpr int vectors = stage * 2 * Tuning::most_states / 4 / threads;  // of four, a thread, to stage B and C

 public:
  struct Shared {
    float4 bc[2][stage][8];                                   // 16 of B, 16 of C
    float4 exchange[2][threads / 32][group][pairs_in_warp];  // of two channels: step sizes, inputs
  };

  __device__ ScanTile(SelectiveScanArgs<T> const& args, ScanPlan const& plan, Shared& shared)
      : a_{args}, plan_{plan}, shared_{shared}, warp_{static_cast<int>(threadIdx.x) / 32},
        q_{static_cast<int>(threadIdx.x) % 32 / pairs_in_warp}, p_{static_cast<int>(threadIdx.x) % pairs_in_warp} {}

  __device__ void set_tile(Index tile) {
    Index const per_group = a_.u.extent(2) / a_.B.extent(2);
    group_ = tile / plan_.tiles_per_group;
    Index const within = tile % plan_.tiles_per_group * Tuning::channels + (warp_ * pairs_in_warp + p_) * 2;
    valid_ = within < per_group;
    d_ = valid_ ? group_ * per_group + within : 0;
    Index const N = a_.A.extent(1);
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int n = 0; n < 4; ++n)
        // Not infinite, so that a step size of 0 always keeps the state.
        A_[c][n] = valid_ && 4 * q_ + n < N ? fmaxf(a_.A(d_ + c, 4 * q_ + n) * 1.44269504088896f, -3.4e38f) : 0.0f;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      D_[c] = a_.D && valid_ ? static_cast<float>(a_.D[d_ + c]) : 0.0f;
      bias_[c] = a_.delta_bias && valid_ ? static_cast<float>(a_.delta_bias[d_ + c]) : 0.0f;
    }
  }

  __device__ void start_from(View<float const, 3> const& state, Index s) {
    Index const N = a_.A.extent(1);
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int n = 0; n < 4; ++n) h_[c][n] = state && valid_ && 4 * q_ + n < N ? state(s, d_ + c, 4 * q_ + n) : 0.0f;
  }
  __device__ void finish_to(View<float, 3> const& state, Index s) const {
    Index const N = a_.A.extent(1);
    if (!state || !valid_) return;
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int n = 0; n < 4; ++n)
        if (4 * q_ + n < N) state(s, d_ + c, 4 * q_ + n) = h_[c][n];
  }

  /// What this thread holds of a state, in scratch memory that other blocks may have written in this launch.
  __device__ void load_slot(Index slot) {
#pragma unroll
    for (int i = 0; i < 8; ++i) h_[i / 4][i % 4] = __ldcg(plan_.states + (slot * 8 + i) * threads + threadIdx.x);
  }
  __device__ void store_slot(Index slot) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) __stcg(plan_.states + (slot * 8 + i) * threads + threadIdx.x, h_[i / 4][i % 4]);
  }
  /// h ← exp(A Σδ) h + what the chunk in `slot` makes of a state of zeros.
  __device__ void compose_slot(Index slot) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float const sum = __ldcg(plan_.delta_sums + (slot * 2 + c) * threads + threadIdx.x);
#pragma unroll
      for (int n = 0; n < 4; ++n)
        h_[c][n] = fmaf(device_exp2(sum * A_[c][n]), h_[c][n],
                        __ldcg(plan_.states + (slot * 8 + 4 * c + n) * threads + threadIdx.x));
    }
  }
  __device__ void store_delta_sums(Index slot) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float sum = delta_sum_[c];
      sum += __shfl_xor_sync(~0u, sum, pairs_in_warp);
      sum += __shfl_xor_sync(~0u, sum, 2 * pairs_in_warp);
      __stcg(plan_.delta_sums + (slot * 2 + c) * threads + threadIdx.x, sum);
    }
  }

  /// Times [begin, end) of batch entry b. `Whole`: writes y; otherwise only the state moves on, and step sizes are summed.
  template <bool Whole>
  __device__ void run(Index b, Index begin, Index end) {
    b_ = b, end_ = end;
    t_ = begin + q_;
    u_ = &a_.u(b, t_, d_), delta_ = &a_.delta(b, t_, d_);
    if constexpr (Whole) z_ = a_.z ? &a_.z(b, t_, d_) : nullptr, y_ = &a_.y(b, t_, d_);
    delta_sum_[0] = delta_sum_[1] = 0;

    fetch_bc<Whole>(begin);
    fetch<Whole>();
    place_bc<Whole>(0);
    int buffer = 0;
    elementwise<Whole>(0);
    fetch<Whole>();
    __syncthreads();
    for (Index t = begin; t < end; t += stage) {
      bool const more = t + stage < end;
      if (more) fetch_bc<Whole>(t + stage);
      int const groups = static_cast<int>((min(end - t, Index{stage}) + group - 1) / group);
      for (int g = 0; g < groups; ++g) {
        float gate[halves][2], skip[halves][2];
        if constexpr (Whole) {
#pragma unroll
          for (int i = 0; i < halves; ++i)
#pragma unroll
            for (int c = 0; c < 2; ++c) gate[i][c] = gate_[i][c], skip[i][c] = skip_[i][c];
        }
        float y[group][2];
        scan<Whole>(buffer, g & 1, g * group, y);
        elementwise<Whole>((g & 1) ^ 1);
        fetch<Whole>();
        if constexpr (Whole) put(y, gate, skip);
        __syncwarp();
      }
      if (more) place_bc<Whole>(buffer ^ 1);
      __syncthreads();
      buffer ^= 1;
    }
  }

 private:
  /// The inputs of this thread's times of the next group, on their way.
  template <bool Whole>
  __device__ void fetch() {
#pragma unroll
    for (int i = 0; i < halves; ++i) {
      bool const there = valid_ && t_ + i * lanes < end_;
      raw_u_[i] = there ? Pair::load(u_ + i * lanes * a_.u.stride(1)) : Pair::zero();
      raw_delta_[i] = there ? Pair::load(delta_ + i * lanes * a_.delta.stride(1)) : Pair::zero();
      if constexpr (Whole)
        raw_z_[i] = there && z_ ? Pair::load(z_ + i * lanes * a_.z.stride(1)) : Pair::zero();
      there_[i] = there;
    }
    t_ += group;
    u_ += group * a_.u.stride(1);
    delta_ += group * a_.delta.stride(1);
    if constexpr (Whole) z_ = z_ ? z_ + group * a_.z.stride(1) : z_;
  }

  /// Softplus, gate and skip of what was fetched; step sizes and inputs go to the lanes that share the channels.
  template <bool Whole>
  __device__ void elementwise(int buffer) {
#pragma unroll
    for (int i = 0; i < halves; ++i) {
      float2 const u = raw_u_[i].widen();
      float2 delta = raw_delta_[i].widen();
      delta.x += bias_[0], delta.y += bias_[1];
      if (a_.delta_softplus) delta.x = device_softplus(delta.x), delta.y = device_softplus(delta.y);
      // Past the end a step of size 0 keeps the state.
      if (!there_[i]) delta = float2{0, 0};
      if constexpr (!Whole) delta_sum_[0] += delta.x, delta_sum_[1] += delta.y;
      shared_.exchange[buffer][warp_][i * lanes + q_][p_] = float4{delta.x, delta.y, delta.x * u.x, delta.y * u.y};
      if constexpr (Whole) {
        skip_[i][0] = D_[0] * u.x, skip_[i][1] = D_[1] * u.y;
        float2 const z = raw_z_[i].widen();
        gate_[i][0] = a_.z ? device_silu(z.x) : 1.0f, gate_[i][1] = a_.z ? device_silu(z.y) : 1.0f;
      }
    }
  }

  template <bool Whole>
  __device__ void scan(int bc_buffer, int buffer, int first, float (&y)[group][2]) {
#pragma unroll
    for (int j = 0; j < group; ++j) {
      float4 const step = shared_.exchange[buffer][warp_][j][p_];
      float4 const B4 = shared_.bc[bc_buffer][first + j][q_];
      float4 const C4 = Whole ? shared_.bc[bc_buffer][first + j][4 + q_] : float4{};
      float const delta[2]{step.x, step.y}, input[2]{step.z, step.w};
      float const B[4]{B4.x, B4.y, B4.z, B4.w}, C[4]{C4.x, C4.y, C4.z, C4.w};
#pragma unroll
      for (int c = 0; c < 2; ++c) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          h_[c][n] = fmaf(device_exp2(delta[c] * A_[c][n]), h_[c][n], input[c] * B[n]);
          if constexpr (Whole) y[j][c] = n == 0 ? C[n] * h_[c][n] : fmaf(C[n], h_[c][n], y[j][c]);
        }
      }
    }
  }

  /// Sums over the lanes that share the channels, so that each lane gets the times it fetched, and writes them.
  __device__ void put(float (&y)[group][2], float (&gate)[halves][2], float (&skip)[halves][2]) {
    bool const upper = q_ & 2, odd = q_ & 1;
#pragma unroll
    for (int i = 0; i < halves; ++i) {
      float out[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float two[2];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          float const low = y[4 * i + k][c], high = y[4 * i + 2 + k][c];
          two[k] = (upper ? high : low) + __shfl_xor_sync(~0u, upper ? low : high, 2 * pairs_in_warp);
        }
        float const sum = (odd ? two[1] : two[0]) + __shfl_xor_sync(~0u, odd ? two[0] : two[1], pairs_in_warp);
        out[c] = (sum + skip[i][c]) * gate[i][c];
      }
      // t_ is two groups further: one was fetched and one is being computed.
      if (valid_ && t_ - 3 * group + i * lanes < end_) Pair::store(y_ + i * lanes * a_.y.stride(1), float2{out[0], out[1]});
    }
    y_ += group * a_.y.stride(1);
  }

  /// B and C of the stage that begins at `t`, on their way: vector v is number v % 8 of time t + v / 8.
  template <bool Whole>
  __device__ void fetch_bc(Index t) {
    Index const N = a_.A.extent(1);
#pragma unroll
    for (int j = 0; j < vectors; ++j) {
      int const v = static_cast<int>(threadIdx.x) + j * threads, n = v % 4 * 4;
      bool const is_c = v % 8 >= 4;
      Index const at = t + v / 8;
      raw_bc_[j][0] = raw_bc_[j][1] = Pair::zero();
      if (at >= end_ || (!Whole && is_c)) continue;
      View<T const, 4> const& from = is_c ? a_.C : a_.B;
      if (plan_.aligned_bc) {
        T const* const p = &from(b_, at, group_, n);
        raw_bc_[j][0] = Pair::load(p), raw_bc_[j][1] = Pair::load(p + 2);
      } else {
        T four[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) four[i] = n + i < N ? from(b_, at, group_, n + i) : T{};
        raw_bc_[j][0] = __builtin_bit_cast(Pair, reinterpret_cast<T(&)[2]>(four[0]));
        raw_bc_[j][1] = __builtin_bit_cast(Pair, reinterpret_cast<T(&)[2]>(four[2]));
      }
    }
  }
  template <bool Whole>
  __device__ void place_bc(int buffer) {
#pragma unroll
    for (int j = 0; j < vectors; ++j) {
      int const v = static_cast<int>(threadIdx.x) + j * threads;
      float2 const low = raw_bc_[j][0].widen(), high = raw_bc_[j][1].widen();
      shared_.bc[buffer][v / 8][v % 8] = float4{low.x, low.y, high.x, high.y};
    }
  }

  SelectiveScanArgs<T> const& a_;
  ScanPlan const& plan_;
  Shared& shared_;
  int warp_, q_, p_;
  Index group_, d_, b_, end_, t_;
  bool valid_, there_[halves];
  float A_[2][4], h_[2][4], D_[2], bias_[2], delta_sum_[2];
  float gate_[halves][2], skip_[halves][2];
  T const *u_, *delta_, *z_;
  T* y_;
  Pair raw_u_[halves], raw_delta_[halves], raw_z_[halves], raw_bc_[vectors][2];
};

/// Which piece a block does as its `index`-th; false when there are no more.
__device__ inline bool next_piece(ScanPlan const& plan, View<Index const, 1> const& offsets, Index L, Index total_tiles, Index index,
                                  ScanPiece& piece) {
  constexpr Index stage = ScanTuning::stage;
  Index const block = blockIdx.x, blocks = gridDim.x;
  piece.start = ScanPiece::initial, piece.finish = ScanPiece::last;
  piece.begin = 0, piece.end = L;
  Index tile;
  switch (plan.mode) {
    case ScanPlan::balanced: {
      Index const total = total_tiles * plan.stages;
      Index const from = total / blocks * block + total % blocks * block / blocks;
      Index const to = total / blocks * (block + 1) + total % blocks * (block + 1) / blocks;
      Index const head = to % plan.stages, tail = from % plan.stages;
      Index const first_whole = (from + plan.stages - 1) / plan.stages, wholes = to / plan.stages - first_whole;
      if (head && index == 0) {
        tile = to / plan.stages;
        piece.end = head * stage;
        piece.finish = ScanPiece::hand_over, piece.slot_out = block;
      } else if (index - (head != 0) < wholes) {
        tile = first_whole + index - (head != 0);
      } else if (tail && index - (head != 0) == wholes) {
        tile = from / plan.stages;
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
      Index const s = tile / plan.tiles;
      // Offsets are not known to the host; whatever they say, nothing outside of the length is touched.
      piece.begin = max(Index{0}, min(L, offsets[s]));
      piece.end = max(piece.begin, min(L, offsets[s + 1]));
      break;
    }
    default: {
      if (index) return false;
      Index const chunks = plan.chunks - 1;
      tile = block / chunks;
      Index const chunk = block % chunks + (plan.mode == ScanPlan::apply);
      piece.chunk = chunk;
      piece.begin = chunk ? plan.first_chunk + (chunk - 1) * plan.chunk : 0;
      piece.end = min(L, plan.first_chunk + chunk * plan.chunk);
      piece.slot_in = tile * chunks, piece.slot_out = tile * chunks + chunk;
      if (plan.mode == ScanPlan::apply) piece.start = ScanPiece::composed;
      if (plan.mode == ScanPlan::summarise) piece.finish = ScanPiece::state_slot;
      else if (chunk < chunks) piece.finish = ScanPiece::nothing;
    }
  }
  piece.sequence = tile / plan.tiles;
  piece.tile = tile % plan.tiles;
  return true;
}

template <class T>
__global__ void __launch_bounds__(ScanTuning::threads, ScanTuning::blocks_per_multiprocessor)
    scan_kernel(__grid_constant__ SelectiveScanArgs<T> const a, __grid_constant__ ScanPlan const plan) {
  __shared__ typename ScanTile<T>::Shared shared;
  ScanTile<T> tile{a, plan, shared};
  Index const L = a.u.extent(1);
  ScanPiece piece;
  for (Index index = 0; next_piece(plan, a.offsets, L, a.u.extent(0) * plan.tiles, index, piece); ++index) {
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
      for (Index k = 1; k < piece.chunk; ++k) tile.compose_slot(piece.slot_in + k);
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
      Acc const next =
          device_exp2(delta * (a.A(d, n) * Acc(1.44269504088896340735992468100189214))) * h[n * step] + input * widen(a.B(b, t, g, n));
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
