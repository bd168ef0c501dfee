#pragma once
/// \file
/// The first pass of the selective scan's backward pass: what a segment of time does to states and to their gradients.
///
/// A warp walks a segment with a channel a lane, all states of it, and needs no other warp. It keeps the state before each group of
/// 8 steps, and leaves the state, and the gradient that reaches the segment's beginning, of zeros:
///
///   h_t = a_t h_{t-1} + δ_t u_t B_t ;   Σ_t P_t dp_t C_t with P_t = a_t … a_begin, so that one exponential does for both
///
/// What it keeps is in the order in which the way back holds it: see ScanBackwardPlace.

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/ops/selective_scan/backward_layout.cuh>

namespace blackmamba::detail {

template <class T>
class ScanForwardWarp {
  using Tuning = ScanBackwardTuning;
  using Args = SelectiveScanBackwardArgs<T>;
  static constexpr int group = Tuning::group, states = Tuning::states, lanes = 32;
  static constexpr int wide = 16 / sizeof(T), copies_per_row = lanes / wide;  // 16 bytes each
  using Raw = std::conditional_t<sizeof(T) == 2, unsigned short, float>;
  enum Tensor : int { u, delta, z, d_y };

 public:
  static constexpr int warps = Tuning::threads / lanes;  ///< of a block
  struct alignas(16) Shared {
    T inputs[2][4][group][lanes];
    float bc[group][2][states];
    ScanRow<T> rows[4];  // as Tensor numbers them
  };

  /// `half`: which half of the tile's channels.
  __device__ ScanForwardWarp(Args const& args, ScanBackwardLayout const& plan, Shared& shared, int tile, int half, int part)
      : a_{args}, plan_{plan}, shared_{shared}, lane_{static_cast<int>(threadIdx.x) % lanes}, tile_{tile} {
    row_ = part / plan.segments;
    part_ = part * plan.tiles + tile;
    first_slot_ = part % plan.segments * plan.segment;
    end_slot_ = min(plan.slots, first_slot_ + plan.segment);
    channel_ = half * lanes + lane_;
    int const per_group = static_cast<int>(a_.u.extent(2) / a_.B.extent(2));
    group_ = tile_ / plan.tiles_per_group;
    int const begin = tile_ % plan.tiles_per_group * Tuning::channels + half * lanes,
              copied = begin + lane_ % copies_per_row * wide;
    valid_ = begin + lane_ < per_group;
    // Channels past the end compute with those of the beginning, at step sizes of 0.
    d_ = group_ * per_group + (valid_ ? begin + lane_ : 0);
    copied_d_ = group_ * per_group + (copied < per_group ? copied : 0);
    N_ = static_cast<int>(a_.A.extent(1));
#pragma unroll
    for (int n = 0; n < states; ++n)
      // Not infinite, so that a step size of 0 always keeps the state.
      A_[n] = n < N_ ? fmaxf(a_.A(d_, n) * 1.44269504088896f, -3.4e38f) : 0.0f;
    bias_ = a_.delta_bias ? device_widen(a_.delta_bias[d_]) : 0.0f;
    Index const b = a_.offsets ? 0 : row_;
    auto const set = [&](Tensor tensor, auto const& x) {
      if (lane_ == tensor) shared_.rows[tensor] = row_of(x, b);
    };
    set(u, a_.u), set(delta, a_.delta), set(z, a_.z), set(d_y, a_.d_y);
    __syncwarp();
    View<T const, 4> const& of_lane = lane_ < states ? a_.B : a_.C;
    bc_there_ = lane_ % states < N_;
    bc_ = &of_lane(b, 0, group_, bc_there_ ? lane_ % states : 0);
    bc_stride_ = time_stride(of_lane);
  }

  __device__ void run() {
    ScanSlots slots{a_.offsets, plan_.length, row_};
    ScanGroup next{slots, first_slot_, first_slot_};
    float h[states]{}, P[states], G[states]{}, steps = 0;
#pragma unroll
    for (float& x : P) x = 1;
    fetch(next, 0);
    for (int slot = first_slot_; slot < end_slot_; ++slot) {
      int const buffer = (slot - first_slot_) & 1;
      ScanGroup const now = next;
      arrive(now);
      if (slot + 1 < end_slot_) {
        next = ScanGroup{slots, slot + 1, first_slot_};
        fetch(next, buffer ^ 1);
      }
      if (now.first)
#pragma unroll
        for (int n = 0; n < states; ++n) h[n] = a_.initial_state && n < N_ ? a_.initial_state(now.sequence, d_, n) : 0.0f;
      if (now.count) {
        int const at = (row_ * plan_.slots + slot) * plan_.tiles + tile_;
        leave(plan_.kept, at, h);
        plan_.steps[Index{at} * Tuning::channels + channel_] = steps;
        walk(buffer, valid_ ? now.count : 0, h, P, G, steps);
      }
      if (now.last)
#pragma unroll
        for (int n = 0; n < states; ++n) {
          float const end = a_.d_last_state && n < N_ ? a_.d_last_state(now.sequence, d_, n) : 0.0f;
          G[n] = fmaf(P[n], end, G[n]), P[n] = 0;
        }
    }
    leave(plan_.states, part_, h);
    leave(plan_.d_states, part_, G);
    plan_.decays[Index{part_} * Tuning::channels + channel_] = steps;
  }

