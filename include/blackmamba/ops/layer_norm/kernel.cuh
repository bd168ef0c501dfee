#pragma once
/// \file
/// Kernels of both normalisations: with `Centred` the mean of a row is taken off it.

#include <blackmamba/core/cuda/fours.cuh>

namespace blackmamba::detail {

/// Measured choices: docs/benchmarks/norms.md has the measurements.
struct NormTuning {
  static constexpr int threads = 128, warps = threads / 32;  ///< of a block: a row a warp
  static constexpr int backward_blocks_per_multiprocessor = 3;
};

/// Arguments of a forward pass of either: see RmsNormArgs and LayerNormArgs.
template <class T>
struct NormForward {
  View<T const, 2> x{};
  View<T const, 1> weight{}, bias{};
  View<accumulator_t<T>, 2> residual{};
  View<T, 2> y{};
  accumulator_t<T> epsilon;
};

/// Of a backward pass: see RmsNormBackwardArgs and LayerNormBackwardArgs.
template <class T>
struct NormBackward {
  View<T const, 2> x{};
  View<T const, 1> weight{};
  View<accumulator_t<T> const, 2> residual{};
  View<T const, 2> d_y{};
  View<accumulator_t<T>, 2> d_residual{};
  View<T, 2> d_x{};
  View<accumulator_t<T>, 1> d_weight{}, d_bias{};
  accumulator_t<T> epsilon;
};

template <class Acc>
__device__ Acc warp_sum(Acc x) {
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
  return x;
}

/// How a row becomes normal: (r - centre - shift) · scale.
template <class Acc>
struct NormScale {
  Acc centre, shift, scale;

