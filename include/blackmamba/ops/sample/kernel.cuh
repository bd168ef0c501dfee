#pragma once
/// \file
/// The kernels of `sample`: scores, weights, and the choice of a row.

#include <blackmamba/core/cuda/context.cuh>
#include <blackmamba/core/cuda/elementwise.cuh>
#include <blackmamba/ops/sample/filters.hpp>
#include <blackmamba/ops/sample/sample.hpp>
#include <blackmamba/ops/sample/select.cuh>

namespace blackmamba::detail {

inline constexpr FaultKind sample_draw_negative{"sample", "draws(", ") is ", ", not at least 0"};
inline constexpr FaultKind sample_history_outside{"sample", "element ", " of the history is ", ", outside the vocabulary"};
inline constexpr FaultKind sample_nan{"sample", "row ", " of the logits has NaN at token ", ""};
inline constexpr FaultKind sample_infinite{"sample", "row ", " of the logits has +inf at token ", ""};
inline constexpr FaultKind sample_nothing{"sample", "row ", " of the logits leaves no token: all ", " are -inf"};

struct SampleFaults {
  FaultSlot *draw, *history, *nan, *infinite, *nothing;
};

inline constexpr int sample_threads = 256;        ///< of blocks that share a row
inline constexpr int sample_window = 1 << 16;     ///< tokens whose marks a block has in shared memory at once
inline constexpr Index most_sample_blocks = 256;  ///< that share a row

/// The largest score of some tokens, the lowest of equals.
template <class S>
struct SampleBest {
  S score;
  Token token;  ///< -1: all are -inf
  int illegal;  ///< whether there is NaN or +inf

  __device__ void join(SampleBest const& other) {
    bool const better = other.token >= 0 && (token < 0 || other.score > score || (other.score == score && other.token < token));
    if (better) score = other.score, token = other.token;
    illegal |= other.illegal;
  }
};

/// Of all threads of the block, in each of them.
template <class S>
__device__ SampleBest<S> best_of_block(SampleBest<S> mine) {
  __shared__ SampleBest<S> warps[32];
  auto const in_warp = [&] {
    for (int step = 16; step > 0; step /= 2)
      mine.join({__shfl_xor_sync(~0u, mine.score, step), __shfl_xor_sync(~0u, mine.token, step),
                 __shfl_xor_sync(~0u, mine.illegal, step)});
  };
  in_warp();
  int const lane = static_cast<int>(threadIdx.x) % 32;
  __syncthreads();
  if (lane == 0) warps[threadIdx.x / 32] = mine;
  __syncthreads();
  mine = lane < static_cast<int>(blockDim.x) / 32 ? warps[lane] : SampleBest<S>{S(0), -1, 0};
  in_warp();
  return mine;
}

/// Marks the tokens [first, first + 32 · words) of a row's history. All threads of the block.
__device__ inline void mark_history(View<Token const, 2> const& history, Index b, Token first, std::uint32_t* marks, int words) {
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) marks[i] = 0;
  __syncthreads();
#pragma unroll 4
  for (Index i = threadIdx.x; i < history.extent(1); i += blockDim.x) {
    Token const token = history(b, i);
    if (token < first) continue;
    auto const at = static_cast<unsigned>(token - first);
    if (at < 32u * static_cast<unsigned>(words)) atomicOr(marks + at / 32, 1u << at % 32);
  }
  __syncthreads();
}
__device__ inline bool marked(std::uint32_t const* marks, int at) { return marks[at / 32] >> at % 32 & 1; }

/// What a row's draw and its history must satisfy; block `part` of `parts` looks at its share.
template <class T>
__device__ void check_row(SampleArgs<T> const& a, SampleFaults const& faults, Index b, Index part, Index parts) {
  if (part == 0 && threadIdx.x == 0 && a.draws && a.draws[b] < 0) report_fault(faults.draw, b, a.draws[b]);
  if (!a.history) return;
  Index const n = a.history.extent(1), V = a.logits.extent(1);
#pragma unroll 4
  for (Index i = part * blockDim.x + threadIdx.x; i < n; i += parts * blockDim.x)
    if (Token const token = a.history(b, i); token >= V) report_fault(faults.history, b * n + i, token);
}

