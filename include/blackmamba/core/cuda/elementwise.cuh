#pragma once
/// \file
/// Maps over matrices, element by element: 16 bytes an access where all of them allow it, one element elsewhere.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/math.cuh>
#include <blackmamba/core/view.hpp>

namespace blackmamba::detail {

/// `V` neighbours of a row, in registers.
template <class T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) Lanes {
  T of[V];
};

/// How many elements of the smallest of these scalars are 16 bytes.
template <class... T>
inline constexpr int lanes_of = static_cast<int>(16 / std::min({sizeof(T)...}));

/// The bits of an element of 16, and back; of bits they are themselves.
template <class T>
__device__ __forceinline__ std::uint32_t packed_bits(T x) {
  if constexpr (std::is_same_v<T, std::uint16_t>)
    return x;
  else
    return x.bits;
}
template <class T>
__device__ __forceinline__ T from_packed_bits(std::uint32_t bits) {
  if constexpr (std::is_same_v<T, std::uint16_t>)
    return static_cast<T>(bits);
  else
    return T::from_bits(static_cast<std::uint16_t>(bits));
}

/// The same as memory has them, two elements of 16 bits a register: a load is waited for where elements are told apart, so what is
/// to be read together is told apart after the last load.
template <class T, int V>
struct alignas(V * sizeof(T) < 16 ? V * sizeof(T) : 16) PackedLanes {
  static constexpr bool pairs = sizeof(T) == 2 && V % 2 == 0;
  std::conditional_t<pairs, std::uint32_t, T> words[pairs ? V / 2 : V];

  __device__ __forceinline__ Lanes<T, V> lanes() const {
    Lanes<T, V> out;
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if constexpr (pairs)
        out.of[k] = from_packed_bits<T>(words[k / 2] >> (k % 2 * 16));
      else
        out.of[k] = words[k];
    }
    return out;
  }
  /// Keeps the compiler from telling elements apart before this.
  __device__ __forceinline__ void together() {
    if constexpr (pairs)
#pragma unroll
      for (auto& word : words) asm("" : "+r"(word));
  }
};

/// The first `count` of `V` elements, and zeros for the others. \param whole  whether they are neighbours and aligned
template <int V, class T>
__device__ __forceinline__ PackedLanes<std::remove_const_t<T>, V> load_lanes(T* from, Index stride, bool whole, int count) {
  using U = std::remove_const_t<T>;
  using Packed = PackedLanes<U, V>;
  Packed out;
  if (whole && count == V) {
    out = *reinterpret_cast<Packed const*>(from);
  } else {
    auto const element = [&](int k) { return k < count ? from[k * stride] : U{}; };
#pragma unroll
    for (int k = 0; k < V; ++k) {
      if constexpr (!Packed::pairs)
        out.words[k] = element(k);
      else if (k % 2 == 0)
        out.words[k / 2] = packed_bits(element(k)) | packed_bits(element(k + 1)) << 16;
    }
  }
  out.together();
  return out;
}
template <int V, class T>
__device__ __forceinline__ void store_lanes(T* to, Index stride, bool whole, int count, Lanes<T, V> const& x) {
  if (whole && count == V) {
    *reinterpret_cast<Lanes<T, V>*>(to) = x;
    return;
  }
#pragma unroll
  for (int k = 0; k < V; ++k)
    if (k < count) to[k * stride] = x.of[k];
}
template <int V, class T>
__device__ __forceinline__ void store_lanes(T* to, Index stride, bool whole, int count, PackedLanes<T, V> const& x) {
  if (whole && count == V)
    *reinterpret_cast<PackedLanes<T, V>*>(to) = x;
  else
    store_lanes<V>(to, stride, false, count, x.lanes());
}

/// Whether lanes of a matrix can be read and written in one access each, if they begin at multiples of `V`.
template <int V, class T>
bool lanes_align(View<T, 2> const& view) {
  return view.stride(1) == 1 && reinterpret_cast<std::uintptr_t>(view.data()) % alignof(Lanes<T, V>) == 0 &&
         (view.extent(0) == 1 || view.stride(0) % V == 0);
}

/// Pieces of `V` elements of each row, dealt to threads: which piece a thread has next is found without a division.
struct MapPlan {
  static constexpr int threads = 256;

  Index rows, D, pieces;         ///< pieces a row
  Index step_rows, step_pieces;  ///< from one piece of a thread to its next
  bool whole;                    ///< of all matrices
  unsigned blocks;

