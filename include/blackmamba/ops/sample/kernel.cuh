#pragma once
/// \file
/// The kernels of `sample`: scores, weights, and the choice of a row.

#include <blackmamba/core/cuda/context.cuh>
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

inline constexpr int sample_threads = 256;                        ///< of blocks that share a row
inline constexpr int sample_each = sample_tile / sample_threads;  ///< tokens of a tile that a thread has
inline constexpr Index most_sample_blocks = 256;                  ///< that share a row
inline constexpr int sample_together = 4;                         ///< tiles whose marks and sums over buckets a block has at once

/// The largest score of some tokens, the lowest of equals. A score of +inf says that a logit is NaN or +inf.
struct SampleBest {
  double score;
  Token token;

  static constexpr Token none = 0x7fffffff;
  __device__ void join(SampleBest const& other) {
    if (other.score > score || (other.score == score && other.token < token)) *this = other;
  }
  __device__ void join_warp() {
    for (int step = 16; step > 0; step /= 2) join({__shfl_xor_sync(~0u, score, step), __shfl_xor_sync(~0u, token, step)});
  }
  __device__ bool legal() const { return score < HUGE_VAL; }
  __device__ bool drawable() const { return legal() && token != none; }
};

/// Marks the tokens [first, first + 32 · words) of a row's history. All threads of the block.
__device__ inline void mark_history(View<Token const, 2> const& history, Index b, Token first, std::uint32_t* marks, int words) {
  for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) marks[i] = 0;
  __syncthreads();
  constexpr int ahead = 8;
  for (Index i = threadIdx.x; i < history.extent(1); i += Index{ahead} * blockDim.x) {
    Token token[ahead];
#pragma unroll
    for (int j = 0; j < ahead; ++j) token[j] = i + j * blockDim.x < history.extent(1) ? history(b, i + j * blockDim.x) : -1;
#pragma unroll
    for (int j = 0; j < ahead; ++j) {
      if (token[j] < first) continue;
      auto const at = static_cast<unsigned>(token[j] - first);
      if (at < 32u * static_cast<unsigned>(words)) atomicOr(marks + at / 32, 1u << at % 32);
    }
  }
  __syncthreads();
}
__device__ inline bool marked(std::uint32_t const* marks, int at) { return marks[at / 32] >> at % 32 & 1; }

/// What the kernels below leave each other. Rows have `padded` tokens, those beyond the vocabulary in the last bucket.
struct SampleSpace {
  Index V, padded;
  Index span;              ///< tokens of a block, whole tiles
  Index blocks;            ///< of a row
  SampleBest* best;        ///< (B, blocks)
  double* scores;          ///< (B, padded), from here on only with a temperature
  Weight* weights;         ///< (B, padded)
  Weight* sums;            ///< (B, blocks)
  std::uint16_t* buckets;  ///< (B, padded), from here on only where filters need them
  RowBuckets rows;         ///< (B) sums over buckets
};

