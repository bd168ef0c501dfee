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

/// The logarithm that a sum before SiLU is scaled by, z = -log2(e) s, so that exp(-s) is 2^z without a product; and what undoes it.
inline constexpr float conv_scale = -1.44269504f, conv_unscale = -0.693147181f;

/// The gradient of silu at s, scaled by `conv_unscale`: weights that are scaled make d_x of it as it should be.
__device__ inline float conv_slope(float z) {
  constexpr float square = conv_unscale * conv_unscale;
  float const gate = device_reciprocal(1.0f + device_exp2(z));
  return gate * fmaf(z, fmaf(-gate, square, square), conv_unscale);
}

/// The gradients of the inputs that the sums of a thread's four channels have met so far, on their way out.
///
/// Input i of a sequence is met by the sums at i … i + 3, so it goes out 3 times later, or at the sequence's end with what the last
/// state says of it. A slice writes those of its own times, and those of the initial states of sequences that begin in it.
template <class T>
class ConvPending {
  using Args = CausalConv1dBackwardArgs<T>;
  static constexpr int taps = ConvTuning::taps;

 public:
  __device__ ConvPending(Args const& a, Index b, Index d, Index begin, Index end) : a_{a}, b_{b}, d_{d}, begin_{begin}, end_{end} {
    clear();
  }

  __device__ void clear() {
#pragma unroll
    for (auto& of_tap : sums_)
      for (float& x : of_tap) x = 0;
  }
  /// Adds what a sum of gradient g gives to the inputs it meets, the oldest of which goes out.
  __device__ void add(ConvColumn<T> const& column, float const (&g)[4], float (&oldest)[4]) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      oldest[c] = fmaf(column.weight[0][c], g[c], sums_[0][c]);
#pragma unroll
      for (int k = 1; k < taps - 1; ++k) sums_[k - 1][c] = fmaf(column.weight[k][c], g[c], sums_[k][c]);
      sums_[taps - 2][c] = column.weight[taps - 1][c] * g[c];
    }
  }
  /// Writes the gradient of the input at t, which may be one of the initial state, where it is the slice's to write.
  __device__ void put(ConvSequence const& here, Index t, float const (&x)[4]) const {
    if (t >= here.begin) {
      if (a_.d_x && t >= begin_ && t < end_) store_four(&a_.d_x(b_, t, d_), round_four<T>(x));
    } else if (a_.d_initial_state && here.begin >= begin_ && here.begin < end_) {
#pragma unroll
      for (int c = 0; c < 4; ++c) a_.d_initial_state(here.s, taps - 1 + t - here.begin, d_ + c) = x[c];
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
  Args const& a_;
  Index b_, d_, begin_, end_;
  float sums_[taps - 1][4];
};

/// A thread's share of the gradients of weights and bias.
struct ConvParameters {
  static constexpr int taps = ConvTuning::taps;
  float of[taps + 1][4]{};  ///< weights, then the bias

  template <class T>
  __device__ void add(ConvColumn<T> const& column, float const (&x)[4], float const (&g)[4]) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int k = 0; k < taps - 1; ++k) of[k][c] = fmaf(g[c], column.before[k][c], of[k][c]);
      of[taps - 1][c] = fmaf(g[c], x[c], of[taps - 1][c]);
      of[taps][c] += g[c];
    }
  }
  /// The sums over a block's slices, in their order, to the place of lane 0's channels. All threads of the block call it.
  template <class Memory>
  __device__ void leave(Memory& memory, View<float, 3> const& parts, Index d, float scale) const {
    using Tuning = ConvTuning;
    using Sums = Four<float>[taps + 1][Tuning::threads];
    static_assert(sizeof(Sums) <= sizeof(Memory));
    Sums& sums = reinterpret_cast<Sums&>(memory);
    __syncthreads();
#pragma unroll
    for (int k = 0; k <= taps; ++k) sums[k][threadIdx.x] = {of[k][0], of[k][1], of[k][2], of[k][3]};
    __syncthreads();
    if (d >= parts.extent(2)) return;
    for (int k = static_cast<int>(threadIdx.x) / Tuning::lanes; k <= taps; k += Tuning::slices) {
      Four<float> sum{};
#pragma unroll
      for (int i = 0; i < Tuning::slices; ++i)
#pragma unroll
        for (int c = 0; c < 4; ++c) sum.of[c] += sums[k][i * Tuning::lanes + threadIdx.x % Tuning::lanes].of[c];
#pragma unroll
      for (int c = 0; c < 4; ++c) sum.of[c] *= scale;
      store_four(&parts(blockIdx.y, k, d), sum);
    }
  }
};

