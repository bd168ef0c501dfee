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

/// The last token that is kept: all of the buckets before, and of its own those up to it.
struct RowCut {
  int bucket;
  std::uint64_t key;
  Token token;

  __device__ bool reaches(std::uint64_t of_key, Index t) const {
    return of_key > key || (of_key == key && static_cast<Token>(t) <= token);
  }
  __device__ bool before(RowCut const& other) const {
    return bucket != other.bucket ? bucket < other.bucket : key != other.key ? key > other.key : token < other.token;
  }
};

/// A row as the blocks before left it: read only.
struct SelectRow {
  double const* scores;
  Weight const* weights;
  std::uint16_t const* buckets;
  Index padded;

  __device__ std::uint64_t key(Index t) const { return ordered(__ldg(scores + t)); }
  __device__ Weight weight(Index t) const { return __ldg(weights + t); }

  /// Calls body(buckets of four tokens, the first of them) for all of [begin, begin + length), whole fours, shared by `count`
  /// threads of which this is `thread`. Many are read before the first is looked at: no latency stands between them.
  template <class Body>
  __device__ __forceinline__ void each_four(Index begin, Index length, int thread, int count, Body const& body) const {
    constexpr int ahead = 7;  // 13 such pieces make a row of the published vocabulary
    for (Index i = Index{thread} * 4; i < length; i += Index{ahead} * count * 4) {
      ushort4 four[ahead];
#pragma unroll
      for (int j = 0; j < ahead; ++j) {
        Index const at = i + Index{j} * count * 4;
        four[j] =
            at < length ? __ldg(reinterpret_cast<ushort4 const*>(buckets + begin + at)) : ushort4{0xffff, 0xffff, 0xffff, 0xffff};
      }
#pragma unroll
      for (int j = 0; j < ahead; ++j) body(four[j], begin + i + Index{j} * count * 4);
    }
  }

