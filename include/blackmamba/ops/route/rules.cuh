#pragma once
/// \file
/// How rules that are written for one token run on a GPU, a thread a token, and how they tell of data that are wrong.

#include <algorithm>

#include <blackmamba/core/cuda/overlap.cuh>
#include <blackmamba/ops/route/functions.hpp>
#include <blackmamba/ops/route/route.hpp>

namespace blackmamba::detail {

/// What an operation can find wrong in logits, in the words of the contexts of the host.
struct LogitFaults {
  FaultKind nan, above, below;
};
constexpr LogitFaults logit_faults(char const* op) {
  return {{op, "the logit of token ", " for expert ", " is NaN"},
          {op, "the largest logit of token ", "", " is inf, not finite"},
          {op, "the largest logit of token ", "", " is -inf, not finite"}};
}

/// The expert itself is not told: a fault has room for a token and a slot.
constexpr FaultKind expert_fault(char const* op) { return {op, "the expert of token ", ", slot ", " is outside -1 to E - 1"}; }

/// Whether one token's data are right; the first thing that is wrong is noted. What is absent is not looked at.
template <Scalar T>
struct TokenCheck {
  View<T const, 2> logits{};
  FaultSlot* nan = nullptr;
  FaultSlot* above = nullptr;  // where the largest must be finite
  FaultSlot* below = nullptr;
  View<int const, 2> experts{}, chosen{};
  FaultSlot* outside = nullptr;
  Index E = 0;
  View<T const, 1> bias{};
  FaultSlot* no_bias = nullptr;

  __device__ bool operator()(Index i) const { return names_experts(experts, i) && names_experts(chosen, i) && has_order(i); }

 private:
  __device__ bool names_experts(View<int const, 2> const& view, Index i) const {
    if (!view) return true;
    for (Index s = 0; s < view.extent(1); ++s)
      if (int const e = view(i, s); e < -1 || e >= E) {
        report_fault(outside, i, s);
        return false;
      }
    return true;
  }

