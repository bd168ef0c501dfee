#pragma once
/// \file
/// The backward pass of the selective scan for any scalar, strides and number of states: a thread a channel of a row, 64 steps at a
/// time, sequences told apart as they are met.

#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/ops/selective_scan/backward.hpp>

namespace blackmamba::detail {

/// Scratch memory of the plain kernels; a column is a channel of a row.
template <class Acc>
struct PlainScanBackward {
  static constexpr Index chunk = 64;
  View<Acc, 3> kept;         ///< (chunks, N, columns) the state before each chunk
  View<Acc, 3> before;       ///< (chunk, N, columns) the state before each step of one chunk
  View<Acc, 3> d_B, d_C;     ///< (chunk, N, columns) what its channels add to those of their group
  View<Acc, 2> state, g;     ///< (N, columns) as the chunks leave them
  View<Acc, 2> d_A;          ///< (N, columns) sums over time
  View<Acc, 1> d_D, d_bias;  ///< (columns)
};

/// The sequence of a row that a time belongs to.
struct PlainSequence {
  Index s, begin, end;
};
__device__ inline PlainSequence sequence_at(View<Index const, 1> const& offsets, Index row, Index L, Index t) {
  if (!offsets) return {row, 0, L};
  Index low = 0, high = offsets.extent(0) - 1;
  while (high - low > 1) {
    Index const middle = low + (high - low) / 2;
    (offsets[middle] <= t ? low : high) = middle;
  }
  return {low, offsets[low], offsets[low + 1]};
}

template <class T>
class PlainScanColumn {
  using Acc = accumulator_t<T>;

 public:
  __device__ PlainScanColumn(SelectiveScanBackwardArgs<T> const& a, Index column)
      : a_{a},
        D_{a.u.extent(2)},
        L_{a.u.extent(1)},
        row_{column / D_},
        d_{column % D_},
        group_{d_ / (D_ / a.B.extent(2))},
        column_{column} {}

  /// h after the step at t, which is `here`'s.
  __device__ void step(PlainSequence const& here, Index t, View<Acc, 2> const& h) const {
    Acc const delta = step_size(t), input = delta * widen(a_.u(row_, t, d_));
    for (Index n = 0; n < a_.A.extent(1); ++n) {
      Acc const before = t == here.begin ? initial(here.s, n) : h(n, column_);
      h(n, column_) = decay(delta, n) * before + input * widen(a_.B(row_, t, group_, n));
    }
  }

  /// The chunk from `begin`, forward and back.
  __device__ void chunk(PlainScanBackward<Acc> const& memory, Index begin, Index end) const {
    Index const N = a_.A.extent(1);
    for (Index n = 0; n < N; ++n) memory.state(n, column_) = memory.kept(begin / memory.chunk, n, column_);
    for (Index t = begin; t < end; ++t) {
      auto const here = sequence_at(a_.offsets, row_, L_, t);
      for (Index n = 0; n < N; ++n)
        memory.before(t - begin, n, column_) = t == here.begin ? initial(here.s, n) : memory.state(n, column_);
      step(here, t, memory.state);
    }
    for (Index t = end - 1; t >= begin; --t) back(memory, t, t - begin);
  }

 private:
  __device__ Acc before_softplus(Index t) const {
    return a_.delta_bias ? widen(a_.delta(row_, t, d_)) + widen(a_.delta_bias[d_]) : widen(a_.delta(row_, t, d_));
  }
  __device__ Acc step_size(Index t) const { return a_.delta_softplus ? device_softplus(before_softplus(t)) : before_softplus(t); }
  __device__ Acc decay(Acc delta, Index n) const {
    return device_exp2(delta * (a_.A(d_, n) * Acc(1.44269504088896340735992468100189214)));
  }
  __device__ Acc initial(Index s, Index n) const { return a_.initial_state ? a_.initial_state(s, d_, n) : Acc(0); }

  __device__ void back(PlainScanBackward<Acc> const& memory, Index t, Index i) const {
    auto const here = sequence_at(a_.offsets, row_, L_, t);
    Acc const delta = step_size(t), u = widen(a_.u(row_, t, d_)), d_y = widen(a_.d_y(row_, t, d_));
    Acc const skip = a_.D ? widen(a_.D[d_]) : Acc(0), z = a_.z ? widen(a_.z(row_, t, d_)) : Acc(0), gate = device_sigmoid(z);
    Acc const d_sum = a_.z ? d_y * z * gate : d_y;
    Acc sum = skip * u, through_A = 0, through_B = 0;
    for (Index n = 0; n < a_.A.extent(1); ++n) {
      Acc const A = a_.A(d_, n), B = widen(a_.B(row_, t, group_, n)), C = widen(a_.C(row_, t, group_, n));
      Acc const keeps = decay(delta, n), carried = keeps * memory.before(i, n, column_), h = carried + delta * u * B;
      Acc const after = t == here.end - 1 ? (a_.d_last_state ? a_.d_last_state(here.s, d_, n) : Acc(0)) : memory.g(n, column_);
      Acc const g = after + d_sum * C;
      memory.d_C(i, n, column_) = d_sum * h;
      memory.d_B(i, n, column_) = delta * u * g;
      memory.d_A(n, column_) += delta * carried * g;
      sum += C * h;
      through_B += B * g;
      through_A += A * carried * g;
      memory.g(n, column_) = keeps * g;
      if (t == here.begin && a_.d_initial_state) a_.d_initial_state(here.s, d_, n) = keeps * g;
    }
    Acc d_delta = u * through_B + through_A;
    if (a_.delta_softplus) d_delta *= device_sigmoid(before_softplus(t));
    if (a_.d_z) a_.d_z(row_, t, d_) = static_cast<T>(d_y * sum * gate * (1 + z * (1 - gate)));
    if (a_.d_u) a_.d_u(row_, t, d_) = static_cast<T>(skip * d_sum + delta * through_B);
    if (a_.d_delta) a_.d_delta(row_, t, d_) = static_cast<T>(d_delta);
    memory.d_D[column_] += d_sum * u;
    memory.d_bias[column_] += d_delta;
  }

