#pragma once
/// \file
/// Cross-entropy on a GPU: the logits are read once.

#include <blackmamba/ops/cross_entropy/cross_entropy.hpp>
#include <blackmamba/ops/softmax/kernel.cuh>

namespace blackmamba {

namespace detail {

inline constexpr FaultKind target_outside{"cross_entropy", "targets(", ") is ", ", which is neither a token nor ignored"};

/// The target of a row, found by one lane and given to the others of the warp: the logit there may be overwritten later.
template <class T>
struct RowTarget {
  Token token;
  accumulator_t<T> logit;
};
template <class T>
__device__ RowTarget<T> row_target(Strided<T const> const& logits, Token const* target, Index row, Index V, Token ignore_index,
                                   int lane) {
  RowTarget<T> out{*target, 0};
  bool const there = out.token != ignore_index && out.token >= 0 && out.token < V;
  if (there && lane == 0) out.logit = device_widen(*logits.at(row, out.token));
  out.logit = __shfl_sync(~0u, out.logit, 0);
  return out;
}

/// See RowUse for what a task is.
template <class T>
struct CrossEntropyTask {
  using A = accumulator_t<T>;
  static constexpr bool writes = false;
  static constexpr int ahead = 4;
  struct Row {
    A target_logit, fill;
  };

  Strided<T const> x;
  View<Token const, 1> targets;
  View<A, 1> losses;
  Index rows, D;
  Token ignore_index;
  A z_coefficient;
  FaultSlot* fault;

  __device__ RowUse begin(Index row, int lane, Row& a) const {
    auto const target = row_target<T>(x, &targets[row], row, D, ignore_index, lane);
    a.target_logit = target.logit;
    if (target.token >= 0 && target.token < D && target.token != ignore_index) return RowUse::read;
    if (lane == 0) {
      losses[row] = target.token == ignore_index ? A(0) : static_cast<A>(__int_as_float(0x7fffffff));
      if (target.token != ignore_index) report_fault(fault, row, target.token);
    }
    return RowUse::fill;
  }
  __device__ void finish(Index row, A max, A rest, bool first, Row& a) const {
    if (!first) return;
    A const log_sum = ::log1p(rest), log_of_all = max + log_sum, loss = log_sum + (max - a.target_logit);
    losses[row] = z_coefficient == A(0) ? loss : loss + z_coefficient * log_of_all * log_of_all;
  }
};

}  // namespace detail

/// Fast where rows are contiguous. A target that is neither a token nor ignored makes the next wait for the context throw, and its
/// loss NaN; the others are as they should be. Two runs give the same bits.
template <Scalar T>
void cross_entropy_on(Cuda const& ctx, CrossEntropyArgs<T> const& a) {
  using Acc = accumulator_t<T>;
  if (a.logits.extent(0) == 0) return;
  detail::run_rows<T>(
      ctx, "cross_entropy",
      detail::CrossEntropyTask<T>{detail::strided(a.logits), a.targets, a.losses, a.logits.extent(0), a.logits.extent(1),
                                  a.ignore_index, static_cast<Acc>(a.z_coefficient), ctx.fault(detail::target_outside)});
}

}  // namespace blackmamba