/// Offers a logit, and notes one that no row may have.
template <class S>
__device__ __forceinline__ void offer_logit(SampleBest<S>& best, S score, S logit, Token token, Index b,
                                            SampleFaults const& faults) {
  if (!(logit < S(HUGE_VAL))) {
    best.illegal = 1;
    report_fault(logit == logit ? faults.infinite : faults.nan, b, token);
  } else if (score > best.score || (best.token < 0 && score > -S(HUGE_VAL))) {
    best.score = score, best.token = token;
  }
}

/// The largest logit of each row: a block a row. \param whole  rows are contiguous and aligned to 16 bytes
template <class T, bool Penalty>
__global__ void __launch_bounds__(row_threads)
    sample_greedy_kernel(__grid_constant__ SampleArgs<T> const a, SampleFaults const faults, bool whole) {
  using S = std::conditional_t<Penalty, double, accumulator_t<T>>;
  constexpr int N = lanes_of<T>, ahead = 4;
  __shared__ std::uint32_t marks[Penalty ? sample_window / 32 : 1];
  Index const b = blockIdx.x, V = a.logits.extent(1), stride = a.logits.stride(1);
  T const* const row = a.logits.data() + b * a.logits.stride(0);
  SampleBest<S> best{-S(HUGE_VAL), -1, 0};
  check_row(a, faults, b, 0, 1);
  for (Index first = 0; first < V; first += sample_window) {
    Index const end = first + sample_window < V ? first + sample_window : V;
    if constexpr (Penalty) mark_history(a.history, b, static_cast<Token>(first), marks, sample_window / 32);
    for (Index i = first + Index{threadIdx.x} * N; i < end; i += Index{ahead} * row_threads * N) {
      Lanes<T, N> lanes[ahead];
#pragma unroll
      for (int j = 0; j < ahead; ++j) {
        Index const at = i + Index{j} * row_threads * N;
        int const count = at + N <= end ? N : at < end ? static_cast<int>(end - at) : 0;
        lanes[j] = load_lanes<N>(row + at * stride, stride, whole, count, static_cast<T>(-HUGE_VALF));
      }
#pragma unroll
      for (int j = 0; j < ahead; ++j)
#pragma unroll
        for (int k = 0; k < N; ++k) {
          Index const at = i + Index{j} * row_threads * N + k;
          S const logit = static_cast<S>(device_widen(lanes[j].of[k]));
          S score = logit;
          if constexpr (Penalty)
            if (at < end && marked(marks, static_cast<int>(at - first))) score = penalised(logit, a.options.repetition_penalty);
          offer_logit(best, score, logit, static_cast<Token>(at), b, faults);
        }
    }
    if constexpr (Penalty) __syncthreads();
  }
  best = best_of_block(best);
  if (threadIdx.x > 0) return;
  if (best.token < 0 && !best.illegal) report_fault(faults.nothing, b, V);
  a.tokens[b] = best.token < 0 || best.illegal ? 0 : best.token;
}

/// What the three kernels below leave each other. Rows have `padded` tokens, those beyond the vocabulary in the last bucket.
struct SampleSpace {
  Index V, padded;
  Index span;                ///< tokens of a block, whole tiles
  Index blocks;              ///< of a row
  double* scores;            ///< (B, padded)
  Weight* weights;           ///< (B, padded)
  std::uint16_t* buckets;    ///< (B, padded), where filters need them
  SampleBest<double>* best;  ///< (B, blocks)
  Weight* sums;              ///< (B, blocks)
  RowBuckets rows;           ///< (B) sums over buckets
};