/// Blocks as forward. Leaves the block's share of d_weight and d_bias in `parts` (blocks, 5, D), where there is one.
template <class T, bool Silu>
__global__ void __launch_bounds__(ConvTuning::threads, ConvTuning::backward_blocks)
    conv_backward_kernel(__grid_constant__ CausalConv1dBackwardArgs<T> const a, __grid_constant__ ConvPlan const plan,
                         __grid_constant__ View<float, 3> const parts) {
  using Tuning = ConvTuning;
  using Ring = ConvRing<T, 2, Tuning::backward_stages>;
  constexpr int halo = Tuning::taps - 1, ahead = Tuning::ahead<T>;
  static_assert(halo <= ahead && Tuning::unit % ahead == 0);
  __shared__ typename Ring::Memory memory;
  Index const d = 4 * (Index{blockIdx.x} * Tuning::lanes + threadIdx.x % Tuning::lanes), L = a.x.extent(1);
  auto const bytes = [](auto const& view) { return static_cast<int>(view.stride(1) * static_cast<Index>(sizeof(T))); };
  int const stride = bytes(a.x), d_stride = bytes(a.d_y), out_stride = bytes(a.d_x);
  let_next_start();
  await_kernels_before();
  ConvParameters parameters;
  ConvWalk walk{plan, L, blockIdx.y * Tuning::slices + threadIdx.x / Tuning::lanes};
  for (; d < a.x.extent(2) && walk; walk.advance()) {
    Index const b = walk.b, begin = walk.begin;
    // The sums of the next 3 times meet inputs of this slice.
    int const own = walk.own, count = static_cast<int>(min(L - begin, Index{own} + halo));
    Ring ring{memory, {&a.x(b, begin, d), &a.d_y(b, begin, d)}, {stride, d_stride}, count};
    ConvColumn<T> column{a, d};
    if constexpr (Silu) column.scale(conv_scale);
    ConvSequence here{a.offsets, b, L, begin};
    column.load_before(a, here, b, begin);
    ConvPending<T> pending{a, b, d, begin, begin + own};
    T* to = a.d_x ? &a.d_x(b, begin, d) : nullptr;
    // One sum, and the gradient of the input that goes out with it.
    auto const step = [&](int i, bool mine, float(&oldest)[4]) {
      float x[4], g[4], sum[4];
      widen_four(ring.row(i, 0), x), widen_four(ring.row(i, 1), g);
      if constexpr (Silu) {
        column.sums(x, sum);
#pragma unroll
        for (int c = 0; c < 4; ++c) g[c] *= conv_slope(sum[c]);
      }
      if (mine) parameters.add(column, x, g);
      pending.add(column, g, oldest);
      column.shift(x);
    };
    for (int first = 0; first < count; first += ahead) {
      ring.next();
      // The first time whose sum sends an input out that is of this slice and of this sequence.
      int const first_out = static_cast<int>(max(Index{0}, here.begin - begin)) + halo, rows = min(ahead, count - first);
      bool const inside =
          a.d_x && begin + first + rows <= here.end && (first >= first_out || here.begin < begin || !a.d_initial_state);
      float oldest[4];
      auto const inner = [&](int i, bool mine) {
        step(i, mine, oldest);
        T* const out = conv_row(to, out_stride, i - halo);
        if (i >= halo)
          store_four(out, round_four<T>(oldest));
        else
          store_four_if(first + i >= first_out, out, round_four<T>(oldest));
      };
      if (inside && first + ahead <= own) {
#pragma unroll
        for (int i = 0; i < ahead; ++i) inner(i, true);
      } else if (inside && first == own && rows == halo) {
#pragma unroll
        for (int i = 0; i < halo; ++i) inner(i, false);
      } else {
#pragma unroll 1
        for (int i = 0; i < rows; ++i) {
          Index const t = begin + first + i;
          if (t >= here.end) {
            pending.flush(here);
            here.advance();
            column.load_before(a, here, b, t);
            pending.clear();
          }
          step(i, first + i < own, oldest);
          pending.put(here, t - halo, oldest);
        }
      }
      if (to) to = conv_row(to, out_stride, ahead);
    }
    if (begin + count >= here.end) pending.flush(here);
  }
  if (parts) parameters.leave(memory, parts, d, Silu ? conv_scale : 1.0f);
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