/// Blocks (of a row, rows): scores as doubles, penalised, and the largest; and what a row's draw and its history must satisfy.
template <class T>
__global__ void __launch_bounds__(sample_threads)
    sample_scores_kernel(__grid_constant__ SampleArgs<T> const a, SampleFaults const faults,
                         __grid_constant__ SampleSpace const s) {
  __shared__ std::uint32_t marks[sample_together * sample_tile / 32];
  __shared__ SampleBest warps[sample_threads / 32];
  int const thread = static_cast<int>(threadIdx.x);
  bool const penalty = a.history && a.options.repetition_penalty != 1;
  for (Index b = blockIdx.y; b < a.logits.extent(0); b += gridDim.y) {
    if (blockIdx.x == 0 && thread == 0 && a.draws && a.draws[b] < 0) report_fault(faults.draw, b, a.draws[b]);
    if (a.history)
      for (Index i = Index{blockIdx.x} * sample_threads + thread; i < a.history.extent(1); i += Index{gridDim.x} * sample_threads)
        if (Token const token = a.history(b, i); token >= s.V) report_fault(faults.history, b * a.history.extent(1) + i, token);
    if (s.buckets)
      for (int i = static_cast<int>(blockIdx.x) * sample_threads + thread; i < weight_buckets;
           i += static_cast<int>(gridDim.x) * sample_threads)
        s.rows.sum(b)[i] = 0, s.rows.count(b)[i] = 0;
    SampleBest best{-HUGE_VAL, SampleBest::none};
    Index const begin = Index{blockIdx.x} * s.span, end = begin + s.span < s.V ? begin + s.span : s.V;
    for (Index tile = begin; tile < end; tile += sample_tile) {
      T logits[sample_each];
#pragma unroll
      for (int k = 0; k < sample_each; ++k) {
        Index const token = tile + k * sample_threads + thread;
        logits[k] = token < end ? a.logits(b, token) : static_cast<T>(-HUGE_VALF);
      }
      auto const in_marks = static_cast<int>((tile - begin) % (sample_together * sample_tile));
      if (penalty && in_marks == 0) mark_history(a.history, b, static_cast<Token>(tile), marks, sample_together * sample_tile / 32);
      bool legal = true;
#pragma unroll
      for (int k = 0; k < sample_each; ++k) {
        int const at = k * sample_threads + thread;
        double const logit = static_cast<double>(device_widen(logits[k]));
        legal = legal && logit < HUGE_VAL;
        double const score = penalty && marked(marks, in_marks + at) ? penalised(logit, a.options.repetition_penalty) : logit;
        if (score > best.score) best = {score, static_cast<Token>(tile + at)};
        if (s.scores && tile + at < end) s.scores[b * s.padded + tile + at] = score;
      }
      if (!legal) {
        best = {HUGE_VAL, 0};
        for (int k = 0; k < sample_each; ++k) {
          auto const logit = device_widen(logits[k]);
          if (logit < HUGE_VAL) continue;
          report_fault(logit == logit ? faults.infinite : faults.nan, b, tile + k * sample_threads + thread);
        }
      }
      if (penalty && in_marks == (sample_together - 1) * sample_tile) __syncthreads();
    }
    best.join_warp();
    __syncthreads();
    if (thread % 32 == 0) warps[thread / 32] = best;
    __syncthreads();
    if (thread > 0) continue;
    for (int w = 1; w < sample_threads / 32; ++w) best.join(warps[w]);
    s.best[b * s.blocks + blockIdx.x] = best;
  }
}

/// The largest score of a row, from what its blocks found. All threads of a warp.
__device__ inline SampleBest best_of_row(SampleSpace const& s, Index b) {
  SampleBest best{-HUGE_VAL, SampleBest::none};
  for (int i = static_cast<int>(threadIdx.x) % 32; i < s.blocks; i += 32) best.join(s.best[b * s.blocks + i]);
  best.join_warp();
  return best;
}

/// The token of a row that is not drawn from: that of the largest score, or 0 and a fault.
__device__ inline void choose_best(View<Token, 1> const& tokens, SampleFaults const& faults, SampleBest const& best, Index b,
                                   Index V) {
  tokens[b] = best.drawable() ? best.token : 0;
  if (best.legal() && best.token == SampleBest::none) report_fault(faults.nothing, b, V);
}

/// At temperature 0: a warp a row.
static __global__ void __launch_bounds__(sample_threads)
    sample_greedy_kernel(__grid_constant__ View<Token, 1> const tokens, SampleFaults const faults,
                         __grid_constant__ SampleSpace const s) {
  Index const b = (Index{blockIdx.x} * sample_threads + threadIdx.x) / 32;
  if (b >= tokens.extent(0)) return;
  auto const best = best_of_row(s, b);
  if (threadIdx.x % 32 == 0) choose_best(tokens, faults, best, b, s.V);
}