  __device__ Acc normal(Acc r) const { return (r - centre - shift) * scale; }
};

/// From sums over a row that `sum(f)` gives of f(element), which all lanes get.
template <bool Centred, class Acc, class Sum>
__device__ NormScale<Acc> norm_scale(Sum const& sum, Index D, Acc epsilon) {
  Acc const inverse = Acc(1) / static_cast<Acc>(D);
  if constexpr (Centred) {
    Acc const centre = sum([](Acc r) { return r; }) * inverse;
    // What the centre misses of the mean is found about the centre (Chan, Golub & LeVeque 1983).
    Acc const shift = sum([&](Acc r) { return r - centre; }) * inverse;
    Acc const squares = sum([&](Acc r) { return (r - centre - shift) * (r - centre - shift); });
    return {centre, shift, Acc(1) / sqrt(squares * inverse + epsilon)};
  } else {
    return {0, 0, Acc(1) / sqrt(sum([](Acc r) { return r * r; }) * inverse + epsilon)};
  }
}

/// A row a warp, in its registers: up to `Fours` times 4 elements a lane.
template <class T, bool Centred, int Fours>
__global__ void __launch_bounds__(NormTuning::threads) norm_kernel(__grid_constant__ NormForward<T> const a) {
  Index const row = Index{blockIdx.x} * NormTuning::warps + threadIdx.x / 32, D = a.y.extent(1);
  int const lane = static_cast<int>(threadIdx.x) % 32, count = static_cast<int>(D / 4);
  if (row >= a.y.extent(0)) return;
  float r[Fours][4];
  Four<T> raw[Fours];
#pragma unroll
  for (int i = 0; i < Fours; ++i) {
    int const at = i * 32 + lane;
    if (a.x && at < count) raw[i] = load_four(&a.x(row, 4 * at));
  }
#pragma unroll
  for (int i = 0; i < Fours; ++i) {
    int const at = i * 32 + lane;
    Four<float> stream{};
    if (a.residual && at < count) stream = load_four(&a.residual(row, 4 * at));
#pragma unroll
    for (int k = 0; k < 4; ++k) r[i][k] = stream.of[k] + (a.x && at < count ? device_widen(raw[i].of[k]) : 0.0f);
  }
  auto const sum = [&](auto const& f) {
    float total = 0;
#pragma unroll
    for (int i = 0; i < Fours; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) total += i * 32 + lane < count ? f(r[i][k]) : 0.0f;
    return warp_sum(total);
  };
  auto const scale = norm_scale<Centred, float>(sum, D, a.epsilon);
#pragma unroll
  for (int i = 0; i < Fours; ++i) {
    int const at = i * 32 + lane;
    if (at >= count) continue;
    if (a.residual && a.x) store_four(&a.residual(row, 4 * at), round_four<float>(r[i]));
    Four<T> const weight = load_four(&a.weight[4 * at]);
    Four<T> bias{};
    if (a.bias) bias = load_four(&a.bias[4 * at]);
    float y[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) y[k] = fmaf(scale.normal(r[i][k]), device_widen(weight.of[k]), device_widen(bias.of[k]));
    store_four(&a.y(row, 4 * at), round_four<T>(y));
  }
}

/// A warp walks rows, whose shares of d_weight and d_bias it keeps; a block's go to `parts` (blocks, 2, D), where there is one.
template <class T, bool Centred, int Fours>
__global__ void __launch_bounds__(NormTuning::threads)
    norm_backward_kernel(__grid_constant__ NormBackward<T> const a, __grid_constant__ View<float, 3> const parts) {
  __shared__ Four<float> shared[NormTuning::warps][32];
  Index const rows = a.d_y.extent(0), D = a.d_y.extent(1);
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, count = static_cast<int>(D / 4);
  float d_weight[Fours][4]{}, d_bias[Centred ? Fours : 1][4]{};
  for (Index row = Index{blockIdx.x} * NormTuning::warps + warp; row < rows; row += Index{gridDim.x} * NormTuning::warps) {
    float r[Fours][4];
    Four<T> d_y[Fours];
#pragma unroll
    for (int i = 0; i < Fours; ++i) {
      int const at = i * 32 + lane;
      if (at >= count) continue;
      d_y[i] = load_four(&a.d_y(row, 4 * at));
      if (a.residual)
        widen_four(load_four(&a.residual(row, 4 * at)), r[i]);
      else
        widen_four(load_four(&a.x(row, 4 * at)), r[i]);
    }
    auto const sum_at = [&](auto const& f) {
      float total = 0;
#pragma unroll
      for (int i = 0; i < Fours; ++i)
        if (i * 32 + lane < count)
#pragma unroll
          for (int k = 0; k < 4; ++k) total += f(i, k);
      return warp_sum(total);
    };
    auto const sum = [&](auto const& f) { return sum_at([&](int i, int k) { return f(r[i][k]); }); };
    auto const scale = norm_scale<Centred, float>(sum, D, a.epsilon);
    auto const d_normal = [&](int i, int k) {
      return device_widen(d_y[i].of[k]) * device_widen(load_four(&a.weight[4 * (i * 32 + lane)]).of[k]);
    };
    float const inverse = 1.0f / static_cast<float>(D), d_mean = Centred ? sum_at(d_normal) * inverse : 0.0f;
    float const along = sum_at([&](int i, int k) { return d_normal(i, k) * scale.normal(r[i][k]); }) * inverse;
#pragma unroll
    for (int i = 0; i < Fours; ++i) {
      int const at = i * 32 + lane;
      if (at >= count) continue;
      Four<float> above{};
      if (a.d_residual) above = load_four(&a.d_residual(row, 4 * at));
      float total[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float const normal = scale.normal(r[i][k]), d = device_widen(d_y[i].of[k]);
        d_weight[i][k] = fmaf(d, normal, d_weight[i][k]);
        if constexpr (Centred) d_bias[i][k] += d;
        total[k] = (d_normal(i, k) - d_mean - normal * along) * scale.scale + above.of[k];
      }
      if (a.d_residual) store_four(&a.d_residual(row, 4 * at), round_four<float>(total));
      if (a.d_x) store_four(&a.d_x(row, 4 * at), round_four<T>(total));
    }
  }
  if (!parts) return;
  auto const leave = [&](int which, auto const& x) {
#pragma unroll
    for (int i = 0; i < Fours; ++i) {
      shared[warp][lane] = round_four<float>(x[i]);
      __syncthreads();
      int const at = i * 32 + lane;
      if (warp == 0 && at < count) {
        float sum[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          sum[k] = shared[0][lane].of[k];
          for (int w = 1; w < NormTuning::warps; ++w) sum[k] += shared[w][lane].of[k];
        }
        store_four(&parts(blockIdx.x, which, 4 * at), round_four<float>(sum));
      }
      __syncthreads();
    }
  };
  leave(0, d_weight);
  if constexpr (Centred) leave(1, d_bias);
}

/// Any scalar, any strides, any length: a row a warp, read again for every sum.
template <class T, bool Centred>
__global__ void __launch_bounds__(NormTuning::threads) norm_plain_kernel(__grid_constant__ NormForward<T> const a) {
  using Acc = accumulator_t<T>;
  Index const row = Index{blockIdx.x} * NormTuning::warps + threadIdx.x / 32, D = a.y.extent(1);
  if (row >= a.y.extent(0)) return;
  Index const lane = threadIdx.x % 32;
  if (a.residual && a.x)
    for (Index i = lane; i < D; i += 32) a.residual(row, i) += widen(a.x(row, i));
  auto const value = [&](Index i) { return a.residual ? a.residual(row, i) : widen(a.x(row, i)); };
  auto const sum = [&](auto const& f) {
    Acc total = 0;
    for (Index i = lane; i < D; i += 32) total += f(value(i));
    return warp_sum(total);
  };
  auto const scale = norm_scale<Centred, Acc>(sum, D, a.epsilon);
  for (Index i = lane; i < D; i += 32) {
    Acc const y = scale.normal(value(i)) * widen(a.weight[i]);
    a.y(row, i) = static_cast<T>(a.bias ? y + widen(a.bias[i]) : y);
  }
}

template <class T>
__device__ accumulator_t<T> normalised(NormBackward<T> const& a, Index row, Index i) {
  return a.residual ? a.residual(row, i) : widen(a.x(row, i));
}

/// Each row's scale: the kernels below need it, and of those the first runs before the second overwrites what it reads.
template <class T, bool Centred>
__global__ void __launch_bounds__(NormTuning::threads)
    norm_scales_kernel(__grid_constant__ NormBackward<T> const a, NormScale<accumulator_t<T>>* scales) {
  using Acc = accumulator_t<T>;
  Index const row = Index{blockIdx.x} * NormTuning::warps + threadIdx.x / 32, D = a.d_y.extent(1);
  if (row >= a.d_y.extent(0)) return;
  auto const sum = [&](auto const& f) {
    Acc total = 0;
    for (Index i = threadIdx.x % 32; i < D; i += 32) total += f(normalised(a, row, i));
    return warp_sum(total);
  };
  auto const scale = norm_scale<Centred, Acc>(sum, D, a.epsilon);
  if (threadIdx.x % 32 == 0) scales[row] = scale;
}

/// d_weight and d_bias: a thread a column.
template <class T>
__global__ void __launch_bounds__(NormTuning::threads)
    norm_parameters_plain_kernel(__grid_constant__ NormBackward<T> const a, NormScale<accumulator_t<T>> const* scales) {
  using Acc = accumulator_t<T>;
  Index const i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= a.d_y.extent(1)) return;
  Acc d_weight = 0, d_bias = 0;
  for (Index row = 0; row < a.d_y.extent(0); ++row) {
    Acc const d = widen(a.d_y(row, i));
    d_weight += d * scales[row].normal(normalised(a, row, i)), d_bias += d;
  }
  if (a.d_weight) a.d_weight[i] += d_weight;
  if (a.d_bias) a.d_bias[i] += d_bias;
}

