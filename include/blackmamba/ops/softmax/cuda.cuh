#pragma once
/// \file
/// Softmax and log-softmax on a GPU.

#include <blackmamba/ops/softmax/kernel.cuh>
#include <blackmamba/ops/softmax/softmax.hpp>

namespace blackmamba {

namespace detail {

/// See RowUse for what a task is.
template <class T>
struct SoftmaxTask {
  using A = accumulator_t<T>;
  static constexpr bool writes = true;
  static constexpr int ahead = 4;
  struct Row {
    ExpBelow<T> exp_below;
    A max, scale, log_sum, fill;
  };

  Strided<T const> x;
  Strided<T> y;
  Index rows, D;
  bool logarithm;

  __device__ RowUse begin(Index, int, Row&) const { return RowUse::read; }
  __device__ void finish(Index, A max, A rest, bool, Row& a) const {
    a.exp_below = ExpBelow<T>{max}, a.max = max, a.scale = 1 / (1 + rest), a.log_sum = logarithm ? ::log1p(rest) : A(0);
  }
  __device__ A of(A x, Row const& a) const { return logarithm ? x - a.max - a.log_sum : a.exp_below(x) * a.scale; }
  template <int V>
  __device__ void correct(Index, Lanes<T, V>&, Row const&) const {}
};

}  // namespace detail

/// Fast where rows are contiguous; two runs give the same bits.
template <Scalar T>
void softmax_on(Cuda const& ctx, SoftmaxArgs<T> const& a) {
  detail::run_rows<T>(ctx, "softmax",
                      detail::SoftmaxTask<T>{detail::strided(a.x), detail::strided(a.y), a.x.extent(0), a.x.extent(1), false});
}

/// As `softmax`.
template <Scalar T>
void log_softmax_on(Cuda const& ctx, SoftmaxArgs<T> const& a) {
  detail::run_rows<T>(ctx, "log_softmax",
                      detail::SoftmaxTask<T>{detail::strided(a.x), detail::strided(a.y), a.x.extent(0), a.x.extent(1), true});
}

}  // namespace blackmamba
