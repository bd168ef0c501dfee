#pragma once
/// \file
/// Kernels of both normalisations: with `Centred` the mean of a row is taken off it.

#include <blackmamba/core/cuda/fours.cuh>
#include <blackmamba/core/cuda/overlap.cuh>

namespace blackmamba::detail {

/// Measured choices: docs/benchmarks/norms.md has the measurements.
struct NormTuning {
  static constexpr int threads = 128, warps = threads / 32;  ///< of a block: a row a warp
  static constexpr int fours = 3, most_warps = 16;           ///< on the way back: a thread's, of a block, which has a row
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
  let_next_start();
  if (gridDim.x <= 64)  // more blocks than that do not wait for it together
#pragma unroll
    for (int i = 0; i < Fours; ++i)
      if (int const at = i * 32 + lane; at < count) hint_to_l2(&a.weight[4 * at]);
  await_kernels_before();
  if (row >= a.y.extent(0)) return;
  float r[Fours][4];
  PackedFour<T> raw[Fours]{};
#pragma unroll
  for (int i = 0; i < Fours; ++i) {
    int const at = i * 32 + lane;
    if (a.x && at < count) raw[i] = load_packed(&a.x(row, 4 * at));
  }
#pragma unroll
  for (int i = 0; i < Fours; ++i) {
    int const at = i * 32 + lane;
    Four<float> stream{};
    if (a.residual && at < count) stream = load_four(&a.residual(row, 4 * at));
    widen_four(raw[i], r[i]);
#pragma unroll
    for (int k = 0; k < 4; ++k) r[i][k] += stream.of[k];
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

/// Sums of a block: every thread gets them. Two of them in a row need different memory.
template <int Count>
__device__ void block_sums(float (&x)[Count], float (&shared)[NormTuning::most_warps][3]) {
  int const warp = static_cast<int>(threadIdx.x) / 32, warps = static_cast<int>(blockDim.x) / 32;
#pragma unroll
  for (float& of : x) of = warp_sum(of);
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int k = 0; k < Count; ++k) shared[warp][k] = x[k];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < Count; ++k) {
    x[k] = 0;
    for (int w = 0; w < warps; ++w) x[k] += shared[w][k];
  }
}

/// A block walks rows, 3 times 4 elements a thread, whose shares of d_weight and d_bias it keeps for `parts` (blocks, 1 or 2, D),
/// where that is there.
template <class T, bool Centred>
__global__ void __launch_bounds__(32 * NormTuning::most_warps)
    norm_backward_kernel(__grid_constant__ NormBackward<T> const a, __grid_constant__ View<float, 3> const parts) {
  constexpr int fours = NormTuning::fours;
  __shared__ float shared[4][NormTuning::most_warps][3];
  Index const rows = a.d_y.extent(0), D = a.d_y.extent(1);
  int const count = static_cast<int>(D / 4), stride = static_cast<int>(blockDim.x);
  float const inverse = 1.0f / static_cast<float>(D);
  float d_weight[fours][4]{}, d_bias[Centred ? fours : 1][4]{};
  int turn = 0;
  for (Index row = blockIdx.x; row < rows; row += gridDim.x, turn ^= 2) {
    float r[fours][4]{}, d_normal[fours][4]{};
    PackedFour<T> d_y[fours];
    Four<float> above[fours];
#pragma unroll
    for (int i = 0; i < fours; ++i) {
      int const at = i * stride + static_cast<int>(threadIdx.x);
      d_y[i] = {}, above[i] = {};
      if (at >= count) continue;
      d_y[i] = load_packed(&a.d_y(row, 4 * at));
      if (a.d_residual) above[i] = load_four(&a.d_residual(row, 4 * at));
      if (a.residual)
        widen_four(load_packed(&a.residual(row, 4 * at)), r[i]);
      else
        widen_four(load_packed(&a.x(row, 4 * at)), r[i]);
      float d[4], weight[4];
      widen_four(d_y[i], d), widen_four(load_packed(&a.weight[4 * at]), weight);
#pragma unroll
      for (int k = 0; k < 4; ++k) d_normal[i][k] = d[k] * weight[k];
    }
    auto const each = [&](auto const& body) {
#pragma unroll
      for (int i = 0; i < fours; ++i)
        if (i * stride + static_cast<int>(threadIdx.x) < count)
#pragma unroll
          for (int k = 0; k < 4; ++k) body(i, k);
    };
    float centre = 0, d_sum = 0, sums[3]{};
    if constexpr (Centred) {
      float first[2]{};
      each([&](int i, int k) { first[0] += r[i][k], first[1] += d_normal[i][k]; });
      block_sums(first, shared[turn]);
      centre = first[0] * inverse, d_sum = first[1];
    }
    // About the centre: what it misses of the mean (Chan, Golub & LeVeque 1983), squares, products with the gradient.
    each([&](int i, int k) {
      float const away = r[i][k] - centre;
      sums[0] += away, sums[1] = fmaf(away, away, sums[1]), sums[2] = fmaf(d_normal[i][k], away, sums[2]);
    });
    block_sums(sums, shared[turn + 1]);
    float const shift = Centred ? sums[0] * inverse : 0.0f, d_mean = Centred ? d_sum * inverse : 0.0f;
    float const scale = 1.0f / sqrtf((sums[1] - (Centred ? sums[0] * shift : 0.0f)) * inverse + a.epsilon);
    float const along = (sums[2] - d_sum * shift) * scale * inverse;
#pragma unroll
    for (int i = 0; i < fours; ++i) {
      int const at = i * stride + static_cast<int>(threadIdx.x);
      if (at >= count) continue;
      float d[4];
      widen_four(d_y[i], d);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float const normal = (r[i][k] - centre - shift) * scale;
        d_weight[i][k] = fmaf(d[k], normal, d_weight[i][k]);
        if constexpr (Centred) d_bias[i][k] += d[k];
        r[i][k] = (d_normal[i][k] - d_mean - normal * along) * scale + above[i].of[k];
      }
      if (a.d_residual) store_four(&a.d_residual(row, 4 * at), round_four<float>(r[i]));
      if (a.d_x) store_four(&a.d_x(row, 4 * at), round_four<T>(r[i]));
    }
  }
  if (!parts) return;
#pragma unroll
  for (int i = 0; i < fours; ++i) {
    int const at = i * stride + static_cast<int>(threadIdx.x);
    if (at >= count) continue;
    store_four(&parts(blockIdx.x, 0, 4 * at), round_four<float>(d_weight[i]));
    if constexpr (Centred) store_four(&parts(blockIdx.x, 1, 4 * at), round_four<float>(d_bias[i]));
  }
}

/// Any scalar, any strides, any length: a row a warp, read again for every sum.
template <class T, bool Centred>
__global__ void __launch_bounds__(NormTuning::threads) norm_plain_kernel(__grid_constant__ NormForward<T> const a) {
  using Acc = accumulator_t<T>;
  Index const row = Index{blockIdx.x} * NormTuning::warps + threadIdx.x / 32, D = a.y.extent(1);
  let_next_start();
  await_kernels_before();
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