  MapPlan(Index matrix_rows, Index columns, int V, bool all_whole)
      : rows{matrix_rows}, D{columns}, pieces{ceil_div(columns, Index{V})}, whole{all_whole} {
    blocks = static_cast<unsigned>(std::min(ceil_div(rows * pieces, Index{threads}), Index{1} << 20));
    Index const step = Index{blocks} * threads;
    step_rows = step / pieces, step_pieces = step % pieces;
  }

  /// Calls body(row, first column, columns) for each piece of this thread.
  template <int V, class Body>
  __device__ __forceinline__ void each(Body const& body) const {
    unsigned const at = blockIdx.x * threads + threadIdx.x;
    Index row = 0, piece = at;
    if (pieces <= piece) row = at / static_cast<unsigned>(pieces), piece = at % static_cast<unsigned>(pieces);
    while (row < rows) {
      Index const column = piece * V;
      body(row, column, column + V <= D ? V : static_cast<int>(D - column));
      row += step_rows, piece += step_pieces;
      if (piece >= pieces) piece -= pieces, ++row;
    }
  }
};

/// What a kernel needs of a matrix. `column` is 1 where rows are contiguous.
template <class T>
struct Strided {
  T* data;
  Index row, column;

  __device__ T* at(Index r, Index c) const { return data + r * row + c * column; }
};

template <int V, class F, class... T>
struct Map {
  template <class U>
  using Read = PackedLanes<std::remove_const_t<U>, V>;

  static __device__ __forceinline__ void run(F const& f, bool whole, Index row, Index column, int count,
                                             Strided<T> const&... matrix, Read<T> const&... read) {
    apply(f, whole, row, column, count, matrix..., read.lanes()...);
  }

 private:
  static __device__ __forceinline__ void apply(F const& f, bool whole, Index row, Index column, int count,
                                               Strided<T> const&... matrix, Lanes<std::remove_const_t<T>, V>... lanes) {
    f.choose([&](auto const& g) {
#pragma unroll
      for (int k = 0; k < V; ++k) g(lanes.of[k]...);
    });
    auto const store = [&](auto const& to, auto const& x) {
      if constexpr (!std::is_const_v<std::remove_pointer_t<decltype(to.data)>>)
        if (to.data) store_lanes<V>(to.at(row, column), to.column, whole, count, x);
    };
    (store(matrix, lanes), ...);
  }
};

/// Reads what is const, calls f with an element of each, and writes what is not const.
template <int V, class F, class... T>
__global__ void __launch_bounds__(MapPlan::threads)
    map_kernel(__grid_constant__ F const f, __grid_constant__ MapPlan const plan, __grid_constant__ Strided<T> const... matrix) {
  plan.each<V>([&](Index row, Index column, int count) {
    auto const load = [&](auto const& from) {
      using Element = std::remove_pointer_t<decltype(from.data)>;
      if constexpr (std::is_const_v<Element>)
        return load_lanes<V>(from.at(row, column), from.column, plan.whole, count);
      else
        return PackedLanes<Element, V>{};
    };
    Map<V, F, T...>::run(f, plan.whole, row, column, count, matrix..., load(matrix)...);
  });
}

/// Calls `f` on the elements at each place of matrices of one shape: those of const are read before, those of others are written
/// after. What is absent is not written. A matrix that is written may be one of those that are read, element for element.
/// f.choose(body) calls body(g) with the g to be called on elements.
template <class F, class... T>
void map_matrices(Cuda const& ctx, char const* name, Shape<2> const& shape, F const& f, View<T, 2> const&... matrix) {
  constexpr int V = lanes_of<T...>;
  if (shape[0] == 0 || shape[1] == 0) return;
  bool const one_row = ((!matrix || matrix.contiguous()) && ...);
  auto const strided = [&]<class U>(View<U, 2> const& from) {
    View<U, 2> const row{from.data(), Shape<2>{1, shape[0] * shape[1]}};
    return one_row ? row : from;
  };
  bool const whole = ((!matrix || lanes_align<V>(strided(matrix))) && ...);
  MapPlan const plan{one_row ? 1 : shape[0], one_row ? shape[0] * shape[1] : shape[1], V, whole};
  DeviceScope const device{ctx.device()};
  map_kernel<V, F, T...><<<plan.blocks, MapPlan::threads, 0, ctx.stream()>>>(
      f, plan, Strided<T>{matrix.data(), strided(matrix).stride(0), strided(matrix).stride(1)}...);
  check_launch(name);
}

/// For functions of elements that choose nothing before.
template <class F>
struct ElementMap {
  template <class Body>
  __device__ __forceinline__ void choose(Body const& body) const {
    body(static_cast<F const&>(*this));
  }
};

}  // namespace blackmamba::detail
