#pragma once
/// \file
/// Top-k on a GPU: a block a row. Counts of leading digits tell which elements can be among the k largest; those are sorted.

#include <algorithm>
#include <bit>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/top_k/order.cuh>
#include <blackmamba/ops/top_k/top_k.hpp>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind top_k_nan{"top_k", "x(", ", ", ") is NaN"};

inline constexpr int top_k_digit = 11;  ///< bits of a digit
inline constexpr int top_k_bins = 1 << top_k_digit;
inline constexpr int top_k_shared = 2048;  ///< candidates that are sorted in shared memory

/// An element's place in its row: the larger the stronger, no two alike.
template <class A>
struct Place {
  using Key = decltype(ordered(A{}));
  Key key;
  std::uint32_t column;  ///< ~column

  __device__ bool operator>(Place const& other) const { return key != other.key ? key > other.key : column > other.column; }
};

/// Which elements are candidates: those whose leading `bits` are not below these.
template <class A>
struct Threshold {
  using Key = typename Place<A>::Key;
  static constexpr int key_bits = 8 * sizeof(Key), all_bits = key_bits + 32;

  int bits;
  Place<A> least;

  /// -1: below, 0: alike so far, 1: above.
  __device__ int compare(Place<A> const& x) const {
    if (bits == 0) return 0;
    Key const mine = bits >= key_bits ? least.key : least.key >> (key_bits - bits);
    Key const key = bits >= key_bits ? x.key : x.key >> (key_bits - bits);
    if (key != mine) return key > mine ? 1 : -1;
    if (bits <= key_bits) return 0;
    std::uint32_t const column = x.column >> (all_bits - bits), of_least = least.column >> (all_bits - bits);
    return column == of_least ? 0 : column > of_least ? 1 : -1;
  }
  /// Digits do not reach over the end of the key, nor of the column.
  __device__ int digit_bits() const {
    int const rest = bits < key_bits ? key_bits - bits : all_bits - bits;
    return rest < top_k_digit ? rest : top_k_digit;
  }
  __device__ int digit(Place<A> const& x) const {
    int const width = digit_bits();
    if (bits < key_bits) return static_cast<int>((x.key >> (key_bits - bits - width)) & ((Key{1} << width) - 1));
    return static_cast<int>((x.column >> (all_bits - bits - width)) & ((1u << width) - 1));
  }
  __device__ void append(int digit) {
    int const width = digit_bits();
    if (bits < key_bits)
      least.key |= static_cast<Key>(digit) << (key_bits - bits - width);
    else
      least.column |= static_cast<std::uint32_t>(digit) << (all_bits - bits - width);
    bits += width;
  }
};

