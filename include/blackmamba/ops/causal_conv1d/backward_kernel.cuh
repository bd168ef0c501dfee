#pragma once
/// \file
/// Kernels of the causal convolution's backward pass.

#include <blackmamba/ops/causal_conv1d/backward.hpp>
#include <blackmamba/ops/causal_conv1d/kernel.cuh>

namespace blackmamba::detail {

/// The gradient of silu(s) in s.
template <class Acc>
__device__ Acc silu_slope(Acc s) {
  Acc const gate = device_sigmoid(s);
  return gate * (1 + s * (1 - gate));
}

/// The gradients of the inputs that the sums of a thread's four channels have met so far, on their way out.
///
/// Input i of a sequence is met by the sums at i … i + 3, so it goes out 3 times later, or at the sequence's end with what the last
/// state says of it. A tile writes those of its own times, and those of the initial states of sequences that begin in it.
template <class T>
class ConvPending {
  using Args = CausalConv1dBackwardArgs<T>;
  static constexpr int taps = ConvTuning::taps;

 public:
  __device__ ConvPending(Args const& a, Index b, Index d, Index begin, Index end) : a_{a}, b_{b}, d_{d}, begin_{begin}, end_{end} {}

  __device__ void clear() {
#pragma unroll
    for (auto& of_tap : sums_)
      for (float& x : of_tap) x = 0;
  }
  /// Adds what the sum at t, of gradient g, gives to the inputs it meets. `Inside`: all of them are of the tile and of the
  /// sequence.
  template <bool Inside>
  __device__ void add(ConvColumn<T> const& column, ConvSequence const& here, Index t, float const (&g)[4], bool out) {
    float oldest[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      oldest[c] = fmaf(column.weight[0][c], g[c], sums_[0][c]);
#pragma unroll
      for (int k = 1; k < taps - 1; ++k) sums_[k - 1][c] = fmaf(column.weight[k][c], g[c], sums_[k][c]);
      sums_[taps - 2][c] = column.weight[taps - 1][c] * g[c];
    }
    if constexpr (Inside) {
      if (out) store_four(&a_.d_x(b_, t - (taps - 1), d_), round_four<T>(oldest));
    } else {
      put(here, t - (taps - 1), oldest);
    }
  }
  /// At the sequence's end.
  __device__ void flush(ConvSequence const& here) {
#pragma unroll
    for (int k = 0; k < taps - 1; ++k) {
#pragma unroll
      for (int c = 0; c < 4; ++c) sums_[k][c] += a_.d_last_state ? a_.d_last_state(here.s, k, d_ + c) : 0.0f;
      put(here, here.end - (taps - 1) + k, sums_[k]);
    }
  }

 private:
  __device__ void put(ConvSequence const& here, Index t, float const (&x)[4]) const {
    if (t >= here.begin) {
      if (a_.d_x && t >= begin_ && t < end_) store_four(&a_.d_x(b_, t, d_), round_four<T>(x));
    } else if (a_.d_initial_state && here.begin >= begin_ && here.begin < end_) {
#pragma unroll
      for (int c = 0; c < 4; ++c) a_.d_initial_state(here.s, taps - 1 + t - here.begin, d_ + c) = x[c];
    }
  }