/// Blocks (of a row, rows): scores as doubles, penalised, and the largest.
template <class T>
__global__ void __launch_bounds__(sample_threads)
    sample_scores_kernel(__grid_constant__ SampleArgs<T> const a, SampleFaults const faults,
                         __grid_constant__ SampleSpace const s) {
  __shared__ std::uint32_t marks[sample_tile / 32];
  int const thread = static_cast<int>(threadIdx.x);
  bool const penalty = a.history && a.options.repetition_penalty != 1;
  for (Index b = blockIdx.y; b < a.logits.extent(0); b += gridDim.y) {
    check_row(a, faults, b, blockIdx.x, gridDim.x);
    if (s.buckets)
      for (int i = static_cast<int>(blockIdx.x) * sample_threads + thread; i < weight_buckets;
           i += static_cast<int>(gridDim.x) * sample_threads)
        s.rows.sum(b)[i] = 0, s.rows.count(b)[i] = 0;
    SampleBest<double> best{-HUGE_VAL, -1, 0};
    Index const begin = Index{blockIdx.x} * s.span, end = begin + s.span < s.V ? begin + s.span : s.V;
    for (Index tile = begin; tile < end; tile += sample_tile) {
      if (penalty) mark_history(a.history, b, static_cast<Token>(tile), marks, sample_tile / 32);
#pragma unroll
      for (int k = 0; k < sample_tile / sample_threads; ++k) {
        int const at = k * sample_threads + thread;
        if (tile + at >= end) continue;
        double const logit = static_cast<double>(device_widen(a.logits(b, tile + at)));
        double const score = penalty && marked(marks, at) ? penalised(logit, a.options.repetition_penalty) : logit;
        offer_logit(best, score, logit, static_cast<Token>(tile + at), b, faults);
        s.scores[b * s.padded + tile + at] = score;
      }
      if (penalty) __syncthreads();
    }
    best = best_of_block(best);
    if (thread == 0) s.best[b * s.blocks + blockIdx.x] = best;
  }
}

/// The largest score of a row, from what its blocks found. All threads of a block of at least as many.
__device__ inline SampleBest<double> best_of_row(SampleSpace const& s, Index b) {
  SampleBest<double> best{-HUGE_VAL, -1, 0};
  if (threadIdx.x < s.blocks) best = s.best[b * s.blocks + threadIdx.x];
  return best_of_block(best);
}

/// Blocks (of a row, rows): weights. With `Filters` also their buckets and the sums over buckets, of which a tile's are built in
/// shared memory in three parts that cannot overflow: bits 0 to 21, 22 to 43, and the rest beside the count.
template <bool Filters>
__global__ void __launch_bounds__(sample_threads)
    sample_weights_kernel(Index B, SampleOptions const o, __grid_constant__ SampleSpace const s) {
  constexpr unsigned part = (1u << 22) - 1;
  __shared__ unsigned low[Filters ? weight_buckets : 1], middle[Filters ? weight_buckets : 1], rest[Filters ? weight_buckets : 1];
  __shared__ Weight warps[32];
  int const thread = static_cast<int>(threadIdx.x);
  double const scale = weight_scale(s.V);
  Weight const least = Filters ? 0 : least_weight(o.min_p, s.V);
  for (Index b = blockIdx.y; b < B; b += gridDim.y) {
    auto const best = best_of_row(s, b);
    if (best.illegal || best.token < 0) continue;
    Weight sum = 0;
    Index const begin = Index{blockIdx.x} * s.span, end = begin + s.span < s.padded ? begin + s.span : s.padded;
    for (Index tile = begin; tile < end; tile += sample_tile) {
      if constexpr (Filters) {
        for (int i = thread; i < weight_buckets; i += sample_threads) low[i] = middle[i] = rest[i] = 0;
        __syncthreads();
      }
#pragma unroll
      for (int k = 0; k < sample_tile / sample_threads; ++k) {
        Index const token = tile + k * sample_threads + thread, at = b * s.padded + token;
        double const score = token < s.V ? s.scores[at] : -HUGE_VAL;
        Weight weight = weight_of(score, best.score, o.temperature, scale);
        if (!Filters && weight < least) weight = 0;
        s.weights[at] = weight;
        sum += weight;
        if constexpr (Filters) {
          int const bucket = weight_bucket(score, best.score, o.temperature);
          s.buckets[at] = static_cast<std::uint16_t>(bucket);
          if (bucket < weight_buckets - 1) {
            atomicAdd(low + bucket, static_cast<unsigned>(weight) & part);
            atomicAdd(middle + bucket, static_cast<unsigned>(weight >> 22) & part);
            atomicAdd(rest + bucket, static_cast<unsigned>(weight >> 44) | 1u << 16);
          }
        }
      }
      if constexpr (Filters) {
        __syncthreads();
        for (int i = thread; i < weight_buckets - 1; i += sample_threads)
          if (unsigned const count = rest[i] >> 16)
            s.rows.add(b, i, count,
                       (static_cast<Weight>(rest[i] & 0xffffu) << 44) + (static_cast<Weight>(middle[i]) << 22) + low[i]);
        __syncthreads();
      }
    }
    if constexpr (!Filters) {
      scan_block(sum, warps, sum);
      if (thread == 0) s.sums[b * s.blocks + blockIdx.x] = sum;
    }
  }
}

