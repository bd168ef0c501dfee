#pragma once
/// \file
/// What one block of the selective scan does: states in registers, walking time.
///
///   a thread has 2 neighbouring channels and 4 of their 16 states; 4 lanes of a warp share the channels, 8 pairs make a warp,
///   4 warps a block of 64 channels. For what is done once for a channel and a time (softplus, the gate) the 4 lanes take
///   different times and exchange step sizes and sums through shared memory. B and C lie in shared memory as floats, the next
///   stage of them is on its way while one is used.

#include <cuda_runtime.h>

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/ops/selective_scan/selective_scan.hpp>
#include <blackmamba/ops/selective_scan/tuning.cuh>

namespace blackmamba::detail {

/// How the work of a launch is laid out. Tiles times stages fit 32 bits: the memory for more does not exist.
struct ScanPlan {
  enum Mode : int {
    balanced,   ///< whole sequences, each block an equal share of all time
    packed,     ///< one block a tile of a packed sequence
    summarise,  ///< chunks: the first as a whole, the others but the last for what they do to a state
    apply       ///< chunks but the first, from their composed initial states
  };
  Mode mode;
  unsigned tiles_per_group, tiles;       ///< of one sequence
  unsigned stages;                       ///< of one sequence
  unsigned share, blocks_with_one_more;  ///< balanced: stages a block
  unsigned chunks;                       ///< of one sequence
  Index first_chunk, chunk;              ///< their lengths
  float* states;                         ///< what blocks or chunks hand on: (slot, 8, threads)
  float* delta_sums;                     ///< (slot, 2, threads)
  int* ready;                            ///< (block)
};

/// One block's work on 64 channels. `Typical`: with a gate and softplus, and rows that can be read 16 bytes at a time.
template <class T, bool Typical>
class ScanTile {
  using Tuning = ScanTuning;
  using Pair = StoredPair<T>;
  static constexpr int threads = Tuning::threads, warps = threads / 32, group = Tuning::group, stage = Tuning::stage;
  static constexpr int pairs = 8, lanes = Tuning::lanes_per_channel, halves = group / lanes;
  static constexpr int row_bytes = 8 * sizeof(float4), exchange_bytes = warps * group * row_bytes;
  static constexpr int wide = 16 / sizeof(T);              // elements in 16 bytes
  static constexpr int copies_per_row = 2 * pairs / wide;  // of 16 bytes
  static constexpr int widest_batch = 32 / copies_per_row / group;
  static constexpr int batch = Typical ? widest_batch : 1;  // groups that one copy of each lane covers
  static constexpr int ring = 4 * widest_batch * group;     // times of inputs in shared memory
  static constexpr int input_row = 2 * pairs * sizeof(T), tensor_bytes = ring * input_row;
  static constexpr int chunks_per_time = 2 * Tuning::most_states / wide;  // 16 bytes of B or C
  static constexpr int bc_chunks = stage * chunks_per_time / threads;     // a thread
  static_assert(stage * chunks_per_time % threads == 0 && stage % (batch * group) == 0 && (ring & (ring - 1)) == 0);

 public:
  struct alignas(16) Shared {
    float4 bc[2][stage][8];                      // 16 of B, 16 of C
    float4 exchange[2][warps][group][pairs];     // of two channels: step sizes, inputs
    float4 partial[warps][lanes][lanes][pairs];  // sums over 4 states of two channels at two times
    T inputs[warps][3][ring][2 * pairs];         // u, delta, z of groups to come
  };

  __device__ ScanTile(SelectiveScanArgs<T> const& args, ScanPlan const& plan, Shared& shared)
      : a_{args}, plan_{plan}, shared_{shared} {
    lane_ = static_cast<int>(threadIdx.x) % 32, warp_ = static_cast<int>(threadIdx.x) / 32;
    q_ = lane_ / pairs, p_ = lane_ % pairs;
    exchange_read_ = shared_address(&shared.exchange[0][warp_][0][p_]);
    exchange_write_ = shared_address(&shared.exchange[0][warp_][q_][p_]);
    partial_write_ = shared_address(&shared.partial[warp_][0][q_][p_]);
    partial_read_ = shared_address(&shared.partial[warp_][q_][0][p_]);
    bc_read_ = shared_address(&shared.bc[0][0][q_]);
    inputs_read_ = shared_address(&shared.inputs[warp_][0][q_][2 * p_]);
    inputs_write_ = shared_address(&shared.inputs[warp_][0][lane_ / copies_per_row][lane_ % copies_per_row * wide]);
  }