  Args const& a_;
  Index b_, d_, begin_, end_;
  float sums_[taps - 1][4];
};

/// Blocks as forward. Leaves the tile's share of d_weight and d_bias in `parts` (rows, tiles, 5, D), where there is one.
template <class T>
__global__ void __launch_bounds__(ConvTuning::threads, ConvTuning::backward_blocks)
    conv_backward_kernel(__grid_constant__ CausalConv1dBackwardArgs<T> const a, __grid_constant__ View<float, 4> const parts) {
  using Tuning = ConvTuning;
  constexpr int taps = Tuning::taps, tile = Tuning::backward_tile, ahead = Tuning::ahead<T>;
  Index const d = 4 * (Index{blockIdx.x} * blockDim.x + threadIdx.x), L = a.x.extent(1), begin = Index{blockIdx.y} * tile;
  if (d >= a.x.extent(2)) return;
  // The sums of the next 3 times meet inputs of this tile.
  int const own = static_cast<int>(min(L - begin, Index{tile})), count = static_cast<int>(min(L - begin, Index{tile + taps - 1}));
  for (Index b = blockIdx.z; b < a.x.extent(0); b += gridDim.z) {
    T const *const from = &a.x(b, begin, d), *const d_y = &a.d_y(b, begin, d);
    PackedFour<T> rows[ahead], d_rows[ahead], next[ahead], d_next[ahead];
    load_rows(from, a.x.stride(1), 0, count, rows), load_rows(d_y, a.d_y.stride(1), 0, count, d_rows);
    ConvColumn<T> column{a, d};
    ConvSequence here{a.offsets, b, L, begin};
    column.load_before(a, here, b, begin);
    ConvPending<T> pending{a, b, d, begin, begin + own};
    pending.clear();
    float d_weight[taps][4]{}, d_bias[4]{};
    int first_out = 0;  // the first time whose sum sends an input out
    auto const step = [&](PackedFour<T> const& row, PackedFour<T> const& d_row, int t, auto is_inside) {
      constexpr bool inside = decltype(is_inside)::value;
      float x[4], g[4], sum[4];
      widen_four(row, x), widen_four(d_row, g);
      column.sums(x, sum);
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        float const slope = computed(silu_slope(sum[c]));
        g[c] *= a.silu ? slope : 1.0f;
      }
      if (inside || t < own)
#pragma unroll
        for (int c = 0; c < 4; ++c) {
#pragma unroll
          for (int k = 0; k < taps - 1; ++k) d_weight[k][c] = fmaf(g[c], column.before[k][c], d_weight[k][c]);
          d_weight[taps - 1][c] = fmaf(g[c], x[c], d_weight[taps - 1][c]);
          d_bias[c] += g[c];
        }
      pending.template add<inside>(column, here, begin + t, g, t >= first_out);
      column.shift(x);
    };
    for (int first = 0; first < count; first += ahead) {
      first_out = static_cast<int>(max(Index{0}, here.begin - begin)) + taps - 1;
      if (first + ahead < count) {
        load_rows(from, a.x.stride(1), first + ahead, count, next);
        load_rows(d_y, a.d_y.stride(1), first + ahead, count, d_next);
      }
      if (a.d_x && first + ahead <= own && begin + first + ahead <= here.end && (first >= first_out || !a.d_initial_state)) {
#pragma unroll
        for (int i = 0; i < ahead; ++i) step(rows[i], d_rows[i], first + i, std::true_type{});
      } else {
#pragma unroll 1
        for (int t = first; t < min(first + ahead, count); ++t) {
          if (begin + t >= here.end) {
            pending.flush(here);
            here.advance();
            column.load_before(a, here, b, begin + t);
            pending.clear();
          }
          step(load_packed(from + t * a.x.stride(1)), load_packed(d_y + t * a.d_y.stride(1)), t, std::false_type{});
        }
      }
#pragma unroll
      for (int i = 0; i < ahead; ++i) rows[i] = next[i], d_rows[i] = d_next[i];
    }
    if (begin + count >= here.end) pending.flush(here);
    if (!parts) continue;
#pragma unroll
    for (int k = 0; k <= taps; ++k) {
      float const(&x)[4] = k < taps ? d_weight[k < taps ? k : 0] : d_bias;
      store_four(&parts(b, blockIdx.y, k, d), Four<float>{x[0], x[1], x[2], x[3]});
    }
  }
}

/// What passes through sequences without a step. Blocks (channels, sequences).
template <class T>
__global__ void __launch_bounds__(ConvTuning::threads) conv_pass_kernel(__grid_constant__ CausalConv1dBackwardArgs<T> const a) {
  Index const d = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (d >= a.x.extent(2)) return;
  for (Index s = blockIdx.y; s < a.d_initial_state.extent(0); s += gridDim.y)
    if (a.offsets ? a.offsets[s] == a.offsets[s + 1] : a.x.extent(1) == 0)
      for (Index i = 0; i < a.d_initial_state.extent(1); ++i)
        a.d_initial_state(s, i, d) = a.d_last_state ? a.d_last_state(s, i, d) : accumulator_t<T>(0);
}

