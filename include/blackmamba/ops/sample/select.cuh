#pragma once
/// \file
/// Where the filters of `sample` cut a row: one block finds the last token that top-k and top-p keep, in the order of falling
/// scores.
///
/// Counts and sums over buckets of scores tell in which bucket the cut is; of that bucket's tokens each counts those before it.
/// Where there are too many, the bucket is narrowed by the bytes of the scores, and of the tokens for equal scores.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/ops/sample/filters.hpp>
#include <blackmamba/ops/top_k/order.cuh>

namespace blackmamba::detail {

inline constexpr int row_threads = 1024;  ///< of the block of a row: a thread a bucket
inline constexpr int sample_tile = 1024;  ///< tokens that a block weighs at a time
inline constexpr int sample_pad = 4096;   ///< rows are padded to whole pieces of it: each warp of a row's block reads whole fours
static_assert(row_threads == weight_buckets);

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

  __device__ bool before(RowCut const& other) const {
    return bucket != other.bucket ? bucket < other.bucket : key != other.key ? key > other.key : token < other.token;
  }
};

struct SelectRow {
  double const* scores;
  Weight const* weights;
  std::uint16_t const* buckets;
  Index padded;

  /// The last bucket's weights are 0.
  __device__ bool kept(RowCut const& cut, Index t) const {
    int const bucket = buckets[t];
    if (bucket >= weight_buckets - 1) return false;
    if (bucket != cut.bucket) return bucket < cut.bucket;
    std::uint64_t const key = ordered(scores[t]);
    return key > cut.key || (key == cut.key && static_cast<Token>(t) <= cut.token);
  }
};

/// A bucket's tokens under one narrowing: the first `bytes` of 12 that say where a token stands, 8 of its score and 4 of itself.
struct Narrowed {
  int bucket, bytes;
  std::uint64_t key;
  std::uint32_t token;  ///< of those that come first the largest, like the key

  __device__ static int digit(std::uint64_t key, std::uint32_t token, int byte) {
    return static_cast<int>((byte < 8 ? key >> (56 - 8 * byte) : token >> (88 - 8 * byte)) & 255u);
  }
  __device__ bool has(std::uint64_t of_key, std::uint32_t of_token) const {
    if (bytes == 0) return true;
    if (bytes <= 8) return (of_key ^ key) >> (64 - 8 * bytes) == 0;
    return of_key == key && (of_token ^ token) >> (96 - 8 * bytes) == 0;
  }
};

/// Calls body(t, key, ~t) for the tokens of a bucket, from all threads of the block.
template <class Body>
__device__ void each_of_bucket(SelectRow const& row, Narrowed const& in, Body const& body) {
#pragma unroll 4
  for (Index i = Index{threadIdx.x} * 4; i < row.padded; i += row_threads * 4) {
    ushort4 const four = *reinterpret_cast<ushort4 const*>(row.buckets + i);
    unsigned short const bucket[]{four.x, four.y, four.z, four.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (bucket[k] != in.bucket) continue;
      std::uint64_t const key = ordered(row.scores[i + k]);
      auto const token = ~static_cast<std::uint32_t>(i + k);
      if (in.has(key, token)) body(i + k, key, token);
    }
  }
}

/// What `cut_bucket` found.
struct BucketCut {
  RowCut cut;
  Weight kept;  ///< the sum of the bucket's weights up to the cut
};

/// The first token of a bucket, in the order of falling scores, at which `base` and the masses up to it reach `wanted`; a mass is a
/// weight, or 1. It must be there. All threads of the block call it, with the bucket's number of tokens.
__device__ inline BucketCut cut_bucket(SelectRow const& row, int bucket, unsigned tokens, bool by_weight, Weight base,
                                       Weight wanted, Weight* warps) {
  __shared__ std::uint64_t keys[row_threads];
  __shared__ Weight weights[row_threads], digit_sums[256];
  __shared__ Token list[row_threads];
  __shared__ unsigned digit_counts[256], listed;
  __shared__ Narrowed next;
  __shared__ Weight next_base, next_kept;
  __shared__ unsigned next_tokens;
  __shared__ RowCut found;
  int const thread = static_cast<int>(threadIdx.x);
  Narrowed in{bucket, 0, 0, 0};
  Weight kept = 0, total;
  for (; tokens > row_threads; ++in.bytes) {
    if (thread < 256) digit_sums[thread] = 0, digit_counts[thread] = 0;
    __syncthreads();
    each_of_bucket(row, in, [&](Index t, std::uint64_t key, std::uint32_t token) {
      // One addition for all threads of the warp that have the digit of the first: they are often alike.
      int const digit = Narrowed::digit(key, token, in.bytes);
      Weight const weight = row.weights[t];
      unsigned const here = __activemask();
      int const first = __ffs(static_cast<int>(here)) - 1;
      unsigned const alike = __ballot_sync(here, digit == __shfl_sync(here, digit, first));
      auto const add = [&](Weight sum, unsigned count) {
        atomicAdd(reinterpret_cast<unsigned long long*>(digit_sums + digit), static_cast<unsigned long long>(sum));
        atomicAdd(digit_counts + digit, count);
      };
      int const lane = static_cast<int>(threadIdx.x) % 32;
      if (alike == ~0u) {
        Weight sum = weight;
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
        if (lane == 0) add(sum, 32);
      } else {
        add(weight, 1);
      }
    });
    __syncthreads();
    // Digits fall from thread 0 on.
    Weight const sum = thread < 256 ? digit_sums[255 - thread] : 0;
    Weight const count = thread < 256 ? digit_counts[255 - thread] : 0;
    Weight const sums = scan_block(sum, warps, total), counts = scan_block(count, warps, total);
    Weight const after = base + (by_weight ? sums : counts), mass = by_weight ? sum : count;
    if (after >= wanted && after - mass < wanted) {
      next = in;
      auto const digit = static_cast<std::uint64_t>(255 - thread);
      if (in.bytes < 8)
        next.key |= digit << (56 - 8 * in.bytes);
      else
        next.token |= static_cast<std::uint32_t>(digit << (88 - 8 * in.bytes));
      next_base = after - mass, next_kept = kept + sums - sum, next_tokens = static_cast<unsigned>(count);
    }
    __syncthreads();
    in = next, base = next_base, kept = next_kept, tokens = next_tokens;
    __syncthreads();
  }
  if (thread == 0) listed = 0;
  __syncthreads();
  each_of_bucket(row, in, [&](Index t, std::uint64_t key, std::uint32_t) {
    unsigned const at = atomicAdd(&listed, 1u);
    keys[at] = key, weights[at] = row.weights[t], list[at] = static_cast<Token>(t);
  });
  __syncthreads();
  int const count = static_cast<int>(listed);
  bool mine_kept = false;
  if (thread < count) {
    std::uint64_t const key = keys[thread];
    Token const token = list[thread];
    Weight before = base;
    for (int i = 0; i < count; ++i)
      if (keys[i] > key || (keys[i] == key && list[i] < token)) before += by_weight ? weights[i] : 1;
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
