#pragma once
/// \file
/// Rows under softmax on a GPU: one reading gives the maximum and the sum of the exponentials, a second writes what a task makes of
/// them. A short row goes to a warp, a long one to a block.

#include <blackmamba/core/cuda/elementwise.cuh>

namespace blackmamba::detail {

/// Measured choices: docs/benchmarks/elementwise.md has the measurements.
struct RowTuning {
  static constexpr int most_threads = 512;                       ///< of a block
  static constexpr int least_blocks = 2;                         ///< of as many threads, on a multiprocessor
  static constexpr int warp_pieces = 256;                        ///< longest row of a warp
  static constexpr int read_threads = 256, write_threads = 512;  ///< of a long row that is read, and that is written too
};

/// e^x for x ≤ 0
__device__ inline float device_exp(float x) { return device_exp2(1.44269504f * x); }
__device__ inline double device_exp(double x) { return ::exp(x); }

/// e^(x - max) for an x stored in T. Where T has few digits the difference is not rounded before it is multiplied: one instruction
/// less, for an error of 2^-24 |max| relative to the result, and a maximum below 2^127.
template <class T>
struct ExpBelow {
  using A = accumulator_t<T>;
  A offset;

  ExpBelow() = default;
  __device__ explicit ExpBelow(A max) : offset{sizeof(T) == 2 ? A(-1.44269504) * max : max} {}
  __device__ A operator()(A x) const {
    if constexpr (sizeof(T) == 2)
      return device_exp2(fmaf(x, 1.44269504f, offset));
    else
      return device_exp(x - offset);
  }
};

/// What was read of a row: the maximum, how many elements are it, and the sum of e^(x - maximum) over the others. The others are
/// kept apart so that a small sum keeps its digits. NaN is in no maximum and makes the sum NaN.
template <class A>
struct RowPart {
  A max, below, at_max;

  static __device__ A infinity() { return static_cast<A>(__int_as_float(0x7f800000)); }
  static __device__ RowPart none() { return {-infinity(), 0, 0}; }

  /// Sums as they are under a maximum that is no smaller.
  __device__ __forceinline__ void raise(A to) {
    if (!(max < to)) return;
    below = (below + at_max) * device_exp(max - to), at_max = 0, max = to;
  }

  template <class T, int V>
  __device__ __forceinline__ void add(Lanes<T, V> const& of) {
    A x[V], largest;
#pragma unroll
    for (int k = 0; k < V; ++k) x[k] = device_widen(of.of[k]), largest = k == 0 ? x[0] : ::fmax(largest, x[k]);
    raise(largest);
    ExpBelow<T> const exp_below{max == -infinity() ? A(0) : max};  // -inf - -inf would be NaN
#pragma unroll
    for (int k = 0; k < V; ++k) {
      A const e = exp_below(x[k]);
      if (x[k] == max)
        at_max += 1;
      else
        below += e;
    }
  }

  /// Of all the lanes of a warp, which all get it.
  __device__ __forceinline__ RowPart of_warp() const {
    RowPart all = *this;
    A largest = max;
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) largest = ::fmax(largest, __shfl_xor_sync(~0u, largest, mask));
    all.raise(largest);
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) {
      all.below += __shfl_xor_sync(~0u, all.below, mask);
      all.at_max += __shfl_xor_sync(~0u, all.at_max, mask);
    }
    return all;
  }

  /// Sum over all of the row but one element that is the maximum; NaN if the maximum is not finite.
  __device__ A rest() const { return ::fabs(max) < infinity() ? below + (at_max - 1) : max - max; }
};

/// A row in pieces of `V` elements at addresses that allow one access, and single elements before and behind them: all of them,
/// where its elements are no neighbours, or those it is read from and written to are not at such addresses together.
struct RowSplit {
  Index head, pieces, singles;

  template <int V, class T>
  __device__ static RowSplit of(T const* x, bool neighbours, T const* y, Index D) {
    auto const before = [](T const* p) { return static_cast<int>(reinterpret_cast<std::uintptr_t>(p) / sizeof(T) % V); };
    if (!neighbours || before(x) != before(y)) return {D, 0, D};
    Index const head = (V - before(x)) % V;
    if (D < head + V) return {D, 0, D};
    Index const pieces = (D - head) / V;
    return {head, pieces, D - pieces * V};
  }
  template <int V>
  __device__ Index column(Index single) const {
    return single < head ? single : single + pieces * V;
  }
};

/// What a task wants of a row before it is read.
enum class RowUse { read, fill };

