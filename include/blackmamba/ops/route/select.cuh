#pragma once
/// \file
/// The n-th largest number of every column on a GPU, and which token it is: a block a column, eight bits of the numbers at a time.
/// The order is that of the host: value down, then token up; 0 and -0 are one value.

#include <blackmamba/core/cuda/context.cuh>

namespace blackmamba::detail {

/// Unsigned numbers in the order of those that they stand for.
__device__ inline unsigned order_key(float x) {
  unsigned const bits = __float_as_uint(x == 0 ? 0.0f : x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline unsigned long long order_key(double x) {
  auto const bits = static_cast<unsigned long long>(__double_as_longlong(x == 0 ? 0.0 : x));
  return bits >> 63 ? ~bits : bits | 0x8000000000000000ull;
}
__device__ inline float from_order_key(unsigned key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }
__device__ inline double from_order_key(unsigned long long key) {
  return __longlong_as_double(static_cast<long long>(key >> 63 ? key & 0x7fffffffffffffffull : ~key));
}

template <class A>
using OrderKey = std::conditional_t<sizeof(A) == 4, unsigned, unsigned long long>;

/// A token is among the n first of a column if its key is above `cut`, or is `cut` and the token is at most `last`.
template <class A>
struct Selection {
  View<OrderKey<A> const, 2> keys;  // (columns, tokens), contiguous
  Index n;                          // from 1 to tokens
  View<OrderKey<A>, 1> cut;         // (columns) out
  View<Index, 1> last;              // (columns) out
  View<A, 1> value;                 // optional (columns) out: the n-th largest

  __device__ bool among(Index i, Index column) const {
    auto const key = keys(column, i);
    return key > cut(column) || (key == cut(column) && i <= last(column));
  }
};

inline constexpr int select_threads = 1024;

/// Where numbers of a block are counted by digit: a column for each lane of a warp, so that those with the same digit do not wait
/// for each other.
struct DigitCounts {
  unsigned of_lane[256][32];
  unsigned digit, wanted, equal;
  Index last;
};

/// With `Held` the keys of a column, at most so many a thread, are read once and kept in registers.
template <class A, int Held>
__global__ void __launch_bounds__(select_threads) select_kernel(__grid_constant__ Selection<A> const s) {
  using Key = OrderKey<A>;
  constexpr unsigned all = 0xffffffffu;
  constexpr int together = Held ? Held : 8;
  __shared__ DigitCounts shared;
  int const thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  Index const tokens = s.keys.extent(1);
  for (Index column = blockIdx.x; column < s.keys.extent(0); column += gridDim.x) {
    Key const* const keys = s.keys.data() + column * tokens;
    Key held[together];
    auto const read = [&](Index begin) {
#pragma unroll
      for (int h = 0; h < together; ++h) {
        Index const i = begin + Index{h} * select_threads + thread;
        held[h] = i < tokens ? keys[i] : 0;
      }
    };
    if constexpr (Held > 0) read(0);
    Key cut = 0, known = 0;                    // the bits of the key that are found, and which those are
    auto wanted = static_cast<unsigned>(s.n);  // how many are, of those that have these bits
    unsigned equal = 0;                        // and how many have them
    for (int shift = 8 * (static_cast<int>(sizeof(Key)) - 1); shift >= 0; shift -= 8) {
      for (int at = thread; at < 256 * 32; at += select_threads) shared.of_lane[at / 32][at % 32] = 0;
      __syncthreads();
      for (Index begin = 0; begin < tokens; begin += Index{together} * select_threads) {
        if constexpr (Held == 0) read(begin);
#pragma unroll
        for (int h = 0; h < together; ++h)
          if (begin + Index{h} * select_threads + thread < tokens && (held[h] & known) == cut)
            atomicAdd(&shared.of_lane[static_cast<unsigned>(held[h] >> shift) & 255u][lane], 1u);
      }
      __syncthreads();
      for (int d = warp; d < 256; d += select_threads / 32) {
        unsigned const sum = __reduce_add_sync(all, shared.of_lane[d][lane]);
        if (lane == 0) shared.of_lane[d][0] = sum;
      }
      __syncthreads();
      if (warp == 0) {  // each lane has eight digits, the largest ones first
        unsigned counts[8], sum = 0;
#pragma unroll
        for (int d = 0; d < 8; ++d) sum += counts[d] = shared.of_lane[255 - 8 * lane - d][0];
        unsigned up_to = sum;
        for (int step = 1; step < 32; step *= 2) {
          unsigned const before = __shfl_up_sync(all, up_to, static_cast<unsigned>(step));
          if (lane >= step) up_to += before;
        }
        unsigned before = up_to - sum;
        if (before < wanted && wanted <= up_to) {
          bool found = false;
#pragma unroll
          for (int d = 0; d < 8; ++d) {
            if (!found && before + counts[d] >= wanted) {
              found = true;
              shared.digit = static_cast<unsigned>(255 - 8 * lane - d), shared.wanted = wanted - before, shared.equal = counts[d];
            }
            before += counts[d];
          }
        }
      }
      __syncthreads();
      cut |= static_cast<Key>(shared.digit) << shift, known |= static_cast<Key>(255) << shift;
      wanted = shared.wanted, equal = shared.equal;
    }
    if (thread == 0) shared.last = tokens;
    // The first of those that are equal: which token is the last of them. Keys that a warp reads at once are of neighbouring
    // tokens.
    if (wanted < equal) {
      for (Index begin = 0; begin < tokens; begin += Index{together} * select_threads) {
        if constexpr (Held == 0) read(begin);
        unsigned votes[together];
#pragma unroll
        for (int h = 0; h < together; ++h) {
          votes[h] = __ballot_sync(all, begin + Index{h} * select_threads + thread < tokens && held[h] == cut);
          if (lane == 0) shared.of_lane[h][warp] = static_cast<unsigned>(__popc(votes[h]));
        }
        __syncthreads();
        if (warp == 0) {  // a count becomes the number of those before it
          unsigned sum = 0;
          for (int at = 0; at < together; ++at) sum += shared.of_lane[(lane * together + at) / 32][(lane * together + at) % 32];
          unsigned up_to = sum;
          for (int step = 1; step < 32; step *= 2) {
            unsigned const lower = __shfl_up_sync(all, up_to, static_cast<unsigned>(step));
            if (lane >= step) up_to += lower;
          }
          unsigned before = up_to - sum;
          for (int at = lane * together; at < (lane + 1) * together; ++at) {
            unsigned const count = shared.of_lane[at / 32][at % 32];
            shared.of_lane[at / 32][at % 32] = before;
            before += count;
          }
          if (lane == 31) shared.equal = before;
        }
        __syncthreads();
#pragma unroll
        for (int h = 0; h < together; ++h) {
          unsigned const rank = shared.of_lane[h][warp] + static_cast<unsigned>(__popc(votes[h] & ((2u << lane) - 1u)));  // from 1
          if ((votes[h] >> lane & 1u) && rank == wanted) shared.last = begin + Index{h} * select_threads + thread;
        }
        unsigned const counted = shared.equal;
        __syncthreads();
        if (counted >= wanted) break;
        wanted -= counted;
      }
    }
    __syncthreads();
    if (thread == 0) {
      s.cut(column) = cut, s.last(column) = shared.last;
      if (s.value) s.value(column) = from_order_key(cut);
    }
    __syncthreads();
  }
}

/// Fills `cut`, `last` and `value`.
template <class A>
void select(Cuda const& ctx, char const* op, Selection<A> const& s) {
  if (s.keys.extent(0) == 0) return;
  DeviceScope const device{ctx.device()};
  Index const blocks = s.keys.extent(0) < 65535 ? s.keys.extent(0) : 65535;
  auto* const kernel = s.keys.extent(1) <= 16 * select_threads ? select_kernel<A, 16> : select_kernel<A, 0>;
  kernel<<<static_cast<unsigned>(blocks), select_threads, 0, ctx.stream()>>>(s);
  check_launch(op);
}

}  // namespace blackmamba::detail
