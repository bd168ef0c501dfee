#pragma once
/// \file
/// What one block does on the way back of the selective scan: 64 channels over a segment of time, group by group from the last.
/// Each is first walked forward from its kept state, which leaves what is carried of the states in registers and gives y and dC;
/// then back, which gives the rest. Decays are computed twice: to keep them would take the registers of a third of the warps.
///
/// What is done once for a channel and a time (softplus, the gate, the outputs) is shared by the 4 lanes of a pair of channels:
/// each has one of the channels and 4 of the 8 times. There are no branches inside of a group, which would keep instructions apart.

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/ops/selective_scan/backward_layout.cuh>

namespace blackmamba::detail {

template <class T>
class ScanBackwardTile {
  using Tuning = ScanBackwardTuning;
  using Args = SelectiveScanBackwardArgs<T>;
  using Place = ScanBackwardPlace;
  static constexpr int threads = Tuning::threads, warps = threads / 32, group = Tuning::group;
  static constexpr int row = 16;                     // channels of a warp
  static constexpr int wide = 16 / sizeof(T);        // elements in 16 bytes
  static constexpr int copies_per_row = row / wide;  // of 16 bytes
  static constexpr int record_row = row + 4;         // so that lanes that write to two rows meet in no bank
  static constexpr int mine = 4;                     // times of this lane's own in a group: 2 i + parity
  static constexpr float log2_e = 1.44269504088896f, ln_2 = 0.693147180559945f;
  using Raw = std::conditional_t<sizeof(T) == 2, unsigned short, float>;
  enum Tensor : int { u, delta, z, d_y, d_u, d_delta, d_z };

 public:
  struct alignas(16) Shared {
    T inputs[2][warps][4][group][row];               // u, delta, z, d_y
    float4 kept[2][2][threads];                      // states before groups
    float steps[2][warps * row];                     // step sizes up to there
    float4 bc[2][group][2][4][4];                    // B and C: of 4 states, the four orders that lanes hold them in
    float4 records[warps][group][record_row];        // of channels 2 p, then of 2 p + 1: what step_sizes makes
    float sums[2][warps][2][group][Tuning::states];  // of dB and dC over a warp's channels
    float4 start[2][threads];                        // the state at the segment's beginning
    ScanRow<T> rows[7];                              // as Tensor numbers them
  };

  __device__ ScanBackwardTile(Args const& args, ScanBackwardLayout const& plan, Shared& shared)
      : a_{args}, plan_{plan}, shared_{shared}, place_{threadIdx.x} {
    part_ = static_cast<int>(blockIdx.x);
    tile_ = part_ % plan.tiles;
    int const segment = part_ / plan.tiles;
    row_ = segment / plan.segments;
    first_slot_ = segment % plan.segments * plan.segment;
    last_slot_ = min(plan.slots, first_slot_ + plan.segment) - 1;
    int const per_group = static_cast<int>(a_.u.extent(2) / a_.B.extent(2)), group_of_B = tile_ / plan.tiles_per_group;
    int const tile_begin = tile_ % plan.tiles_per_group * Tuning::channels + place_.warp * row;
    int const within = tile_begin + 2 * place_.p, copied = tile_begin + lane() % copies_per_row * wide;
    valid_ = within < per_group;
    // Channels past the end compute with those of the beginning, at step sizes of 0, and write nothing.
    d_ = group_of_B * per_group + (valid_ ? within : 0);
    copied_d_ = group_of_B * per_group + (copied < per_group ? copied : 0);
    int const N = static_cast<int>(a_.A.extent(1));
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        // Not infinite, so that a step size of 0 always keeps the state.
        A_[c][j] = place_.state(j) < N ? fmaxf(a_.A(pair_channel(c), place_.state(j)) * log2_e, -3.4e38f) : 0.0f;
    D_ = a_.D ? device_widen(a_.D[channel()]) : 0.0f;
    bias_ = a_.delta_bias ? device_widen(a_.delta_bias[channel()]) : 0.0f;

    Index const b = a_.offsets ? 0 : row_;
    auto const set = [&](Tensor tensor, auto const& x) {
      if (threadIdx.x == tensor) shared_.rows[tensor] = row_of(x, b);
    };
    set(u, a_.u), set(delta, a_.delta), set(z, a_.z), set(d_y, a_.d_y), set(d_u, a_.d_u), set(d_delta, a_.d_delta),
        set(d_z, a_.d_z);
    __syncthreads();
    int const n = min(static_cast<int>(threadIdx.x) % Tuning::states, max(N - 1, 0));
    B_ = &a_.B(b, 0, group_of_B, n), C_ = &a_.C(b, 0, group_of_B, n);
  }

