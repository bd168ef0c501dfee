#pragma once
/// \file
/// Kernels of the causal convolution.

#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/causal_conv1d/causal_conv1d.hpp>
#include <blackmamba/ops/causal_conv1d/walk.cuh>

namespace blackmamba::detail {

/// The sequences of a row as a thread meets them in time. Offsets are device memory that the host has not read. Whatever they say,
/// the first sequence begins at 0, the last one ends at L, and begin ≤ t < end of the one that is sought: so nothing outside of the
/// length and of the states is touched.
class ConvSequence {
 public:
  Index s, begin, end;

  /// The sequence that time t < L belongs to.
  __device__ ConvSequence(View<Index const, 1> const& offsets, Index row, Index L, Index t)
      : s{row}, begin{0}, end{L}, offsets_{offsets}, L_{L} {
    if (!offsets) return;
    Index low = 0, high = offsets.extent(0) - 1;
    while (high - low > 1) {
      Index const middle = low + (high - low) / 2;
      (offsets[middle] <= t ? low : high) = middle;
    }
    set(low);
  }
  /// On to the one that begins where this one ends, if any does.
  __device__ void advance() {
    Index const at = end;
    while (offsets_ && s + 2 < offsets_.extent(0) && end <= at) set(s + 1);
  }

 private:
  __device__ void set(Index to) {
    s = to;
    begin = s == 0 ? 0 : clamped(s), end = s + 2 == offsets_.extent(0) ? L_ : max(begin, clamped(s + 1));
  }

  __device__ Index clamped(Index at) const { return max(Index{0}, min(L_, offsets_[at])); }

  View<Index const, 1> const& offsets_;
  Index L_;
};

/// Four channels of one row, their weights and the inputs before a time.
template <class T>
class ConvColumn {
  static constexpr int taps = ConvTuning::taps;

 public:
  float weight[taps][4], bias[4], before[taps - 1][4];  ///< before: oldest first

  template <class Args>
  __device__ ConvColumn(Args const& a, Index d) : d_{d} {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      auto const of_channel = load_four(&a.weight(d + c, 0));
#pragma unroll
      for (int k = 0; k < taps; ++k) weight[k][c] = device_widen(of_channel.of[k]);
      bias[c] = a.bias ? device_widen(a.bias[d + c]) : 0.0f;
    }
  }

  /// Scales the weights and the bias.
  __device__ void scale(float by) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int k = 0; k < taps; ++k) weight[k][c] *= by;
      bias[c] *= by;
    }
  }
  /// The inputs before time t.
  template <class Args>
  __device__ void load_before(Args const& a, ConvSequence const& here, Index b, Index t) {
#pragma unroll
    for (int i = 0; i < taps - 1; ++i) {
      Index const from = t - (taps - 1) + i;
      if (from >= here.begin)
        widen_four(load_packed(&a.x(b, from, d_)), before[i]);
      else
#pragma unroll
        for (int c = 0; c < 4; ++c)
          before[i][c] = a.initial_state ? device_widen(a.initial_state(here.s, taps - 1 + from - here.begin, d_ + c)) : 0.0f;
    }
  }
  /// The sums before SiLU where x is the newest input.
  __device__ void sums(float const (&x)[4], float (&out)[4]) const {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      out[c] = fmaf(weight[taps - 1][c], x[c], bias[c]);
#pragma unroll
      for (int k = 0; k < taps - 1; ++k) out[c] = fmaf(weight[k][c], before[k][c], out[c]);
    }
  }
  __device__ void shift(float const (&x)[4]) {
#pragma unroll
    for (int c = 0; c < 4; ++c) {
#pragma unroll
      for (int k = 0; k + 1 < taps - 1; ++k) before[k][c] = before[k + 1][c];
      before[taps - 2][c] = x[c];
    }
  }

 private:
  Index d_;
};