  SelectiveScanBackwardArgs<T> const& a_;
  Index D_, L_, row_, d_, group_, column_;
};

template <class T>
__global__ void __launch_bounds__(128)
    scan_backward_plain_states_kernel(__grid_constant__ SelectiveScanBackwardArgs<T> const a,
                                      __grid_constant__ PlainScanBackward<accumulator_t<T>> const memory) {
  Index const column = Index{blockIdx.x} * blockDim.x + threadIdx.x, L = a.u.extent(1);
  if (column >= memory.d_D.extent(0)) return;
  PlainScanColumn<T> const work{a, column};
  for (Index t = 0; t < L; ++t) {
    if (t % memory.chunk == 0)
      for (Index n = 0; n < a.A.extent(1); ++n) memory.kept(t / memory.chunk, n, column) = memory.state(n, column);
    work.step(sequence_at(a.offsets, column / a.u.extent(2), L, t), t, memory.state);
  }
}

template <class T>
__global__ void __launch_bounds__(128)
    scan_backward_plain_kernel(__grid_constant__ SelectiveScanBackwardArgs<T> const a,
                               __grid_constant__ PlainScanBackward<accumulator_t<T>> const memory, Index begin, Index end) {
  Index const column = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (column < memory.d_D.extent(0)) PlainScanColumn<T>{a, column}.chunk(memory, begin, end);
}

/// d_B and d_C of a chunk: a warp sums the channels of a group at one time and state.
template <class T>
__global__ void __launch_bounds__(128)
    scan_backward_plain_rows_kernel(__grid_constant__ SelectiveScanBackwardArgs<T> const a,
                                    __grid_constant__ PlainScanBackward<accumulator_t<T>> const memory, Index begin, Index end) {
  using Acc = accumulator_t<T>;
  Index const N = a.A.extent(1), groups = a.B.extent(2), D = a.u.extent(2), per_group = D / groups, count = end - begin;
  Index i = (Index{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (i >= a.u.extent(0) * count * groups * N) return;
  Index const n = i % N, g = i / N % groups, t = i / N / groups % count, b = i / N / groups / count;
  Acc d_B = 0, d_C = 0;
  for (Index d = b * D + g * per_group + threadIdx.x % 32; d < b * D + (g + 1) * per_group; d += 32)
    d_B += memory.d_B(t, n, d), d_C += memory.d_C(t, n, d);
  for (int mask = 16; mask > 0; mask /= 2) d_B += __shfl_xor_sync(~0u, d_B, mask), d_C += __shfl_xor_sync(~0u, d_C, mask);
  if (threadIdx.x % 32) return;
  if (a.d_B) a.d_B(b, begin + t, g, n) = static_cast<T>(d_B);
  if (a.d_C) a.d_C(b, begin + t, g, n) = static_cast<T>(d_C);
}

/// The parameters' gradients: a thread sums a channel over the rows. And what passes through sequences without a step.
template <class T>
__global__ void __launch_bounds__(128)
    scan_backward_plain_parameters_kernel(__grid_constant__ SelectiveScanBackwardArgs<T> const a,
                                          __grid_constant__ PlainScanBackward<accumulator_t<T>> const memory) {
  using Acc = accumulator_t<T>;
  Index const d = Index{blockIdx.x} * blockDim.x + threadIdx.x, D = a.u.extent(2), N = a.A.extent(1),
              columns = memory.d_D.extent(0);
  if (d >= D) return;
  auto const add = [&](Acc& to, auto const& of) {
    Acc sum = 0;
    for (Index column = d; column < columns; column += D) sum += of(column);
    to += sum;
  };
  for (Index n = 0; n < N && a.d_A; ++n) add(a.d_A(d, n), [&](Index column) { return memory.d_A(n, column); });
  if (a.d_D) add(a.d_D[d], [&](Index column) { return memory.d_D[column]; });
  if (a.d_delta_bias) add(a.d_delta_bias[d], [&](Index column) { return memory.d_bias[column]; });
  if (!a.d_initial_state) return;
  for (Index s = 0; s < a.d_initial_state.extent(0); ++s)
    if (a.offsets ? a.offsets[s] == a.offsets[s + 1] : a.u.extent(1) == 0)
      for (Index n = 0; n < N; ++n) a.d_initial_state(s, d, n) = a.d_last_state ? a.d_last_state(s, d, n) : Acc(0);
}

}  // namespace blackmamba::detail