  __device__ void run() {
    ScanSlots slots{a_.offsets, plan_.length, row_};
    ScanGroup next{slots, last_slot_, first_slot_};
    float g[2][4];
    load(plan_.d_states, part_, g);
#pragma unroll
    for (int c = 0; c < 2; ++c) shared_.start[c][threadIdx.x] = plan_.states[(Index{part_} * 2 + c) * threads + threadIdx.x];
    fetch(next, last_slot_, 0);
    int t_before = 0, count_before = 0;
    for (int slot = last_slot_; slot >= first_slot_; --slot) {
      int const buffer = (last_slot_ - slot) & 1;
      ScanGroup const now = next;
      arrive(now, buffer);
      if (slot > first_slot_) {
        next = ScanGroup{slots, slot - 1, first_slot_};
        fetch(next, slot - 1, buffer ^ 1);
      }
      add_up(buffer ^ 1, t_before, count_before);
      if (now.last) load_state(a_.d_last_state, now.sequence, g);
      if (now.count) forward_and_back(now, buffer, g);
      if (now.first && a_.d_initial_state) store_state(a_.d_initial_state, now.sequence, g);
      t_before = now.t, count_before = now.count;
    }
    __syncthreads();
    add_up((last_slot_ - first_slot_) & 1, t_before, count_before);
    store(plan_.d_A, part_, d_A_);
    float const d_D = d_D_ + of_lane(d_D_, Place::q0), d_bias = d_bias_ + of_lane(d_bias_, Place::q0);
    if (parity() == 0) {
      Index const at = Index{part_} * Tuning::channels + place_.warp * row + place_.channel(0);
      plan_.d_D[at] = d_D, plan_.d_bias[at] = d_bias;
    }
  }

 private:
  /// What the lane that is `mask` apart has.
  static __device__ float of_lane(float x, int mask) { return __shfl_xor_sync(~0u, x, mask); }
  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int parity() const { return place_.q & 1; }
  __device__ int pair_channel(int c) const { return d_ + (c ^ place_.swap()); }
  /// This lane's own channel for what is done once for a channel.
  __device__ int channel() const { return pair_channel(0); }