  __device__ void set_tile(unsigned tile) {
    auto const per_group = static_cast<unsigned>(a_.u.extent(2) / a_.B.extent(2));
    group_ = tile / plan_.tiles_per_group;
    unsigned const tile_begin = tile % plan_.tiles_per_group * Tuning::channels + warp_ * 2 * pairs;
    unsigned const within = tile_begin + 2 * p_, copied = tile_begin + lane_ % copies_per_row * wide;
    valid_ = within < per_group;
    // Channels past the end compute on those of the beginning, and write nothing.
    d_ = group_ * per_group + (valid_ ? within : 0);
    copied_d_ = Typical ? group_ * per_group + (copied < per_group ? copied : 0) : d_;
    int const N = static_cast<int>(a_.A.extent(1));
    auto const* A = &a_.A(d_, 4 * q_);
#pragma unroll
    for (int c = 0; c < 2; ++c, A += a_.A.stride(0))
#pragma unroll
      for (int n = 0; n < 4; ++n)
        // Not infinite, so that a step size of 0 always keeps the state.
        A_[c][n] = 4 * q_ + n < N ? fmaxf(A[n * a_.A.stride(1)] * 1.44269504088896f, -3.4e38f) : 0.0f;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      D_[c] = a_.D ? static_cast<float>(a_.D[d_ + c]) : 0.0f;
      bias_[c] = a_.delta_bias ? static_cast<float>(a_.delta_bias[d_ + c]) : 0.0f;
    }
  }

  __device__ void start_from(View<float const, 3> const& state, Index s) {
    int const N = static_cast<int>(a_.A.extent(1));
    auto const* h = state ? &state(s, d_, 4 * q_) : nullptr;
#pragma unroll
    for (int c = 0; c < 2; ++c, h += state.stride(1))
#pragma unroll
      for (int n = 0; n < 4; ++n) h_[c][n] = state && 4 * q_ + n < N ? h[n * state.stride(2)] : 0.0f;
  }
  __device__ void finish_to(View<float, 3> const& state, Index s) const {
    int const N = static_cast<int>(a_.A.extent(1));
    if (!state || !valid_) return;
    auto* h = &state(s, d_, 4 * q_);
#pragma unroll
    for (int c = 0; c < 2; ++c, h += state.stride(1))
#pragma unroll
      for (int n = 0; n < 4; ++n)
        if (4 * q_ + n < N) h[n * state.stride(2)] = h_[c][n];
  }