/// The gradient of a row: a warp a row.
template <class T, bool Centred>
__global__ void __launch_bounds__(NormTuning::threads)
    norm_backward_plain_kernel(__grid_constant__ NormBackward<T> const a, NormScale<accumulator_t<T>> const* scales) {
  using Acc = accumulator_t<T>;
  Index const row = Index{blockIdx.x} * NormTuning::warps + threadIdx.x / 32, D = a.d_y.extent(1);
  if (row >= a.d_y.extent(0)) return;
  auto const scale = scales[row];
  auto const sum = [&](auto const& f) {
    Acc total = 0;
    for (Index i = threadIdx.x % 32; i < D; i += 32) total += f(i);
    return warp_sum(total) / static_cast<Acc>(D);
  };
  auto const d_normal = [&](Index i) { return widen(a.d_y(row, i)) * widen(a.weight[i]); };
  Acc const d_mean = Centred ? sum(d_normal) : Acc(0);
  Acc const along = sum([&](Index i) { return d_normal(i) * scale.normal(normalised(a, row, i)); });
  for (Index i = threadIdx.x % 32; i < D; i += 32) {
    Acc total = (d_normal(i) - d_mean - scale.normal(normalised(a, row, i)) * along) * scale.scale;
    if (a.d_residual) a.d_residual(row, i) = total += a.d_residual(row, i);
    if (a.d_x) a.d_x(row, i) = static_cast<T>(total);
  }
}

}  // namespace blackmamba::detail