/// 4 taps, channels four at a time. Blocks (channels, slices of time).
template <class T, bool Silu>
__global__ void __launch_bounds__(ConvTuning::threads, ConvTuning::blocks)
    conv_kernel(__grid_constant__ CausalConv1dArgs<T> const a, __grid_constant__ ConvPlan const plan) {
  using Tuning = ConvTuning;
  using Ring = ConvRing<T, 1, Tuning::stages>;
  constexpr int ahead = Tuning::ahead<T>;
  __shared__ typename Ring::Memory memory;
  Index const d = 4 * (Index{blockIdx.x} * Tuning::lanes + threadIdx.x % Tuning::lanes), L = a.x.extent(1);
  if (d >= a.x.extent(2)) return;
  int const stride = static_cast<int>(a.x.stride(1) * sizeof(T)), out_stride = static_cast<int>(a.y.stride(1) * sizeof(T));
  let_next_start();
  await_kernels_before();
  for (ConvWalk walk{plan, L, blockIdx.y * Tuning::slices + threadIdx.x / Tuning::lanes}; walk; walk.advance()) {
    Index const b = walk.b, begin = walk.begin;
    T* to = &a.y(b, begin, d);
    Ring ring{memory, {&a.x(b, begin, d)}, {stride}, walk.own};
    ConvColumn<T> column{a, d};
    ConvSequence here{a.offsets, b, L, begin};
    column.load_before(a, here, b, begin);
    auto const sum = [&](int i) {
      float x[4], y[4];
      widen_four(ring.row(i, 0), x);
      column.sums(x, y);
      if constexpr (Silu)
#pragma unroll
        for (int c = 0; c < 4; ++c) y[c] = device_silu(y[c]);
      store_four(conv_row(to, out_stride, i), round_four<T>(y));
      column.shift(x);
    };
    for (int first = 0; first < walk.own; first += ahead) {
      ring.next();
      if (first + ahead <= walk.own && begin + first + ahead <= here.end) {
#pragma unroll
        for (int i = 0; i < ahead; ++i) sum(i);
      } else {
#pragma unroll 1
        for (int i = 0; i < min(ahead, walk.own - first); ++i) {
          Index const t = begin + first + i;
          if (t >= here.end) here.advance(), column.load_before(a, here, b, t);
          sum(i);
        }
      }
      to = conv_row(to, out_stride, ahead);
    }
  }
}

/// Any scalar, any strides, any number of taps: a thread an output.
template <class T>
__global__ void __launch_bounds__(ConvTuning::threads) conv_plain_kernel(__grid_constant__ CausalConv1dArgs<T> const a) {
  using Acc = accumulator_t<T>;
  Index const i = Index{blockIdx.x} * blockDim.x + threadIdx.x, L = a.x.extent(1), D = a.x.extent(2), K = a.weight.extent(1);
  if (i >= a.x.extent(0) * L * D) return;
  Index const d = i % D, t = i / D % L, b = i / D / L;
  ConvSequence const here{a.offsets, b, L, t};
  Acc sum = a.bias ? widen(a.bias[d]) : Acc(0);
  for (Index k = 0; k < K; ++k) {
    Index const from = t - (K - 1) + k;
    if (from >= here.begin)
      sum += widen(a.weight(d, k)) * widen(a.x(b, from, d));
    else if (a.initial_state && K - 1 + from >= here.begin)
      sum += widen(a.weight(d, k)) * widen(a.initial_state(here.s, K - 1 + from - here.begin, d));
  }
  a.y(b, t, d) = static_cast<T>(a.silu ? device_silu(sum) : sum);
}

/// The last K - 1 inputs of every sequence, oldest first, so that a state may be shifted in place. Blocks (channels, sequences).
template <class T>
__global__ void __launch_bounds__(ConvTuning::threads) conv_state_kernel(__grid_constant__ CausalConv1dArgs<T> const a) {
  Index const d = Index{blockIdx.x} * blockDim.x + threadIdx.x, L = a.x.extent(1), before = a.last_state.extent(1);
  if (d >= a.x.extent(2)) return;
  for (Index s = blockIdx.y; s < a.last_state.extent(0); s += gridDim.y) {
    Index const begin = a.offsets ? max(Index{0}, min(L, a.offsets[s])) : 0;
    Index const end = a.offsets ? max(begin, min(L, a.offsets[s + 1])) : L;
    for (Index i = 0; i < before; ++i) {
      Index const t = end - before + i;
      a.last_state(s, i, d) = t >= begin        ? a.x(a.offsets ? 0 : s, t, d)
                              : a.initial_state ? a.initial_state(s, before + t - begin, d)
                                                : static_cast<T>(accumulator_t<T>(0));
    }
  }
}

}  // namespace blackmamba::detail