/// Blocks (of a row, rows): weights. With `Filters` also their buckets and the sums over buckets, of which those of four tiles are
/// built in shared memory in parts that cannot overflow: bits 0 to 19, 20 to 39, and the rest beside the count.
template <bool Filters>
__global__ void __launch_bounds__(sample_threads)
    sample_weights_kernel(Index B, SampleOptions const o, __grid_constant__ SampleSpace const s) {
  constexpr unsigned part = (1u << 20) - 1;
  constexpr int count_at = 19;
  static_assert(sample_together * sample_tile <= 1 << 12);
  __shared__ unsigned low[Filters ? weight_buckets : 1], middle[Filters ? weight_buckets : 1], rest[Filters ? weight_buckets : 1];
  __shared__ Weight warps[sample_threads / 32];
  int const thread = static_cast<int>(threadIdx.x);
  double const scale = weight_scale(s.V);
  Weight const least = Filters ? 0 : least_weight(o.min_p, s.V);
  for (Index b = blockIdx.y; b < B; b += gridDim.y) {
    Index const begin = Index{blockIdx.x} * s.span, end = begin + s.span < s.padded ? begin + s.span : s.padded;
    auto const best = best_of_row(s, b);
    if (!best.drawable()) continue;
    Weight sum = 0;
    for (Index first = begin; first < end; first += sample_together * sample_tile) {
      if constexpr (Filters) {
        for (int i = thread; i < weight_buckets; i += sample_threads) low[i] = middle[i] = rest[i] = 0;
        __syncthreads();
      }
      Index const last = first + sample_together * sample_tile < end ? first + sample_together * sample_tile : end;
      for (Index tile = first; tile < last; tile += sample_tile) {
        double scores[sample_each];
#pragma unroll
        for (int k = 0; k < sample_each; ++k) {
          Index const token = tile + k * sample_threads + thread;
          scores[k] = token < s.V ? __ldg(s.scores + b * s.padded + token) : -HUGE_VAL;
        }
#pragma unroll
        for (int k = 0; k < sample_each; ++k) {
          Index const at = b * s.padded + tile + k * sample_threads + thread;
          double const distance = distance_of(scores[k], best.score, o.temperature);
          Weight weight = weight_of(distance, scale);
          if (!Filters && weight < least) weight = 0;
          s.weights[at] = weight;
          sum += weight;
          if constexpr (Filters) {
            int const bucket = weight_bucket(distance);
            s.buckets[at] = static_cast<std::uint16_t>(bucket);
            if (bucket < weight_buckets - 1) {
              atomicAdd(low + bucket, static_cast<unsigned>(weight) & part);
              atomicAdd(middle + bucket, static_cast<unsigned>(weight >> 20) & part);
              atomicAdd(rest + bucket, static_cast<unsigned>(weight >> 40) | 1u << count_at);
            }
          }
        }
      }
      if constexpr (Filters) {
        __syncthreads();
        for (int i = thread; i < weight_buckets - 1; i += sample_threads)
          if (unsigned const count = rest[i] >> count_at) {
            Weight const high = rest[i] & ((1u << count_at) - 1);
            s.rows.add(b, i, count, (high << 40) + (static_cast<Weight>(middle[i]) << 20) + low[i]);
          }
        __syncthreads();
      }
    }
    if constexpr (!Filters) {
      for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
      __syncthreads();
      if (thread % 32 == 0) warps[thread / 32] = sum;
      __syncthreads();
      if (thread > 0) continue;
      for (int w = 1; w < sample_threads / 32; ++w) sum += warps[w];
      s.sums[b * s.blocks + blockIdx.x] = sum;
    }
  }
}

/// Threads of the block that draws of a row.
template <bool Filters>
inline constexpr int draw_threads = Filters ? row_threads : sample_threads;

/// What the draw needs of the arguments: nothing of their scalar.
struct SampleDraw {
  SampleOptions options;
  Random random;
  View<Index const, 1> draws;
  View<Token, 1> tokens;
};

/// A block a row: filters, and the draw.
template <bool Filters>
__global__ void __launch_bounds__(draw_threads<Filters>)
    sample_draw_kernel(__grid_constant__ SampleDraw const a, SampleFaults const faults, __grid_constant__ SampleSpace const s) {
  __shared__ Weight warps[32];
  int const thread = static_cast<int>(threadIdx.x);
  Index const b = blockIdx.x, draw = a.draws ? a.draws[b] : b;
  double const uniform = a.random.uniform(static_cast<std::uint64_t>(draw < 0 ? 0 : draw));
  auto const best = best_of_row(s, b);
  if (!best.drawable()) {
    if (thread == 0) choose_best(a.tokens, faults, best, b, s.V);
    return;
  }
  auto const limit = [&](Weight total) { return draw_threshold(uniform, total); };
  auto const found = [&](Token token) { a.tokens[b] = token; };
  SelectRow const row{s.scores + b * s.padded, s.weights + b * s.padded, Filters ? s.buckets + b * s.padded : nullptr, s.padded};
  if constexpr (Filters) {
    int const end = cut_row(row, s.rows, b, a.options.top_k, a.options.top_p, warps);
    Weight const least = least_weight(a.options.min_p, s.V);
    auto const value = [&](Index t) {
      Weight const weight = row.weight(t);
      return weight < least ? 0 : weight;
    };
    search_row(row, warps, 0, end, value, limit, found);
  } else {
    static_assert(most_sample_blocks <= draw_threads<false>);
    __shared__ Weight threshold;
    __shared__ Index begin;
    Weight const mine = thread < s.blocks ? s.sums[b * s.blocks + thread] : 0;
    Weight total;
    Weight const after = scan_block(mine, warps, total), passes = limit(total);
    if (after - mine <= passes && passes < after) threshold = passes - (after - mine), begin = thread * s.span;
    __syncthreads();
    Index const end = begin + s.span < s.padded ? begin + s.span : s.padded;
    search_range(
        begin, end, threshold, warps, [&](Index t) { return row.weight(t); }, found);
  }
}

}  // namespace blackmamba::detail
