// The causal convolution on a GPU, forward, step and backward: checked on a few channels against the reference in double, then
// timed.
//
// Times are medians of graph replays over buffer sets that together exceed the L2 cache. The share is that of the copy bandwidth of
// this run, counting each tensor once.

#include <cstdio>

#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/causal_conv1d.hpp>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

constexpr Index K = 4;

/// causal-conv1d 1.7 on an H100, forward, bf16, channels first: the faster of its two layouts.
constexpr double peer_us = 58;

template <class T>
struct Buffers {
  DeviceTensor<T, 3> x, d_y, y, d_x;
};

void report(char const* what, char const* type, Index B, Index L, Index D, double ms, double bytes, bench::Ceilings const& ceilings,
            double peer) {
  std::printf("%-9s %-5s %3lld %5lld %6lld %9.2f %7.0f %6.1f%%", what, type, B, D, L, 1e3 * ms, bytes / ms * 1e-6,
              1e5 * bytes / ms / ceilings.bytes_per_second);
  if (peer > 0) std::printf("  peer %.0f: %.2fx", peer, 1e-3 * peer / ms);
  std::printf("\n");
}

template <class T>
void run(Cuda const& ctx, bench::Ceilings const& ceilings, Index B, Index L, Index D, double peer) {
  Shape<3> const shape{B, L, D};
  double const tensor = sizeof(T) * static_cast<double>(B) * L * D;
  int const sets = bench::sets_of(tensor);
  auto const weight = bench::random_on_device<T>(ctx, Shape<2>{D, K}, 1);
  auto const bias = bench::random_on_device<T>(ctx, Shape<1>{D}, 2);
  auto const d_weight = bench::random_on_device<float>(ctx, Shape<2>{D, K}, 3);
  auto const d_bias = bench::random_on_device<float>(ctx, Shape<1>{D}, 4);
  std::vector<Buffers<T>> buffers;
  for (int i = 0; i < sets; ++i) {
    auto const stream = static_cast<std::uint64_t>(16 * (i + 1));
    buffers.push_back({bench::random_on_device<T>(ctx, shape, stream), bench::random_on_device<T>(ctx, shape, stream + 1),
                       DeviceTensor<T, 3>{ctx, shape}, DeviceTensor<T, 3>{ctx, shape}});
  }
  auto const forward = [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    causal_conv1d(ctx, CausalConv1dArgs<T>{.x = b.x.view(), .weight = weight.view(), .bias = bias.view(), .y = b.y});
  };
  auto const backward = [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    causal_conv1d_backward(ctx, CausalConv1dBackwardArgs<T>{.x = b.x.view(),
                                                            .weight = weight.view(),
                                                            .bias = bias.view(),
                                                            .d_y = b.d_y.view(),
                                                            .d_x = b.d_x,
                                                            .d_weight = d_weight,
                                                            .d_bias = d_bias});
  };

  // 8 channels of the last entry, from poisoned outputs.
  bench::poison_all(ctx, buffers[0].y, buffers[0].d_x);
  forward(0), backward(0);
  Index const first = D / 2 - 5, count = 8;
  auto const part = [&](DeviceTensor<T, 3> const& from) {
    auto const whole = to_host(ctx, from.view().slice(0, B - 1, 1));
    return converted<double>(whole.view().slice(2, first, count));
  };
  auto const x = part(buffers[0].x), d_y = part(buffers[0].d_y);
  auto const host_weight = converted<double>(to_host(ctx, weight.view().slice(0, first, count)));
  auto const host_bias = converted<double>(to_host(ctx, bias.view().slice(0, first, count)));
  Tensor<double, 3> y{x.shape()}, d_x{x.shape()};
  causal_conv1d(Reference{}, CausalConv1dArgs<double>{.x = x, .weight = host_weight, .bias = host_bias, .y = y});
  causal_conv1d_backward(
      Reference{}, CausalConv1dBackwardArgs<double>{.x = x, .weight = host_weight, .bias = host_bias, .d_y = d_y, .d_x = d_x});
  verify::Cost const cost{.terms = 2.0 * K, .scale = 1};
  bench::expect_close<T>("y", part(buffers[0].y), y, cost);
  bench::expect_close<T>("d_x", part(buffers[0].d_x), d_x, cost);

  char const* const type = scalar_traits<T>::name;
  report("forward", type, B, L, D, bench::milliseconds(ctx, std::max(sets, 4), forward), 2 * tensor, ceilings, peer);
  report("backward", type, B, L, D, bench::milliseconds(ctx, std::max(sets, 4), backward), 3 * tensor, ceilings, 0);
}

template <class T>
void run_step(Cuda const& ctx, bench::Ceilings const& ceilings, Index B, Index D) {
  bench::expect_problem<verify::CausalConv1dStepProblem, T>(ctx, {{.batch = B, .D = D, .K = K, .with_bias = false}});
  struct Set {
    DeviceTensor<T, 2> weight, x, y;
    DeviceTensor<T, 3> state;
  };
  double const bytes = sizeof(T) * (static_cast<double>(K) * D + static_cast<double>(B) * D * (2 + 2 * (K - 1)));
  int const sets = bench::sets_of(bytes);
  std::vector<Set> buffers;
  for (int i = 0; i < sets; ++i) {
    auto const stream = static_cast<std::uint64_t>(16 * (i + 1));
    buffers.push_back({bench::random_on_device<T>(ctx, Shape<2>{D, K}, stream),
                       bench::random_on_device<T>(ctx, Shape<2>{B, D}, stream + 1), DeviceTensor<T, 2>{ctx, Shape<2>{B, D}},
                       bench::random_on_device<T>(ctx, Shape<3>{B, K - 1, D}, stream + 2)});
  }
  double const ms = bench::milliseconds(ctx, std::max(sets, 16), [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    causal_conv1d_step(ctx, CausalConv1dStepArgs<T>{.x = b.x.view(), .weight = b.weight.view(), .state = b.state, .y = b.y});
  });
  report("step", scalar_traits<T>::name, B, 1, D, ms, bytes, ceilings, 0);
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf("causal_conv1d, K 4, bias, silu\nwhat      type    B     D      L        us    GB/s   share   peer us\n");
    run<bf16>(ctx, ceilings, 8, 2048, 2304, peer_us);
    run<bf16>(ctx, ceilings, 8, 2048, 2944, 0);
    run<bf16>(ctx, ceilings, 1, 65536, 2304, 0);
    run<bf16>(ctx, ceilings, 1, 2048, 2304, 0);
    run<float>(ctx, ceilings, 8, 2048, 2304, 0);
    run<blackmamba::half>(ctx, ceilings, 8, 2048, 2304, 0);
    for (Index B : {1, 8, 64, 512}) run_step<bf16>(ctx, ceilings, B, 2304);
  });
}
