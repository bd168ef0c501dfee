#pragma once
/// \file
/// Kernel of the step with its projection: four lanes share a channel. What belongs to channels alone, a row of the projection
/// and the decay, stays in registers while a block walks entries of the batch.

#include <blackmamba/core/cuda/fours.cuh>
#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/projected_scan_step/projected_scan_step.hpp>

namespace blackmamba::detail {

struct ProjectedStep {
  static constexpr int lanes = 4, threads = 128, channels = threads / lanes;
  static constexpr int weights = 6;  ///< fours of a row of the projection that a lane keeps
  static constexpr int states = 1;   ///< fours of a row of the decay that it keeps
  /// Extents that the fast kernel is for.
  static constexpr Index most_rank = 4 * lanes * weights, most_states = 4 * lanes * states;
};

template <class Acc>
__device__ Acc sum_of_channel(Acc x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

/// R and N are multiples of 4 of at most `most_rank` and `most_states`, and all rows are read four at a time. Blocks (channels,
/// entries of the batch, `rows` each). `at_rest`: see WeightsAtRest.
template <class T>
__global__ void __launch_bounds__(ProjectedStep::threads, 8)
    projected_step_kernel(__grid_constant__ ProjectedScanStepArgs<T> const a, Index rows, bool at_rest) {
  using Step = ProjectedStep;
  let_next_start();
  auto const D = static_cast<unsigned>(a.u.extent(1)), per_group = D / static_cast<unsigned>(a.B.extent(1));
  int const lane = static_cast<int>(threadIdx.x) % Step::lanes, R = static_cast<int>(a.dt.extent(1)),
            N = static_cast<int>(a.A_log.extent(1)), n = 4 * lane;
  unsigned const channel = blockIdx.x * Step::channels + threadIdx.x / Step::lanes;
  // Lanes past the end come along to the sums, so that every warp is whole there.
  bool const real = channel < D, has_states = real && n < N;
  unsigned const d = real ? channel : D - 1, g = d / per_group;
  Index const begin = Index{blockIdx.y} * rows, end = min(begin + rows, a.u.extent(0));

  PackedFour<T> weight[Step::weights], logs{};
  float bias = 0, skip = 0;
  auto const read_weights = [&] {
    T const* const row = &a.dt_weight(d, 0);
#pragma unroll
    for (int i = 0; i < Step::weights; ++i) {
      int const at = 4 * (i * Step::lanes + lane);
      weight[i] = {};
      if (at < R) weight[i] = load_packed(row + at);
    }
    if (has_states) logs = load_packed(&a.A_log(d, n));
    if (a.delta_bias) bias = device_widen(a.delta_bias[d]);
    if (a.D) skip = device_widen(a.D[d]);
  };
  if (at_rest) {
    read_weights();
  } else {
    for (int i = 0; i < Step::weights; ++i)
      if (int const at = 4 * (i * Step::lanes + lane); at < R) hint_to_l2(&a.dt_weight(d, at));
    if (has_states) hint_to_l2(&a.A_log(d, n));
  }
  if (has_states)
    for (Index b = begin; b < end; ++b) hint_to_l2(&a.state(b, d, n));
  await_kernels_before();
  if (!at_rest) read_weights();

  float decay[4];
  {
    float log[4];
    widen_four(logs, log);
#pragma unroll
    for (int k = 0; k < 4; ++k) decay[k] = -1.44269504f * ::expf(log[k]);
  }
  for (Index b = begin; b < end; ++b) {
    Four<float> h{};
    PackedFour<T> B{}, C{}, dt[Step::weights];
    T const* const from = &a.dt(b, 0);
#pragma unroll
    for (int i = 0; i < Step::weights; ++i) {
      int const at = 4 * (i * Step::lanes + lane);
      dt[i] = {};
      if (at < R) dt[i] = load_packed(from + at);
    }
    if (has_states) {
      h = load_four(&a.state(b, d, n));
      B = load_packed(&a.B(b, g, n)), C = load_packed(&a.C(b, g, n));
    }
    float const u = device_widen(a.u(b, d)), z = a.z ? device_widen(a.z(b, d)) : 0.0f;
    float delta = 0;
#pragma unroll
    for (int i = 0; i < Step::weights; ++i) {
      float w[4], x[4];
      widen_four(weight[i], w), widen_four(dt[i], x);
#pragma unroll
      for (int k = 0; k < 4; ++k) delta = fmaf(w[k], x[k], delta);
    }
    delta = sum_of_channel(delta) + bias;
    if (a.delta_softplus) delta = device_softplus(delta);
    float const input = delta * u;
    float B4[4], C4[4], y = 0;
    widen_four(B, B4), widen_four(C, C4);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      h.of[k] = fmaf(device_exp2(delta * decay[k]), h.of[k], input * B4[k]);
      y = fmaf(h.of[k], C4[k], y);
    }
    if (has_states) store_four(&a.state(b, d, n), h);
    y = sum_of_channel(y);
    if (lane != 0 || !real) continue;
    y = fmaf(skip, u, y);
    if (a.z) y *= device_silu(z);
    a.y(b, d) = device_round<T>(y);
  }
}

/// Any scalar, any strides, any extents.
template <class T>
__global__ void __launch_bounds__(ProjectedStep::threads)
    projected_step_plain_kernel(__grid_constant__ ProjectedScanStepArgs<T> const a) {
  using Acc = accumulator_t<T>;
  constexpr int lanes = ProjectedStep::lanes;
  let_next_start();
  await_kernels_before();
  Index const D = a.u.extent(1), R = a.dt.extent(1), N = a.A_log.extent(1), per_group = D / a.B.extent(1);
  Index const lane = threadIdx.x % lanes, channel = Index{blockIdx.x} * ProjectedStep::channels + threadIdx.x / lanes;
  bool const real = channel < D;
  Index const d = real ? channel : D - 1, g = d / per_group;
  constexpr Acc log2_e = Acc(1.44269504088896340735992468100189214);
  for (Index b = blockIdx.y; b < a.u.extent(0); b += gridDim.y) {
    Acc delta = 0, y = 0;
    for (Index k = lane; k < R; k += lanes) delta += device_widen(a.dt_weight(d, k)) * device_widen(a.dt(b, k));
    delta = sum_of_channel(delta);
    if (a.delta_bias) delta += device_widen(a.delta_bias[d]);
    if (a.delta_softplus) delta = device_softplus(delta);
    Acc const u = device_widen(a.u(b, d)), z = a.z ? device_widen(a.z(b, d)) : Acc(0), input = delta * u;
    for (Index n = lane; real && n < N; n += lanes) {
      Acc const decay = -::exp(device_widen(a.A_log(d, n))) * log2_e;
      Acc const h = device_exp2(delta * decay) * a.state(b, d, n) + input * device_widen(a.B(b, g, n));
      a.state(b, d, n) = h;
      y += h * device_widen(a.C(b, g, n));
    }
    y = sum_of_channel(y);
    if (lane != 0 || !real) continue;
    if (a.D) y += device_widen(a.D[d]) * u;
    if (a.z) y *= device_silu(z);
    a.y(b, d) = device_round<T>(y);
  }
}

}  // namespace blackmamba::detail
