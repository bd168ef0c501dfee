#pragma once
/// \file
/// Where the filters of `sample` cut a row: one block finds the last token that top-k and top-p keep, in the order of falling
/// scores.
///
/// Counts and sums over buckets of scores tell in which bucket the cut is; of that bucket's tokens each counts those before it.
/// Where there are too many, they are narrowed by the first byte in which their scores differ; equal scores are counted by index.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/sample/filters.hpp>
#include <blackmamba/ops/top_k/order.cuh>

namespace blackmamba::detail {

inline constexpr int row_threads = 1024;  ///< of the block of a row: a thread a bucket
inline constexpr int row_warps = row_threads / 32;
inline constexpr int sample_tile = 1024;  ///< tokens that a block weighs at a time
inline constexpr int sample_pad = 4096;   ///< rows are padded to whole pieces of it: each warp of a row's block reads whole fours
static_assert(row_threads == weight_buckets && sample_pad == row_warps * 128);

/// Rows of counts and sums of weights over buckets.
struct RowBuckets {
  Weight* sums;
  unsigned* counts;

  __device__ Weight* sum(Index b) const { return sums + b * weight_buckets; }
  __device__ unsigned* count(Index b) const { return counts + b * weight_buckets; }
  __device__ void add(Index b, int bucket, unsigned count_more, Weight sum_more) const {
    atomicAdd(reinterpret_cast<unsigned long long*>(sum(b) + bucket), static_cast<unsigned long long>(sum_more));
    atomicAdd(count(b) + bucket, count_more);
  }
};

/// The last token of a bucket that is kept.
struct RowCut {
  std::uint64_t key;
  Token token;

  __device__ bool reaches(std::uint64_t of_key, Index t) const {
    return of_key > key || (of_key == key && static_cast<Token>(t) <= token);
  }
};

/// A row as the blocks before left it. Tokens of the last bucket have weight 0 or were dropped.
struct SelectRow {
  double const* scores;
  Weight const* weights;
  std::uint16_t* buckets;
  Index padded;

  __device__ std::uint64_t key(Index t) const { return ordered(__ldg(scores + t)); }
  __device__ Weight weight(Index t) const { return __ldg(weights + t); }
  __device__ void drop(Index t) const { buckets[t] = weight_buckets - 1; }

  /// The sum of value(t) over the tokens of [begin, begin + length), whole fours, whose bucket is in [first, last): this thread's
  /// share of 32. What is not summed is read too, from one place, so that no branch stands between the reads.
  template <class Value>
  __device__ __forceinline__ Weight sum(Index begin, Index length, int first, int last, int lane, Value const& value) const {
    constexpr int ahead = 4;
    Weight out = 0;
    for (Index i = Index{lane} * 4; i < length; i += Index{ahead} * 128) {
      ushort4 four[ahead];
#pragma unroll
      for (int j = 0; j < ahead; ++j) four[j] = four_at(begin, i + j * 128, length);
#pragma unroll
      for (int j = 0; j < ahead; ++j) {
        int const of[]{four[j].x, four[j].y, four[j].z, four[j].w};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          bool const in = of[k] >= first && of[k] < last;
          Weight const one = value(in ? begin + i + j * 128 + k : 0);
          out += in ? one : 0;
        }
      }
    }
    return out;
  }