  __device__ void load(float4 const* from, int part, float (&x)[2][4]) const {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float4 const four = from[(Index{part} * 2 + c) * threads + threadIdx.x];
      x[c][0] = four.x, x[c][1] = four.y, x[c][2] = four.z, x[c][3] = four.w;
    }
  }
  __device__ void store(float4* to, int part, float const (&x)[2][4]) const {
#pragma unroll
    for (int c = 0; c < 2; ++c) to[(Index{part} * 2 + c) * threads + threadIdx.x] = float4{x[c][0], x[c][1], x[c][2], x[c][3]};
  }
  __device__ void load_state(View<float const, 3> const& from, Index s, float (&x)[2][4]) const {
    int const N = static_cast<int>(a_.A.extent(1));
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j) x[c][j] = from && place_.state(j) < N ? from(s, pair_channel(c), place_.state(j)) : 0.0f;
  }
  __device__ void store_state(View<float, 3> const& to, Index s, float const (&x)[2][4]) const {
    int const N = static_cast<int>(a_.A.extent(1));
    if (!valid_) return;
#pragma unroll
    for (int c = 0; c < 2; ++c)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        if (place_.state(j) < N) to(s, pair_channel(c), place_.state(j)) = x[c][j];
  }

  /// The inputs of a group, on their way: past its end its last step again, which nothing uses.
  __device__ void fetch(ScanGroup const& g, int slot, int buffer) {
    if (g.count) {
      constexpr int rows_at_once = 32 / copies_per_row;  // of all tensors
      int const i = lane() / copies_per_row;
#pragma unroll
      for (int k = 0; k < 4 * group / rows_at_once; ++k) {
        int const tensor = (k * rows_at_once + i) / group, t = i % group;
        ScanRow<T> const from = shared_.rows[tensor];
        if (from.base)
          copy_async<16>(shared_address(&shared_.inputs[buffer][place_.warp][tensor][t][lane() % copies_per_row * wide]),
                         rows_on(from.base + copied_d_, from.stride, g.t + min(t, g.count - 1)));
      }
      int const t = g.t + min(static_cast<int>(threadIdx.x) / Tuning::states, g.count - 1);
      raw_B_ = __ldg(reinterpret_cast<Raw const*>(rows_on(B_, time_stride(a_.B), t)));
      raw_C_ = __ldg(reinterpret_cast<Raw const*>(rows_on(C_, time_stride(a_.C), t)));
      int const at = (row_ * plan_.slots + slot) * plan_.tiles + tile_;
#pragma unroll
      for (int c = 0; c < 2; ++c)
        copy_async<16>(shared_address(&shared_.kept[buffer][c][threadIdx.x]),
                       plan_.kept + (Index{at} * 2 + c) * threads + threadIdx.x);
      if (threadIdx.x < Tuning::channels / 4)
        copy_async<16>(shared_address(&shared_.steps[buffer][4 * threadIdx.x]),
                       plan_.steps + Index{at} * Tuning::channels + 4 * threadIdx.x);
    }
    commit_copies();
  }
  /// Waits for what was fetched, and for the block. A thread has one state of B and C, and gets its order of four from its
  /// neighbours.
  __device__ void arrive(ScanGroup const& now, int buffer) {
    int const t = static_cast<int>(threadIdx.x) / Tuning::states, n = static_cast<int>(threadIdx.x) % Tuning::states;
    bool const there = t < now.count && n < a_.A.extent(1);
    float const B = there ? device_widen(__builtin_bit_cast(T, raw_B_)) : 0.0f,
                C = there ? device_widen(__builtin_bit_cast(T, raw_C_)) : 0.0f;
    auto const of_four = [](float x) {
      return float4{x, __shfl_xor_sync(~0u, x, 1), __shfl_xor_sync(~0u, x, 2), __shfl_xor_sync(~0u, x, 3)};
    };
    shared_.bc[buffer][t][0][n / 4][n % 4] = of_four(B), shared_.bc[buffer][t][1][n / 4][n % 4] = of_four(C);
    wait_copies<0>();
    __syncthreads();
  }
  __device__ void load_bc(int buffer, int t, int which, float (&x)[4]) const {
    float4 const four = shared_.bc[buffer][t][which][place_.q][place_.turn()];
    x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
  }
  /// Of this thread's channel c.
  __device__ float4& record(int t, int c) const {
    return shared_.records[place_.warp][t][row / 2 * (c ^ place_.swap()) + place_.p];
  }
  __device__ float fetched(int buffer, Tensor tensor, int t) const {
    return device_widen(shared_.inputs[buffer][place_.warp][tensor][t][place_.channel(0)]);
  }

  /// This lane's records of a group of `count` steps: step size, its product with u, dp, slope of softplus. Those past the end have
  /// a size of 0 and add nothing.
  __device__ void step_sizes(int count, int buffer) const {
#pragma unroll
    for (int i = 0; i < mine; ++i) {
      int const t = 2 * i + parity();
      float const x = fetched(buffer, delta, t) + bias_, d_y_t = fetched(buffer, d_y, t), u_t = fetched(buffer, u, t);
      float const softplus = computed(device_softplus(x)), slope = computed(device_sigmoid(x)),
                  gated = computed(d_y_t * device_silu(fetched(buffer, z, t)));
      float const step = a_.delta_softplus ? softplus : x;
      bool const there = 2 * i < count;
      record(t, 0) = float4{there ? step : 0.0f, there ? step * u_t : 0.0f, there ? (a_.z ? gated : d_y_t) : 0.0f,
                            a_.delta_softplus ? slope : 1.0f};
    }
  }

  /// Of two times, each lane of a pair keeps its own and gets the other lane's share of it.
  static __device__ float exchange(float even, float odd, bool keeps_odd, int mask) {
    float const keep = keeps_odd ? odd : even, send = keeps_odd ? even : odd;
    return keep + of_lane(send, mask);
  }
  /// Sums over the pairs of channels, but for the last halving: that of state 4 q + turn.
  static __device__ float over_channels(float const (&x)[4]) {
    float const keep = x[0] + of_lane(x[2], Place::p2), send = x[1] + of_lane(x[3], Place::p2);
    return keep + of_lane(send, Place::p1);
  }
  /// Sums over the states, but for the last halving: that of channel(0).
  static __device__ float over_states(float const (&x)[2]) { return x[0] + of_lane(x[1], Place::q1); }

  __device__ void leave_sums(int buffer, int which, float const (&x)[mine]) const {
#pragma unroll
    for (int i = 0; i < mine; ++i)
      shared_.sums[buffer][place_.warp][which][2 * i + (place_.p & 1)][4 * place_.q + place_.turn()] = x[i];
  }

  /// This lane's outputs of a group.
  __device__ void put(Tensor tensor, int t, int count, float const (&x)[mine]) const {
    ScanRow<T> const to = shared_.rows[tensor];
    T* const at = to.base + channel();
    int const own = to.base ? count : 0;
#pragma unroll
    for (int i = 0; i < mine; ++i) store_if(2 * i < own, rows_on(at, to.stride, t + 2 * i + parity()), device_round<T>(x[i]));
  }

  __device__ void forward_and_back(ScanGroup const& now, int buffer, float (&g)[2][4]) {
    int const count = valid_ ? now.count - parity() : 0;  // of this lane's own times, 2 i is there while less
    step_sizes(count, buffer);
    float h[2][4];
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float4 const four = shared_.kept[buffer][c][threadIdx.x];
      h[c][0] = four.x, h[c][1] = four.y, h[c][2] = four.z, h[c][3] = four.w;
      float4 const start4 = shared_.start[c][threadIdx.x];
      float const start[4]{start4.x, start4.y, start4.z, start4.w};
      float const steps = shared_.steps[buffer][place_.warp * row + place_.channel(c)];
#pragma unroll
      for (int j = 0; j < 4; ++j) h[c][j] = fmaf(device_exp2(steps * A_[c][j]), now.joined ? start[j] : 0.0f, h[c][j]);
    }
    __syncwarp();
    float carried[group][2][4], of_z[mine], of_C[mine];