/// Any scalar, any strides, any number of taps: what one channel of a row gives, gathered.
template <class T>
class ConvGather {
  using Acc = accumulator_t<T>;

 public:
  __device__ ConvGather(CausalConv1dBackwardArgs<T> const& a, Index b, Index d) : a_{a}, K_{a.weight.extent(1)}, b_{b}, d_{d} {}

  /// The input at t, which may be one of the initial state.
  __device__ Acc input(ConvSequence const& here, Index t) const {
    if (t >= here.begin) return widen(a_.x(b_, t, d_));
    return a_.initial_state ? widen(a_.initial_state(here.s, K_ - 1 + t - here.begin, d_)) : Acc(0);
  }
  /// The gradient of the sum at t.
  __device__ Acc g(ConvSequence const& here, Index t) const {
    Acc sum = a_.bias ? widen(a_.bias[d_]) : Acc(0);
    for (Index k = 0; k < K_; ++k) sum += widen(a_.weight(d_, k)) * input(here, t - (K_ - 1) + k);
    return widen(a_.d_y(b_, t, d_)) * (a_.silu ? silu_slope(sum) : Acc(1));
  }
  /// The gradient of the input at t.
  __device__ Acc of_input(ConvSequence const& here, Index t) const {
    Index const in_state = t - (here.end - (K_ - 1));
    Acc sum = a_.d_last_state && in_state >= 0 ? a_.d_last_state(here.s, in_state, d_) : Acc(0);
    for (Index k = K_ - 1; k >= 0; --k) {
      Index const at = t + K_ - 1 - k;
      if (at >= here.begin && at < here.end) sum += widen(a_.weight(d_, k)) * g(here, at);
    }
    return sum;
  }

 private:
  CausalConv1dBackwardArgs<T> const& a_;
  Index K_, b_, d_;
};

/// A thread an input: K - 1 of the initial state before those of a sequence where it begins.
template <class T>
__global__ void __launch_bounds__(ConvTuning::threads)
    conv_backward_plain_kernel(__grid_constant__ CausalConv1dBackwardArgs<T> const a) {
  Index const i = Index{blockIdx.x} * blockDim.x + threadIdx.x, L = a.x.extent(1), D = a.x.extent(2);
  if (i >= a.x.size()) return;
  Index const d = i % D, t = i / D % L, b = i / D / L;
  ConvSequence const here{a.offsets, b, L, t};
  ConvGather<T> const gather{a, b, d};
  if (a.d_x) a.d_x(b, t, d) = static_cast<T>(gather.of_input(here, t));
  if (a.d_initial_state && t == here.begin)
    for (Index k = 0; k < a.d_initial_state.extent(1); ++k)
      a.d_initial_state(here.s, k, d) = gather.of_input(here, here.begin - a.d_initial_state.extent(1) + k);
}

/// d_weight and d_bias: a warp a channel and tap, or bias.
template <class T>
__global__ void __launch_bounds__(ConvTuning::threads)
    conv_parameters_plain_kernel(__grid_constant__ CausalConv1dBackwardArgs<T> const a) {
  using Acc = accumulator_t<T>;
  Index const i = (Index{blockIdx.x} * blockDim.x + threadIdx.x) / 32, L = a.x.extent(1), K = a.weight.extent(1);
  if (i >= a.x.extent(2) * (K + 1)) return;
  Index const d = i / (K + 1), k = i % (K + 1);
  Acc sum = 0;
  for (Index at = threadIdx.x % 32; at < a.x.extent(0) * L; at += 32) {
    Index const b = at / L, t = at % L;
    ConvSequence const here{a.offsets, b, L, t};
    ConvGather<T> const gather{a, b, d};
    Acc const g = gather.g(here, t);
    sum += k < K ? g * gather.input(here, t - (K - 1) + k) : g;
  }
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  if (threadIdx.x % 32) return;
  if (k < K && a.d_weight) a.d_weight(d, k) += sum;
  if (k == K && a.d_bias) a.d_bias[d] += sum;
}

}  // namespace blackmamba::detail