  /// What this thread holds of a state, in scratch memory that other blocks may have written in this launch.
  __device__ void load_slot(Index slot) {
    float const* const from = plan_.states + slot * 8 * threads + threadIdx.x;
#pragma unroll
    for (int i = 0; i < 8; ++i) h_[i / 4][i % 4] = __ldcg(from + i * threads);
  }
  __device__ void store_slot(Index slot) const {
    float* const to = plan_.states + slot * 8 * threads + threadIdx.x;
#pragma unroll
    for (int i = 0; i < 8; ++i) __stcg(to + i * threads, h_[i / 4][i % 4]);
  }
  /// h ← exp(A Σδ) h + what the chunk in `slot` makes of a state of zeros.
  __device__ void compose_slot(Index slot) {
    float const *const from = plan_.states + slot * 8 * threads + threadIdx.x, *const sums = plan_.delta_sums + slot * 2 * threads +
                                                                                             threadIdx.x;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float const sum = __ldcg(sums + c * threads);
#pragma unroll
      for (int n = 0; n < 4; ++n) h_[c][n] = fmaf(device_exp2(sum * A_[c][n]), h_[c][n], __ldcg(from + (4 * c + n) * threads));
    }
  }
  __device__ void store_delta_sums(Index slot) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float sum = delta_sum_[c];
      sum += __shfl_xor_sync(~0u, sum, pairs);
      sum += __shfl_xor_sync(~0u, sum, 2 * pairs);
      __stcg(plan_.delta_sums + (slot * 2 + c) * threads + threadIdx.x, sum);
    }
  }

  /// Times [begin, end) of batch entry b. `Whole`: writes y; otherwise only the state moves on, and step sizes are summed.
  ///
  /// While a group is scanned, the one before it is written, the step sizes of the next one are made, and the inputs of more are on
  /// their way: what each of them waits for is hidden by the others.
  template <bool Whole>
  __device__ void run(Index b, Index begin, Index end) {
    delta_sum_[0] = delta_sum_[1] = 0;
    if (begin >= end) return;
    Index left = end - begin;
    left_ = static_cast<int>(min(left, Index{8 * ring}));
    u_ = &a_.u(b, begin, copied_d_), delta_ = &a_.delta(b, begin, copied_d_);
    z_ = gated() ? &a_.z(b, begin, copied_d_) : nullptr;
    y_ = &a_.y(b, begin, d_);
    first_ = 0;
    set_bc(b, begin);

    fetch_bc<Whole>();
    for (int g = 0; g < 3 * batch; g += batch) fetch<Whole>(g);
    place_bc<Whole>(0);
    wait_copies<2>();
    __syncwarp();
    step_sizes<Whole>(0);
    __syncthreads();
    int buffer = 0;
    bool first = true;
    for (; left > 0; left -= stage) {
      // Not to be made from 64 bits again at each use.
      left_ = static_cast<int>(min(left, Index{8 * ring}));
      asm volatile("" : "+r"(left_), "+l"(u_), "+l"(delta_), "+l"(z_), "+l"(y_));
      bool const more = left_ > stage;
      if (more) fetch_bc<Whole>();
      int groups = (min(left_, stage) + group - 1) / group;
      asm volatile("" : "+r"(groups));
      for (int g = 0; g < groups; ++g) {
        wait_copies<batch == 1 ? 1 : 2>();
        __syncwarp();
        if constexpr (Whole) put(g - 1, g > 0 || !first);
        float y[group][2];
        scan<Whole>(buffer, g, y);
        step_sizes<Whole>(g + 1);
        // Every lane has read what of the group before is in shared memory.
        __syncwarp();
        if (g % batch == 0) fetch<Whole>(g + 3 * batch);
        if constexpr (Whole) exchange_sums(y);
      }
      first = false;
      if constexpr (Whole)
        if (!more) {
          __syncwarp();
          put(groups - 1, true);
        }
      if (more) place_bc<Whole>(buffer ^ 1);
      __syncthreads();
      buffer ^= 1;
      first_ ^= stage % ring;
      u_ = at(u_, a_.u.stride(1), stage), delta_ = at(delta_, a_.delta.stride(1), stage);
      if (gated()) z_ = at(z_, a_.z.stride(1), stage);
      y_ = at(y_, a_.y.stride(1), stage);
    }
    wait_copies<0>();
    __syncwarp();
  }

 private:
  __device__ bool gated() const { return Typical || static_cast<bool>(a_.z); }
  __device__ bool softplus() const { return Typical || a_.delta_softplus; }

  /// `t` times further: one multiply-add of 32-bit factors.
  template <class E>
  static __device__ E* at(E* base, Index stride, int t) {
    auto const bytes = static_cast<int>(stride) * static_cast<int>(sizeof(E));
    E* out;
    asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(out) : "r"(t), "r"(bytes), "l"(base));
    return out;
  }

  /// The inputs of the groups from g of the stage on, on their way. Past the end it is the last ones again, which nothing uses.
  template <bool Whole>
  __device__ void fetch(int g) const {
    int const row = ((first_ + g * group) & (ring - 1)) * input_row;
    if constexpr (Typical) {
      int const t = min(g * group + lane_ / copies_per_row, left_ - 1);
      copy_async<16>(inputs_write_ + row, at(u_, a_.u.stride(1), t));
      copy_async<16>(inputs_write_ + row + tensor_bytes, at(delta_, a_.delta.stride(1), t));
      if constexpr (Whole) copy_async<16>(inputs_write_ + row + 2 * tensor_bytes, at(z_, a_.z.stride(1), t));
    } else {
#pragma unroll
      for (int i = 0; i < halves; ++i) {
        int const t = min(g * group + i * lanes + q_, left_ - 1), to = inputs_read_ + row + i * lanes * input_row;
        copy_async<sizeof(Pair)>(to, at(u_, a_.u.stride(1), t));
        copy_async<sizeof(Pair)>(to + tensor_bytes, at(delta_, a_.delta.stride(1), t));
        if constexpr (Whole)
          if (gated()) copy_async<sizeof(Pair)>(to + 2 * tensor_bytes, at(z_, a_.z.stride(1), t));
      }
    }
    commit_copies();
  }
  /// Input 0, 1, 2 (u, delta, z) at the i-th of this thread's times in group g.
  __device__ float2 fetched(int g, int input, int i) const {
    return Pair::load_shared(inputs_read_ + ((first_ + g * group) & (ring - 1)) * input_row + input * tensor_bytes +
                             i * lanes * input_row)
        .widen();
  }

  /// Step sizes and inputs of group g go to the lanes that share the channels.
  template <bool Whole>
  __device__ void step_sizes(int g) {
#pragma unroll
    for (int i = 0; i < halves; ++i) {
      float2 const u = fetched(g, 0, i);
      float2 delta = fetched(g, 1, i);
      delta.x += bias_[0], delta.y += bias_[1];
      if (softplus()) delta.x = device_softplus(delta.x), delta.y = device_softplus(delta.y);
      // Past the end a step of size 0 keeps the state.
      bool const there = g * group + i * lanes + q_ < left_;
      delta.x = there ? delta.x : 0.0f, delta.y = there ? delta.y : 0.0f;
      if constexpr (!Whole) delta_sum_[0] += delta.x, delta_sum_[1] += delta.y;
      store_shared(exchange_write_ + (g & 1) * exchange_bytes + i * lanes * row_bytes,
                   float4{delta.x, delta.y, delta.x * u.x, delta.y * u.y});
    }
  }

  template <bool Whole>
  __device__ void scan(int bc_buffer, int g, float (&y)[group][2]) {
    std::uint32_t const steps = exchange_read_ + (g & 1) * exchange_bytes;
    std::uint32_t const bc = bc_read_ + (bc_buffer * stage + g * group) * row_bytes;
#pragma unroll
    for (int j = 0; j < group; ++j) {
      float4 const step = load_shared(steps + j * row_bytes), B4 = load_shared(bc + j * row_bytes);
      float4 const C4 = Whole ? load_shared(bc + j * row_bytes + row_bytes / 2) : float4{};
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

  /// The sums of this lane's states, to the lanes that share the channels: each gets the times it fetched.
  __device__ void exchange_sums(float (&y)[group][2]) const {
    static_assert(halves == 2);
#pragma unroll
    for (int k = 0; k < lanes; ++k)
      store_shared(partial_write_ + k * lanes * row_bytes, float4{y[k][0], y[k][1], y[k + lanes][0], y[k + lanes][1]});
  }

  /// The output of group g, unless there was none.
  __device__ void put(int g, bool any) const {
    float4 part[lanes];
#pragma unroll
    for (int k = 0; k < lanes; ++k) part[k] = load_shared(partial_read_ + k * row_bytes);
    float const sums[halves][2]{
        {(part[0].x + part[1].x) + (part[2].x + part[3].x), (part[0].y + part[1].y) + (part[2].y + part[3].y)},
        {(part[0].z + part[1].z) + (part[2].z + part[3].z), (part[0].w + part[1].w) + (part[2].w + part[3].w)}};
#pragma unroll
    for (int i = 0; i < halves; ++i) {
      float2 const u = fetched(g, 0, i);
      float2 out{fmaf(D_[0], u.x, sums[i][0]), fmaf(D_[1], u.y, sums[i][1])};
      if (gated()) {
        float2 const z = fetched(g, 2, i);
        out.x *= device_silu(z.x), out.y *= device_silu(z.y);
      }
      int const t = g * group + i * lanes + q_;
      Pair::store_if(any && valid_ && t < left_, at(y_, a_.y.stride(1), t), out);
    }
  }

  /// A thread stages 16 bytes of B or of C at times that are threads / chunks_per_time apart.
  __device__ void set_bc(Index b, Index begin) {
    int const chunk = static_cast<int>(threadIdx.x) % chunks_per_time;
    is_c_ = chunk >= chunks_per_time / 2;
    bc_n_ = chunk % (chunks_per_time / 2) * wide;
    bc_t_ = static_cast<int>(threadIdx.x) / chunks_per_time;
    View<T const, 4> const& from = is_c_ ? a_.C : a_.B;
    bc_stride_ = from.stride(1);
    bc_ = &from(b, begin + bc_t_, group_, bc_n_);
    bc_left_ = 0;
  }
  /// B and C of the next stage, on their way; zeros past the end.
  template <bool Whole>
  __device__ void fetch_bc() {
    constexpr int step = threads / chunks_per_time;
    int const left = left_ - bc_left_;
#pragma unroll
    for (int j = 0; j < bc_chunks; ++j) {
      bool const there = bc_t_ + j * step < left && (Whole || !is_c_);
      T const* const from = bc_ + j * step * bc_stride_;
      if constexpr (Typical) {
        // Rows of B and C are parts of a product's, and need not begin at a multiple of 16 bytes.
        uint2 const zero{0, 0};
        uint2 const low = there ? *reinterpret_cast<uint2 const*>(from) : zero;
        uint2 const high = there ? *reinterpret_cast<uint2 const*>(from + wide / 2) : zero;
        raw_bc_[j] = {low.x, low.y, high.x, high.y};
      } else {
        int const N = static_cast<int>(a_.A.extent(1));
        Index const stride = is_c_ ? a_.C.stride(3) : a_.B.stride(3);
        Chunk chunk;
#pragma unroll
        for (int i = 0; i < wide; ++i) chunk.of[i] = there && bc_n_ + i < N ? from[i * stride] : T(0.0f);
        raw_bc_[j] = __builtin_bit_cast(uint4, chunk);
      }
    }
    bc_ += stage * bc_stride_;
    bc_left_ = stage;
  }
  template <bool Whole>
  __device__ void place_bc(int buffer) {
#pragma unroll
    for (int j = 0; j < bc_chunks; ++j) {
      float* const to =
          reinterpret_cast<float*>(&shared_.bc[buffer][bc_t_ + j * (threads / chunks_per_time)][is_c_ ? 4 : 0]) + bc_n_;
      unsigned const words[4]{raw_bc_[j].x, raw_bc_[j].y, raw_bc_[j].z, raw_bc_[j].w};
      if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<uint4*>(to) = raw_bc_[j];
      } else {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
          float2 const low = Pair{words[2 * k]}.widen(), high = Pair{words[2 * k + 1]}.widen();
          *reinterpret_cast<float4*>(to + 4 * k) = float4{low.x, low.y, high.x, high.y};
        }
      }
    }
  }

  struct alignas(16) Chunk {
    T of[wide];
  };

  SelectiveScanArgs<T> const& a_;
  ScanPlan const& plan_;
  Shared& shared_;
  int lane_, warp_, q_, p_, left_, first_;
  std::uint32_t exchange_read_, exchange_write_, partial_read_, partial_write_, bc_read_, inputs_read_, inputs_write_;
  Index group_, d_, copied_d_;
  bool valid_, is_c_;
  float A_[2][4], h_[2][4], D_[2], bias_[2], delta_sum_[2];
  T const *u_, *delta_, *z_, *bc_;
  T* y_;
  int bc_t_, bc_n_, bc_left_;
  Index bc_stride_;
  uint4 raw_bc_[bc_chunks];
};

}  // namespace blackmamba::detail