  /// Calls body(t, key(t)) for each of these threads' tokens that is in a bucket. Made for few.
  template <class Body>
  __device__ __forceinline__ void each_of(int bucket, int thread, int count, Body const& body) const {
    for (Index begin = 0; begin < padded; begin += Index{8} * count * 4) {
      Index const left = padded - begin, length = left < Index{8} * count * 4 ? left : Index{8} * count * 4;
      unsigned matches = 0, bit = 1;
      ushort4 four[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        Index const at = Index{j} * count * 4 + thread * 4;
        four[j] = four_at(begin, at, length);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        for (unsigned short const of : {four[j].x, four[j].y, four[j].z, four[j].w}) {
          if (of == bucket) matches |= bit;
          bit <<= 1;
        }
      while (matches) {
        Index token[4];
        std::uint64_t found[4];
        bool there[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          there[k] = matches != 0;
          int const at = there[k] ? __ffs(static_cast<int>(matches)) - 1 : 0;
          token[k] = there[k] ? begin + Index{at / 4} * count * 4 + thread * 4 + at % 4 : 0;
          found[k] = key(token[k]);
          matches &= matches - 1;
        }
#pragma unroll
        for (int k = 0; k < 4; ++k)
          if (there[k]) body(token[k], found[k]);
      }
    }
  }

  __device__ ushort4 four_at(Index begin, Index at, Index length) const {
    return at < length ? *reinterpret_cast<ushort4 const*>(buckets + begin + at) : ushort4{0xffff, 0xffff, 0xffff, 0xffff};
  }
};

/// The token of [begin, end) at which the running sum of mass(t), in index order, passes `threshold`: given to `found`, by one
/// thread. All threads of the block; none of it where the sum does not pass.
template <class Mass, class Found>
__device__ void search_range(Index begin, Index end, Weight threshold, Weight* warps, Mass const& mass, Found const& found) {
  Index const each = (end - begin + blockDim.x - 1) / blockDim.x;
  Index const from = begin + threadIdx.x * each, to = from + each < end ? from + each : end;
  Weight mine = 0, total;
#pragma unroll 4
  for (Index t = from; t < to; ++t) mine += mass(t);
  Weight const after = scan_block(mine, warps, total);
  Weight passed = after - mine;
  if (passed > threshold || after <= threshold) return;
  Index t = from;
  for (Weight more = mass(t); passed + more <= threshold; more = mass(t)) passed += more, ++t;
  found(static_cast<Token>(t));
}

/// The same for a whole row: of the tokens in buckets of [first, last), each with mass value(t). `limit(total)` gives the
/// threshold.
template <class Value, class Limit, class Found>
__device__ __forceinline__ void search_row(SelectRow const& row, Weight* warps, int first, int last, Value const& value,
                                           Limit const& limit, Found const& found) {
  __shared__ Weight of_warps[row_warps], threshold;
  __shared__ Index begin;
  int const thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  Index const length = row.padded / row_warps;
  Weight sum = row.sum(warp * length, length, first, last, lane, value);
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  __syncthreads();
  if (lane == 0) of_warps[warp] = sum;
  __syncthreads();
  Weight const mine = thread < row_warps ? of_warps[thread] : 0;
  Weight total;
  Weight const after = scan_block(mine, warps, total), passes = limit(total);
  if (after - mine <= passes && passes < after) threshold = passes - (after - mine), begin = thread * length;
  __syncthreads();
  auto const mass = [&](Index t) -> Weight {
    int const of = row.buckets[t];
    return of >= first && of < last ? value(t) : 0;
  };
  search_range(begin, begin + length, threshold, warps, mass, found);
}

/// The least and the largest key, in all threads of the block.
__device__ inline void range_of_block(std::uint64_t& least, std::uint64_t& most) {
  __shared__ std::uint64_t leasts[row_warps], mosts[row_warps];
  auto const in_warp = [&] {
    for (int step = 16; step > 0; step /= 2) {
      std::uint64_t const low = __shfl_xor_sync(~0u, least, step), high = __shfl_xor_sync(~0u, most, step);
      least = low < least ? low : least, most = high > most ? high : most;
    }
  };
  in_warp();
  __syncthreads();
  if (threadIdx.x % 32 == 0) leasts[threadIdx.x / 32] = least, mosts[threadIdx.x / 32] = most;
  __syncthreads();
  least = leasts[threadIdx.x % 32], most = mosts[threadIdx.x % 32];
  in_warp();
}

/// Drops a bucket's tokens behind the first, in the order of falling scores, at which `base` and the masses up to it reach
/// `wanted`; a mass is a weight, or 1. It must be there. Returns the sum of the weights that are kept. All threads of the block
/// call it. \param tokens  the bucket's number of tokens, or more
__device__ __noinline__ inline Weight cut_bucket(SelectRow const& row, int bucket, unsigned tokens, bool by_weight, Weight base,
                                                 Weight wanted, Weight* warps) {
  __shared__ std::uint64_t keys[row_threads];
  __shared__ Weight weights[row_threads], digit_sums[256], next_base, next_kept;
  __shared__ Token list[row_threads];
  __shared__ unsigned digit_counts[256], listed, next_tokens;
  __shared__ int next_digit;
  __shared__ RowCut found;
  int const thread = static_cast<int>(threadIdx.x);
  Weight kept = 0, total;
  std::uint64_t prefix = 0;
  int low_bits = 64;  // that the prefix says nothing of
  auto const each = [&](auto const& body) {
    row.each_of(bucket, thread, row_threads, [&](Index t, std::uint64_t key) {
      if (low_bits == 64 || (key ^ prefix) >> low_bits == 0) body(t, key);
    });
  };
  auto const drop_rest = [&] {
    row.each_of(bucket, thread, row_threads, [&](Index t, std::uint64_t key) {
      if (!found.reaches(key, t)) row.drop(t);
    });
    __syncthreads();
  };
  bool const narrow = tokens > row_threads;
  while (tokens > row_threads) {
    std::uint64_t least = ~std::uint64_t{0}, most = 0, any = 0, ignored = 0;
    each([&](Index t, std::uint64_t key) {
      least = key < least ? key : least, most = key > most ? key : most, any = static_cast<std::uint64_t>(t);
    });
    range_of_block(least, most);
    if (least == most) {
      range_of_block(ignored, any);
      // Equal scores have equal weights.
      Weight const weight = row.weight(static_cast<Index>(any)), rest = wanted - base;
      Weight const more = by_weight ? (rest + weight - 1) / weight : rest;
      search_row(
          row, warps, bucket, bucket + 1, [&](Index t) { return Weight{row.key(t) == most}; }, [&](Weight) { return more - 1; },
          [&](Token token) {
            found = {most, token};
          });
      __syncthreads();
      drop_rest();
      return kept + more * weight;
    }
    low_bits = (63 - __clzll(static_cast<long long>(least ^ most))) / 8 * 8;
    int const at = low_bits;
    low_bits += 8;
    prefix = most;  // they all agree before this byte
    if (thread < 256) digit_sums[thread] = 0, digit_counts[thread] = 0;
    __syncthreads();
    each([&](Index t, std::uint64_t key) {
      int const digit = static_cast<int>(key >> at & 255u);
      atomicAdd(digit_counts + digit, 1u);
      atomicAdd(reinterpret_cast<unsigned long long*>(digit_sums + digit), static_cast<unsigned long long>(row.weight(t)));
    });
    __syncthreads();
    // Digits fall from thread 0 on.
    Weight const sum = thread < 256 ? digit_sums[255 - thread] : 0;
    Weight const count = thread < 256 ? digit_counts[255 - thread] : 0;
    Weight const sums = scan_block(sum, warps, total), counts = scan_block(count, warps, total);
    Weight const after = base + (by_weight ? sums : counts), mass = by_weight ? sum : count;
    if (after >= wanted && after - mass < wanted)
      next_digit = 255 - thread, next_base = after - mass, next_kept = kept + sums - sum,
      next_tokens = static_cast<unsigned>(count);
    __syncthreads();
    std::uint64_t const above = low_bits == 64 ? 0 : most >> low_bits;
    prefix = (above << 8 | static_cast<std::uint64_t>(next_digit)) << at;
    low_bits = at, base = next_base, kept = next_kept, tokens = next_tokens;
    __syncthreads();
  }
  if (thread == 0) listed = 0;
  __syncthreads();
  each([&](Index t, std::uint64_t key) {
    unsigned const at = atomicAdd(&listed, 1u);
    keys[at] = key, weights[at] = row.weight(t), list[at] = static_cast<Token>(t);
  });
  __syncthreads();
  int const count = static_cast<int>(listed);
  bool mine_kept = false;
  if (thread < count) {
    std::uint64_t const key = keys[thread];
    Token const token = list[thread];
    Weight before = base;
#pragma unroll 4
    for (int i = 0; i < count; ++i) {
      bool const beats = keys[i] > key || (keys[i] == key && list[i] < token);
      before += beats ? by_weight ? weights[i] : 1 : 0;
    }
    mine_kept = before < wanted;
    if (!mine_kept) row.drop(token);
    if (mine_kept && before + (by_weight ? weights[thread] : 1) >= wanted) found = {key, token};
  }
  scan_block(mine_kept ? weights[thread] : Weight{0}, warps, total);
  if (narrow) drop_rest();
  return kept + total;
}

/// Cuts a row by top-k and then by top-p: of the buckets below the number that is returned, and of the tokens that were not
/// dropped, all are kept. All threads of the block.
__device__ inline int cut_row(SelectRow const& row, RowBuckets const& rows, Index b, Index top_k, double top_p, Weight* warps) {
  __shared__ int bucket;
  __shared__ Weight before, up_to;
  __shared__ unsigned tokens;
  int const thread = static_cast<int>(threadIdx.x);
  unsigned const count = rows.count(b)[thread];
  Weight const sum = rows.sum(b)[thread];
  Weight total, counted = 0;
  Weight const sums = scan_block(sum, warps, total);
  int end = weight_buckets - 1;
  auto const k = static_cast<Weight>(top_k);
  if (top_k > 0) {
    Weight const counts = scan_block(static_cast<Weight>(count), warps, counted);
    if (k < counted) {
      if (counts >= k && counts - count < k) bucket = thread, before = counts - count, up_to = sums - sum, tokens = count;
      __syncthreads();
      total = up_to + cut_bucket(row, bucket, tokens, false, before, k, warps);
      end = bucket + 1;
      __syncthreads();
    }
  }
  if (top_p < 1) {
    Weight const wanted = share_of(top_p, total);
    if (sums >= wanted && sums - sum < wanted) bucket = thread, before = sums - sum, tokens = count;
    __syncthreads();
    cut_bucket(row, bucket, tokens, true, before, wanted, warps);
    end = bucket + 1;
    __syncthreads();
  }
  return end;
}

}  // namespace blackmamba::detail