  /// Calls body(t) for each of these threads' tokens that is in a bucket. Made for few.
  template <class Body>
  __device__ __forceinline__ void each_of(int bucket, int thread, int count, Body const& body) const {
    for (Index begin = 0; begin < padded; begin += Index{8} * count * 4) {
      Index const left = padded - begin, length = left < Index{8} * count * 4 ? left : Index{8} * count * 4;
      unsigned matches = 0, bit = 1;
      ushort4 four[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        Index const at = Index{j} * count * 4 + thread * 4;
        four[j] =
            at < length ? __ldg(reinterpret_cast<ushort4 const*>(buckets + begin + at)) : ushort4{0xffff, 0xffff, 0xffff, 0xffff};
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        for (unsigned short const of : {four[j].x, four[j].y, four[j].z, four[j].w}) {
          if (of == bucket) matches |= bit;
          bit <<= 1;
        }
      for (; matches; matches &= matches - 1) {
        int const at = __ffs(static_cast<int>(matches)) - 1;
        body(begin + Index{at / 4} * count * 4 + thread * 4 + at % 4);
      }
    }
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

/// The same for a whole row: of the tokens in buckets before `bucket`, and of those in it that keeps(t), each with mass value(t).
/// `limit(total)` gives the threshold.
template <class Keeps, class Value, class Limit, class Found>
__device__ __forceinline__ void search_row(SelectRow const& row, Weight* warps, int bucket, bool with_before, Keeps const& keeps,
                                           Value const& value, Limit const& limit, Found const& found) {
  __shared__ Weight of_warps[row_warps], threshold;
  __shared__ Index begin;
  int const thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  Index const length = row.padded / row_warps;
  int const first = with_before ? 0 : bucket, last = bucket < weight_buckets - 1 ? bucket : weight_buckets - 1;
  Weight sum = 0;
  row.each_four(warp * length, length, lane, 32, [&](ushort4 const& four, Index t) {
    int const of[]{four.x, four.y, four.z, four.w};
    bool at_edge = false;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (of[k] >= first && of[k] < last) sum += value(t + k);
      at_edge = at_edge || of[k] == bucket;
    }
    if (at_edge && bucket < weight_buckets - 1)
      for (int k = 0; k < 4; ++k)
        if (__ldg(row.buckets + t + k) == bucket && keeps(t + k)) sum += value(t + k);
  });
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
    int const of = __ldg(row.buckets + t);
    bool const in = of >= first && (of < last || (of == bucket && of < weight_buckets - 1 && keeps(t)));
    return in ? value(t) : 0;
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

/// What `cut_bucket` found.
struct BucketCut {
  RowCut cut;
  Weight kept;  ///< the sum of the bucket's weights up to the cut
};

/// The first token of a bucket, in the order of falling scores, at which `base` and the masses up to it reach `wanted`; a mass is a
/// weight, or 1. It must be there. All threads of the block call it, with the bucket's number of tokens.
__device__ __noinline__ inline BucketCut cut_bucket(SelectRow const& row, int bucket, unsigned tokens, bool by_weight, Weight base,
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
    row.each_of(bucket, thread, row_threads, [&](Index t) {
      std::uint64_t const key = row.key(t);
      if (low_bits == 64 || (key ^ prefix) >> low_bits == 0) body(t, key);
    });
  };
  while (tokens > row_threads) {
    std::uint64_t least = ~std::uint64_t{0}, most = 0;
    each([&](Index, std::uint64_t key) { least = key < least ? key : least, most = key > most ? key : most; });
    range_of_block(least, most);
    if (least == most) {
      // Equal scores have equal weights. The first of them is one more than the sum of none.
      if (thread == 0) next_digit = 0x7fffffff;
      __syncthreads();
      each([&](Index t, std::uint64_t) { atomicMin(&next_digit, static_cast<int>(t)); });
      __syncthreads();
      Weight const weight = row.weight(next_digit), rest = wanted - base;
      Weight const more = by_weight ? (rest + weight - 1) / weight : rest;
      search_row(
          row, warps, bucket, false, [&](Index t) { return row.key(t) == most; }, [](Index) { return Weight{1}; },
          [&](Weight) { return more - 1; },
          [&](Token token) {
            found = {bucket, most, token};
          });
      __syncthreads();
      return {found, kept + more * weight};
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
    if (mine_kept && before + (by_weight ? weights[thread] : 1) >= wanted) found = {bucket, key, token};
  }
  scan_block(mine_kept ? weights[thread] : Weight{0}, warps, total);
  return {found, kept + total};
}

/// Where top-k and then top-p cut a row; a cut in the last bucket or behind it keeps all. All threads of the block.
__device__ inline RowCut cut_row(SelectRow const& row, RowBuckets const& rows, Index b, Index top_k, double top_p, Weight* warps) {
  __shared__ int bucket;
  __shared__ Weight before, up_to;
  __shared__ unsigned tokens;
  int const thread = static_cast<int>(threadIdx.x);
  unsigned const count = rows.count(b)[thread];
  Weight const sum = rows.sum(b)[thread];
  Weight total, counted = 0;
  Weight const sums = scan_block(sum, warps, total);
  RowCut cut{weight_buckets, 0, 0};
  auto const k = static_cast<Weight>(top_k);
  if (top_k > 0) {
    Weight const counts = scan_block(static_cast<Weight>(count), warps, counted);
    if (k < counted) {
      if (counts >= k && counts - count < k) bucket = thread, before = counts - count, up_to = sums - sum, tokens = count;
      __syncthreads();
      auto const found = cut_bucket(row, bucket, tokens, false, before, k, warps);
      cut = found.cut, total = up_to + found.kept;
      __syncthreads();
    }
  }
  if (top_p < 1) {
    Weight const wanted = share_of(top_p, total);
    if (thread == 0) bucket = -1;
    __syncthreads();
    if (sums >= wanted && sums - sum < wanted) bucket = thread, before = sums - sum, tokens = count;
    __syncthreads();
    if (bucket >= 0) {
      auto const found = cut_bucket(row, bucket, tokens, true, before, wanted, warps);
      if (found.cut.before(cut)) cut = found.cut;
    }
  }
  return cut;
}

}  // namespace blackmamba::detail