 private:
  /// The inputs of a group, on their way: past its end its last step again, which nothing uses.
  __device__ void fetch(ScanGroup const& g, int buffer) {
    if (g.count) {
#pragma unroll
      for (int tensor = 0; tensor < 4; ++tensor) {
        ScanRow<T> const from = shared_.rows[tensor];
        if (tensor == z && !from.base) continue;
#pragma unroll
        for (int k = 0; k < copies_per_row * group / lanes; ++k) {
          int const t = k * (lanes / copies_per_row) + lane_ / copies_per_row;
          copy_async<16>(shared_address(&shared_.inputs[buffer][tensor][t][lane_ % copies_per_row * wide]),
                         rows_on(from.base + copied_d_, from.stride, g.t + min(t, g.count - 1)));
        }
      }
#pragma unroll
      for (int t = 0; t < group; ++t)
        raw_bc_[t] = __ldg(reinterpret_cast<Raw const*>(rows_on(bc_, bc_stride_, g.t + min(t, g.count - 1))));
    }
    commit_copies();
  }
  /// Waits for what was fetched.
  __device__ void arrive(ScanGroup const& now) {
    __syncwarp();
#pragma unroll
    for (int t = 0; t < group; ++t)
      shared_.bc[t][lane_ / states][lane_ % states] =
          t < now.count && bc_there_ ? device_widen(__builtin_bit_cast(T, raw_bc_[t])) : 0.0f;
    wait_copies<0>();
    __syncwarp();
  }
  __device__ float fetched(int buffer, Tensor tensor, int t) const {
    return device_widen(shared_.inputs[buffer][tensor][t][lane_]);
  }

  __device__ void walk(int buffer, int count, float (&h)[states], float (&P)[states], float (&G)[states], float& steps) const {
#pragma unroll
    for (int t = 0; t < group; ++t) {
      float const x = fetched(buffer, delta, t) + bias_, d_y_t = fetched(buffer, d_y, t), u_t = computed(fetched(buffer, u, t));
      float const softplus = computed(device_softplus(x)), gated = computed(d_y_t * device_silu(fetched(buffer, z, t)));
      // Past the end a step of size 0 keeps the state.
      float const step = t < count ? (a_.delta_softplus ? softplus : x) : 0.0f, d_sum = t < count ? (a_.z ? gated : d_y_t) : 0.0f,
                  input = t < count ? step * u_t : 0.0f;
      steps += step;
#pragma unroll
      for (int q = 0; q < states / 4; ++q) {
        float4 const B4 = reinterpret_cast<float4 const&>(shared_.bc[t][0][4 * q]),
                     C4 = reinterpret_cast<float4 const&>(shared_.bc[t][1][4 * q]);
        float const B[4]{B4.x, B4.y, B4.z, B4.w}, C[4]{C4.x, C4.y, C4.z, C4.w};
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          int const n = 4 * q + j;
          float const decay = device_exp2(step * A_[n]);
          h[n] = fmaf(decay, h[n], input * B[j]);
          P[n] *= decay;
          G[n] = fmaf(P[n], d_sum * C[j], G[n]);
        }
      }
    }
  }

  /// To a part of scratch memory, in the order of the threads of the way back.
  __device__ void leave(float4* to, int part, float const (&x)[states]) const {
    int const pair = channel_ / 2 % 8, warp = channel_ / 16, turn = pair >> 1;
#pragma unroll
    for (int q = 0; q < states / 4; ++q) {
      float const a = turn & 1 ? x[4 * q + 1] : x[4 * q], b = turn & 1 ? x[4 * q] : x[4 * q + 1],
                  c = turn & 1 ? x[4 * q + 3] : x[4 * q + 2], d = turn & 1 ? x[4 * q + 2] : x[4 * q + 3];
      float4 const turned = turn & 2 ? float4{c, d, a, b} : float4{a, b, c, d};
      to[(Index{part} * 2 + ((channel_ & 1) ^ (q >> 1))) * Tuning::threads + 32 * warp + ScanBackwardPlace::lane(q, pair)] = turned;
    }
  }

  Args const& a_;
  ScanBackwardLayout const& plan_;
  Shared& shared_;
  int lane_, tile_, row_, part_, first_slot_, end_slot_, channel_, group_, d_, copied_d_, N_;
  bool valid_, bc_there_;
  float A_[states], bias_;
  T const* bc_;
  int bc_stride_;
  Raw raw_bc_[group]{};
};

}  // namespace blackmamba::detail