/// A block a row. \param room  `capacity` places a row, a power of 2, where shared memory has too few
template <class T>
__global__ void __launch_bounds__(1024)
    top_k_kernel(__grid_constant__ TopKArgs<T> const a, Place<accumulator_t<T>>* room, int capacity, FaultSlot* fault) {
  using A = accumulator_t<T>;
  __shared__ unsigned bins[top_k_bins];
  __shared__ Place<A> in_shared[top_k_shared];
  __shared__ unsigned warps[32], listed, next_above, next_alike;
  __shared__ Threshold<A> next;
  int const thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  Index const D = a.x.extent(1), k = a.indices.extent(1), stride = a.x.stride(1);
  Place<A>* const places = room ? room + Index{blockIdx.x} * capacity : in_shared;
  for (Index row = blockIdx.x; row < a.x.extent(0); row += gridDim.x) {
    T const* const x = a.x.data() + row * a.x.stride(0);
    // Many are read before the first is looked at: no latency stands between them.
    auto const each = [&](auto const& body) {
      constexpr int ahead = 8;
      for (Index i = thread; i < D; i += Index{ahead} * threads) {
        T values[ahead];
#pragma unroll
        for (int j = 0; j < ahead; ++j)
          if (i + Index{j} * threads < D) values[j] = x[(i + Index{j} * threads) * stride];
#pragma unroll
        for (int j = 0; j < ahead; ++j) {
          Index const at = i + Index{j} * threads;
          if (at >= D) break;
          A const value = device_widen(values[j]);
          body(Place<A>{ordered(value), ~static_cast<std::uint32_t>(at)}, value, at);
        }
      }
    };
    // Digit by digit, until the certain ones and those alike so far fit.
    Threshold<A> threshold{};
    unsigned above = 0;
    auto alike = static_cast<unsigned>(D);
    while (above + alike > static_cast<unsigned>(capacity)) {
      for (int i = thread; i < top_k_bins; i += threads) bins[i] = 0;
      __syncthreads();
      each([&](Place<A> const& place, A, Index) {
        if (threshold.compare(place) == 0) atomicAdd(bins + threshold.digit(place), 1u);
      });
      __syncthreads();
      // Threads hold neighbouring bins, the strongest first.
      int const each_thread = top_k_bins / threads;
      unsigned mine = 0, total;
      for (int i = 0; i < each_thread; ++i) mine += bins[top_k_bins - 1 - (thread * each_thread + i)];
      unsigned before = above + scan_block(mine, warps, total) - mine;
      for (int i = 0; i < each_thread; ++i) {
        int const bin = top_k_bins - 1 - (thread * each_thread + i);
        if (before < static_cast<unsigned>(k) && static_cast<unsigned>(k) <= before + bins[bin]) {
          next = threshold, next.append(bin), next_above = before, next_alike = bins[bin];
        }
        before += bins[bin];
      }
      __syncthreads();
      threshold = next, above = next_above, alike = next_alike;
      __syncthreads();
    }
    if (thread == 0) listed = 0;
    __syncthreads();
    each([&](Place<A> const& place, A value, Index i) {
      if (value != value) report_fault(fault, row, i);
      if (threshold.compare(place) >= 0) places[atomicAdd(&listed, 1u)] = place;
    });
    __syncthreads();
    int const count = static_cast<int>(listed);
    int size = 2;
    while (size < count) size *= 2;
    for (int i = count + thread; i < size; i += threads) places[i] = Place<A>{0, 0};
    __syncthreads();
    // A bitonic sort, the strongest first; what fills up is the weakest.
    for (int run = 2; run <= size; run *= 2)
      for (int step = run / 2; step > 0; step /= 2) {
        for (int i = thread; i < size / 2; i += threads) {
          int const first = 2 * i - (i & (step - 1)), second = first + step;
          Place<A> const one = places[first], other = places[second];
          if ((other > one) == ((first & run) == 0)) places[first] = other, places[second] = one;
        }
        __syncthreads();
      }
    for (Index j = thread; j < k; j += threads) {
      auto const column = static_cast<int>(~places[j].column);
      a.indices(row, j) = column;
      if (a.values) a.values(row, j) = x[column * stride];
    }
    __syncthreads();
  }
}

}  // namespace detail

/// A NaN makes the next wait for the context throw. Made for k of a few hundred: beyond 2048 the sort is in scratch memory, which
/// for as many rows as run at once holds a power of 2 of places, and slow.
template <Scalar T>
void top_k_on(Cuda const& ctx, TopKArgs<T> const& a) {
  using Place = detail::Place<accumulator_t<T>>;
  Index const rows = a.x.extent(0), D = a.x.extent(1), k = a.indices.extent(1);
  if (rows == 0 || k == 0) return;
  detail::DeviceScope const device{ctx.device()};
  auto const scope = ctx.scratch().scope();
  auto blocks = std::min(rows, Index{1} << 20);
  Index capacity = std::min<Index>(detail::top_k_shared,
                                   std::max<Index>(1024, static_cast<Index>(std::bit_ceil(static_cast<unsigned long long>(k)))));
  Place* room = nullptr;
  if (k > detail::top_k_shared) {
    capacity = static_cast<Index>(std::bit_ceil(static_cast<unsigned long long>(k)));
    blocks = std::min(rows, Index{2} * ctx.multiprocessors());
    room = ctx.scratch().template take<Place>(Shape{blocks, capacity}).data();
  }
  auto const some = static_cast<Index>(std::bit_ceil(static_cast<unsigned long long>(D)));
  auto const threads = static_cast<unsigned>(std::clamp<Index>(some / 2, 32, 1024));
  detail::top_k_kernel<T><<<static_cast<unsigned>(blocks), threads, 0, ctx.stream()>>>(a, room, static_cast<int>(capacity),
                                                                                       ctx.fault(detail::top_k_nan));
  detail::check_launch("top_k_kernel");
}

}  // namespace blackmamba