/// The token of [begin, end) at which the running sum of mass(t), in index order, passes `threshold`: given to `found`, by one
/// thread. All threads of the block.
template <class Mass, class Found>
__device__ void draw_in_range(Index begin, Index end, Weight threshold, Weight* warps, Mass const& mass, Found const& found) {
  Index const each = (end - begin + row_threads - 1) / row_threads;
  Index const from = begin + threadIdx.x * each, to = from + each < end ? from + each : end;
  Weight mine = 0, total;
  for (Index t = from; t < to; ++t) mine += mass(t);
  Weight const after = scan_block(mine, warps, total);
  Weight passed = after - mine;
  if (passed > threshold || after <= threshold) return;
  Index t = from;
  for (Weight more = mass(t); passed + more <= threshold; more = mass(t)) passed += more, ++t;
  found(static_cast<Token>(t));
}

/// A block a row: filters, and the draw.
template <class T, bool Filters>
__global__ void __launch_bounds__(row_threads)
    sample_draw_kernel(__grid_constant__ SampleArgs<T> const a, SampleFaults const faults, __grid_constant__ SampleSpace const s) {
  __shared__ Weight warps[32], threshold;
  __shared__ Index begin;
  int const thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  Index const b = blockIdx.x;
  auto const best = best_of_row(s, b);
  if (best.illegal || best.token < 0) {
    if (thread > 0) return;
    a.tokens[b] = 0;
    if (!best.illegal) report_fault(faults.nothing, b, s.V);
    return;
  }
  Weight const* const weights = s.weights + b * s.padded;
  Index const draw = a.draws ? a.draws[b] : b;
  double const uniform = a.random.uniform(static_cast<std::uint64_t>(draw < 0 ? 0 : draw));

  // The range of the row in which the sum passes: of a block's tokens, or with filters of a warp's.
  Weight mine = 0, total;
  Index length = s.span;
  RowCut cut{};
  Weight const least = Filters ? least_weight(a.options.min_p, s.V) : 0;
  SelectRow const row{s.scores + b * s.padded, weights, Filters ? s.buckets + b * s.padded : nullptr, s.padded};
  auto const mass = [&](Index t) -> Weight {
    if constexpr (Filters) {
      if (!row.kept(cut, t) || weights[t] < least) return 0;
    }
    return weights[t];
  };
  if constexpr (Filters) {
    cut = cut_row(row, s.rows, b, a.options.top_k, a.options.top_p, warps);
    length = s.padded / 32;
    Weight sum = 0;
#pragma unroll 2
    for (Index i = lane * 4; i < length; i += 128) {
      Index const t = warp * length + i;
      ushort4 const four = *reinterpret_cast<ushort4 const*>(row.buckets + t);
      if (four.x <= cut.bucket) sum += mass(t);
      if (four.y <= cut.bucket) sum += mass(t + 1);
      if (four.z <= cut.bucket) sum += mass(t + 2);
      if (four.w <= cut.bucket) sum += mass(t + 3);
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
    __shared__ Weight of_warps[32];
    if (lane == 0) of_warps[warp] = sum;
    __syncthreads();
    if (thread < 32) mine = of_warps[thread];
  } else {
    if (thread < s.blocks) mine = s.sums[b * s.blocks + thread];
  }
  Weight const after = scan_block(mine, warps, total);
  Weight const passes = draw_threshold(uniform, total);
  if (after - mine <= passes && passes < after) threshold = passes - (after - mine), begin = thread * length;
  __syncthreads();
  Index const end = begin + length < s.padded ? begin + length : s.padded;
  draw_in_range(begin, end, threshold, warps, mass, [&](Token token) { a.tokens[b] = token; });
}

}  // namespace blackmamba::detail