/// Rows of `task.x`, `warps` to a row. A task has
///
///   RowUse begin(row, lane, a)             on a row that is not to be read `a.fill` is written everywhere
///   void finish(row, max, rest, first, a)  of all threads of a row; `first` is one of them
///   A of(x, a)                             what is written for an element, if `Task::writes`
///   void correct(column, y, a)             on what is written from a column on
///
/// and `Task::Row` is a. A thread reads `Task::ahead` pieces before it uses the first. The threads of a row have read all of it
/// before one of them writes, so y may be x.
template <class T, class Task>
__global__ void __launch_bounds__(RowTuning::most_threads, RowTuning::least_blocks)
    row_kernel(__grid_constant__ Task const task, int const warps, int const kept) {
  using A = accumulator_t<T>;
  constexpr int V = lanes_of<T>, ahead = Task::ahead;
  using Piece = PackedLanes<T, V>;
  __shared__ RowPart<A> parts[2][RowTuning::most_threads / 32];
  extern __shared__ uint4 kept_pieces[];
  auto* const cache = reinterpret_cast<Piece*>(kept_pieces);
  int const warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  int const block_rows = static_cast<int>(blockDim.x) / 32 / warps, step = 32 * warps;
  int const at = warp % warps * 32 + lane;
  int turn = 0;
  for (Index row = Index{blockIdx.x} * block_rows + warp / warps; row < task.rows; row += Index{gridDim.x} * block_rows) {
    typename Task::Row a{};
    T const* const x = task.x.at(row, 0);
    T* y = nullptr;
    bool neighbours = task.x.column == 1;
    if constexpr (Task::writes) y = task.y.at(row, 0), neighbours = neighbours && task.y.column == 1;
    auto const split = RowSplit::of<V>(x, neighbours, Task::writes ? y : x, task.D);
    auto const* const pieces = reinterpret_cast<Piece const*>(x + split.head);
    if (task.begin(row, lane, a) == RowUse::fill) {
      if constexpr (Task::writes) {
        Lanes<T, V> fill;
#pragma unroll
        for (int k = 0; k < V; ++k) fill.of[k] = device_round<T>(a.fill);
        for (Index i = at; i < split.pieces; i += step) reinterpret_cast<Lanes<T, V>*>(y + split.head)[i] = fill;
        for (Index i = at; i < split.singles; i += step) y[split.column<V>(i) * task.y.column] = fill.of[0];
      }
      continue;
    }
    auto part = RowPart<A>::none();
    for (Index i = at; i < split.pieces; i += ahead * step) {
      Piece raw[ahead];
#pragma unroll
      for (int u = 0; u < ahead; ++u)
        if (i + u * step < split.pieces) raw[u] = pieces[i + u * step];
#pragma unroll
      for (int u = 0; u < ahead; ++u) {
        if (i + u * step >= split.pieces) break;
        part.add(raw[u].lanes());
        if (Task::writes && i + u * step < kept) cache[i + u * step] = raw[u];
      }
    }
#pragma unroll 1
    for (Index i = at; i < split.singles; i += step) part.add(Lanes<T, 1>{x[split.column<V>(i) * task.x.column]});
    part = part.of_warp();
    if (warps > 1) {
      if (lane == 0) parts[turn][warp] = part;
      __syncthreads();
      part = (lane < warps ? parts[turn][lane] : RowPart<A>::none()).of_warp();
      turn ^= 1;  // the next row's barrier is passed before these are written again
    }
    task.finish(row, part.max, part.rest(), at == 0, a);
    if constexpr (Task::writes) {
#pragma unroll 2
      for (Index i = at; i < split.pieces; i += step) {
        Piece packed;
        if (i < kept)
          packed = cache[i];
        else
          packed = pieces[i];
        packed.together();
        Lanes<T, V> const raw = packed.lanes();
        Lanes<T, V> out;
#pragma unroll
        for (int k = 0; k < V; ++k) out.of[k] = device_round<T>(task.of(device_widen(raw.of[k]), a));
        task.correct(split.head + i * V, out, a);
        reinterpret_cast<Lanes<T, V>*>(y + split.head)[i] = out;
      }
#pragma unroll 1
      for (Index i = at; i < split.singles; i += step) {
        Index const column = split.column<V>(i);
        Lanes<T, 1> out{device_round<T>(task.of(device_widen(x[column * task.x.column]), a))};
        task.correct(column, out, a);
        y[column * task.y.column] = out.of[0];
      }
    }
  }
}

template <class T>
Strided<T> strided(View<T, 2> const& x) {
  return {x.data(), x.stride(0), x.extent(1) == 1 ? 1 : x.stride(1)};
}

/// Launches it. Of a row that is read twice as much is kept in shared memory as there is room for.
template <class T, class Task>
void run_rows(Cuda const& ctx, char const* name, Task const& task) {
  constexpr int V = lanes_of<T>;
  DeviceScope const device{ctx.device()};
  Index const pieces = ceil_div(task.D, Index{V});
  auto const launch = [&](int threads, int warps, int kept) {
    auto const blocks = static_cast<unsigned>(std::min(ceil_div(task.rows, Index{threads / 32 / warps}), Index{1} << 30));
    row_kernel<T, Task><<<blocks, threads, 16 * kept, ctx.stream()>>>(task, warps, kept);
    check_launch(name);
  };
  if (pieces <= RowTuning::warp_pieces) return launch(256, 1, 0);
  int threads = task.rows <= ctx.multiprocessors() ? RowTuning::most_threads
                : Task::writes                     ? RowTuning::write_threads
                                                   : RowTuning::read_threads;
  while (threads > 128 && task.rows > ctx.multiprocessors() && pieces <= threads / 2 * Task::ahead) threads /= 2;
  int kept = 0;
  if (Task::writes) {
    constexpr int own = 2 << 10;  // what a block has beside, 1 KiB of it the system's
    int const blocks = RowTuning::least_blocks * RowTuning::most_threads / threads;
    int room = 0;
    check_cuda(cudaDeviceGetAttribute(&room, cudaDevAttrMaxSharedMemoryPerMultiprocessor, ctx.device()), "cudaDeviceGetAttribute");
    kept = static_cast<int>(std::min(pieces, Index{(room / blocks - own) / 16}));
    check_cuda(cudaFuncSetAttribute(row_kernel<T, Task>, cudaFuncAttributeMaxDynamicSharedMemorySize, 16 * kept), name);
  }
  launch(threads, threads / 32, kept);
}

}  // namespace blackmamba::detail
