#pragma once
/// \file
/// How rules that are written for one token run on a GPU, a thread a token, and how they tell of data that are wrong.

#include <algorithm>

#include <blackmamba/core/cuda/context.cuh>
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
  Index const step = Index{gridDim.x} * token_threads;
  for (Index i = Index{blockIdx.x} * token_threads + threadIdx.x; i < tokens; i += step) {
    if (check(i)) {
      rule(i);
    } else if constexpr (requires { rule.refuse(i); }) {
      rule.refuse(i);
    }
  }
}

template <class Rule, class Check = NoCheck>
void for_each_token(Cuda const& ctx, char const* op, Index tokens, Rule const& rule, Check const& check = {}) {
  if (tokens == 0) return;
  DeviceScope const device{ctx.device()};
  Index const blocks = std::min((tokens + token_threads - 1) / token_threads, Index{0x7fffffff});
  token_kernel<<<static_cast<unsigned>(blocks), token_threads, 0, ctx.stream()>>>(tokens, rule, check);
  check_launch(op);
}

}  // namespace blackmamba::detail