  __device__ bool has_order(Index i) const {
    if (bias)
      for (Index j = 0; j < bias.extent(0); ++j)
        if (!gate_finite(widen(bias(j)))) {
          report_fault(no_bias, j);
          return false;
        }
    if (!logits || logits.extent(1) == 0) return true;
    auto top = widen(logits(i, 0));
    for (Index j = 0; j < logits.extent(1); ++j) {
      auto const x = widen(logits(i, j));
      if (x != x) {
        report_fault(nan, i, j);
        return false;
      }
      if (x > top) top = x;
    }
    if (above && !gate_finite(top)) {
      report_fault(top > 0 ? above : below, i);
      return false;
    }
    return true;
  }
};

/// For rules of integers, which nothing can be wrong with.
struct NoCheck {
  __device__ bool operator()(Index) const { return true; }
};

template <Scalar T>
TokenCheck<T> check_of(Cuda const& ctx, LogitFaults const& kinds, View<T const, 2> logits, bool finite = false) {
  TokenCheck<T> out{.logits = logits, .nan = ctx.fault(kinds.nan), .E = logits.extent(1)};
  if (finite) out.above = ctx.fault(kinds.above), out.below = ctx.fault(kinds.below);
  return out;
}

inline constexpr int token_threads = 64;  // few, so that some thousand tokens reach every multiprocessor

template <class Rule, class Check>
__global__ void __launch_bounds__(token_threads)
    token_kernel(Index tokens, __grid_constant__ Rule const rule, __grid_constant__ Check const check) {
  let_next_start();
  await_kernels_before();
  Index const step = Index{gridDim.x} * token_threads;
  for (Index i = Index{blockIdx.x} * token_threads + threadIdx.x; i < tokens; i += step) {
    if (check(i)) {
      rule(i);
    } else if constexpr (requires { rule.refuse(i); }) {
      rule.refuse(i);
    }
  }
}

/// A rule that reads or writes a row of each token's may say which: `rows_read(rule)`, `rows_written(rule)` are its views of them.
/// Where rows are long, a block then brings them through shared memory, so that neighbouring threads touch neighbouring elements.
template <class Rule>
concept ReadsRows = requires(Rule& rule) {
  rows_read(rule);
};
template <class Rule>
concept WritesRows = requires(Rule& rule) {
  rows_written(rule);
};

/// The length of a row in shared memory with which the threads of a warp, a row each, meet different banks.
template <class X>
constexpr Index bank_free_length(Index E) {
  constexpr Index word = sizeof(X) < 4 ? 4 / sizeof(X) : 1;
  Index const words = (E + word - 1) / word;
  return (words + 1 - words % 2) * word;
}

template <class X>
BLACKMAMBA_HOST_DEVICE constexpr Index tile_bytes(Index length) {
  return (token_threads * length * static_cast<Index>(sizeof(X)) + 15) / 16 * 16;
}

/// `lengths` of a row read and of one written, as `bank_free_length` has them.
template <class Rule, class Check>
__global__ void __launch_bounds__(token_threads)
    tile_kernel(Index tokens, __grid_constant__ Rule const given, __grid_constant__ Check const given_check, Index read_length,
                Index written_length) {
  extern __shared__ __align__(16) unsigned char rule_memory[];
  let_next_start();
  await_kernels_before();
  int const warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  Rule rule = given;
  Check check = given_check;
  for (Index first = Index{blockIdx.x} * token_threads; first < tokens; first += Index{gridDim.x} * token_threads) {
    int const rows = tokens - first < token_threads ? static_cast<int>(tokens - first) : token_threads;
    Index offset = 0;
    if constexpr (ReadsRows<Rule>) {
      auto from = given;
      auto const view = rows_read(from);
      using X = typename decltype(view)::value_type;
      auto* const tile = reinterpret_cast<X*>(rule_memory);
      for (int r = warp; r < rows; r += token_threads / 32)
        for (Index j = lane; j < view.extent(1); j += 32) tile[r * read_length + j] = view(first + r, j);
      // Token i is where its rows would be if the tile had those of all tokens.
      View<X const, 2> const here{tile - first * read_length, view.shape(), Shape<2>{read_length, 1}};
      rows_read(rule) = here;
      if constexpr (requires { check.logits = here; })
        if (check.logits) check.logits = here;
      offset = tile_bytes<X>(read_length);
    }
    if constexpr (WritesRows<Rule>) {
      auto& view = rows_written(rule);
      using X = typename std::remove_reference_t<decltype(view)>::value_type;
      view = {reinterpret_cast<X*>(rule_memory + offset) - first * written_length, view.shape(), Shape<2>{written_length, 1}};
    }
    __syncthreads();
    if (Index const i = first + threadIdx.x; i < tokens) {
      if (check(i)) {
        rule(i);
      } else if constexpr (requires { rule.refuse(i); }) {
        rule.refuse(i);
      }
    }
    __syncthreads();
    if constexpr (WritesRows<Rule>) {
      auto to = given;
      auto const view = rows_written(to);
      using X = typename decltype(view)::value_type;
      auto const* const tile = reinterpret_cast<X const*>(rule_memory + offset);
      for (int r = warp; r < rows; r += token_threads / 32)
        for (Index j = lane; j < view.extent(1); j += 32) view(first + r, j) = tile[r * written_length + j];
      __syncthreads();
    }
  }
}

template <class Rule, class Check = NoCheck>
void for_each_token(Cuda const& ctx, char const* op, Index tokens, Rule const& rule, Check const& check = {}) {
  if (tokens == 0) return;
  DeviceScope const device{ctx.device()};
  auto const blocks = static_cast<unsigned>(std::min(ceil_div(tokens, Index{token_threads}), Index{0x7fffffff}));
  if constexpr (ReadsRows<Rule> || WritesRows<Rule>) {
    constexpr Index short_row = 16, most_bytes = 48 * 1024;
    Rule copy = rule;
    Index read_length = 0, written_length = 0, bytes = 0, E = 0;
    if constexpr (ReadsRows<Rule>) {
      using X = typename std::remove_reference_t<decltype(rows_read(copy))>::value_type;
      E = rows_read(copy).extent(1);
      read_length = bank_free_length<X>(E), bytes += tile_bytes<X>(read_length);
    }
    if constexpr (WritesRows<Rule>) {
      using X = typename std::remove_reference_t<decltype(rows_written(copy))>::value_type;
      E = rows_written(copy).extent(1);
      written_length = bank_free_length<X>(E), bytes += tile_bytes<X>(written_length);
    }
    if (E >= short_row && bytes <= most_bytes) {
      return launch_overlapping(ctx, op, &tile_kernel<Rule, Check>, blocks, token_threads, static_cast<std::size_t>(bytes), tokens,
                                rule, check, read_length, written_length);
    }
  }
  launch_overlapping(ctx, op, &token_kernel<Rule, Check>, blocks, token_threads, 0, tokens, rule, check);
}

}  // namespace blackmamba::detail