#pragma unroll
    for (int i = 0; i < mine; ++i) {
      float y[2], d_C[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        int const t = 2 * i + k;
        float B[4], C[4], of_states[2], of_channels[4];
        load_bc(buffer, t, 0, B), load_bc(buffer, t, 1, C);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float4 const step = record(t, c);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            carried[t][c][j] = device_exp2(step.x * A_[c][j]) * h[c][j];
            h[c][j] = fmaf(step.y, B[j], carried[t][c][j]);
            of_states[c] = j == 0 ? C[j] * h[c][j] : fmaf(C[j], h[c][j], of_states[c]);
            of_channels[j] = c == 0 ? step.z * h[c][j] : fmaf(step.z, h[c][j], of_channels[j]);
          }
        }
        y[k] = over_states(of_states), d_C[k] = over_channels(of_channels);
      }
      of_C[i] = exchange(d_C[0], d_C[1], place_.p & 1, Place::p0);
      float const sum = exchange(y[0], y[1], parity(), Place::q0);
      int const t = 2 * i + parity();
      float const z_t = fetched(buffer, z, t), gate = device_sigmoid(z_t);
      of_z[i] = fetched(buffer, d_y, t) * fmaf(D_, fetched(buffer, u, t), sum) * gate * fmaf(z_t, 1.0f - gate, 1.0f);
    }
    leave_sums(buffer, 1, of_C);
    put(d_z, now.t, count, of_z);
    float of_u[mine], of_delta[mine], of_B[mine];
#pragma unroll
    for (int i = mine - 1; i >= 0; --i) {
      float through_A[2], through_B[2], d_B[2];
#pragma unroll
      for (int k = 1; k >= 0; --k) {
        int const t = 2 * i + k;
        float B[4], C[4], of_A[2], of_g[2], of_channels[4];
        load_bc(buffer, t, 0, B), load_bc(buffer, t, 1, C);
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float4 const step = record(t, c);
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            g[c][j] = fmaf(step.z, C[j], g[c][j]);
            float const product = carried[t][c][j] * g[c][j];
            of_channels[j] = c == 0 ? step.y * g[c][j] : fmaf(step.y, g[c][j], of_channels[j]);
            of_g[c] = j == 0 ? B[j] * g[c][j] : fmaf(B[j], g[c][j], of_g[c]);
            of_A[c] = j == 0 ? A_[c][j] * product : fmaf(A_[c][j], product, of_A[c]);
            d_A_[c][j] = fmaf(step.x, product, d_A_[c][j]);
            g[c][j] *= device_exp2(step.x * A_[c][j]);
          }
        }
        through_A[k] = over_states(of_A), through_B[k] = over_states(of_g), d_B[k] = over_channels(of_channels);
      }
      of_B[i] = exchange(d_B[0], d_B[1], place_.p & 1, Place::p0);
      float const A_sum = exchange(through_A[0], through_A[1], parity(), Place::q0) * ln_2;
      float const B_sum = exchange(through_B[0], through_B[1], parity(), Place::q0);
      int const t = 2 * i + parity();
      float4 const step = record(t, 0);
      float const u_t = fetched(buffer, u, t);
      of_u[i] = fmaf(D_, step.z, step.x * B_sum);
      of_delta[i] = fmaf(u_t, B_sum, A_sum) * step.w;
      d_D_ += 2 * i < count ? step.z * u_t : 0.0f, d_bias_ += 2 * i < count ? of_delta[i] : 0.0f;
    }
    leave_sums(buffer, 0, of_B);
    put(d_u, now.t, count, of_u);
    put(d_delta, now.t, count, of_delta);
  }

  /// The warps' sums of the group before, to this tile's part of d_B and d_C.
  __device__ void add_up(int buffer, int t_begin, int count) const {
    int const e = 2 * static_cast<int>(threadIdx.x), which = e / (group * Tuning::states), t = e / Tuning::states % group;
    if (!plan_.d_BC || t >= count) return;
    float2 sum{0, 0};
#pragma unroll
    for (int w = 0; w < warps; ++w) {
      float2 const x = reinterpret_cast<float2 const&>(shared_.sums[buffer][w][which][t][e % Tuning::states]);
      sum.x += x.x, sum.y += x.y;
    }
    Index const at = (Index{tile_} * plan_.rows + row_) * plan_.length + t_begin + t;
    reinterpret_cast<float2&>(plan_.d_BC[(at * 2 + which) * Tuning::states + e % Tuning::states]) = sum;
  }

  Args const& a_;
  ScanBackwardLayout const& plan_;
  Shared& shared_;
  Place place_;
  int tile_, row_, part_, first_slot_, last_slot_, d_, copied_d_;
  bool valid_;
  float A_[2][4], D_, bias_, d_A_[2][4]{}, d_D_ = 0, d_bias_ = 0;
  T const *B_, *C_;
  Raw raw_B_ = 0, raw_C_ = 0;
};

}  // namespace blackmamba::detail
