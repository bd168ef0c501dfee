// The backward pass of the selective scan on a GPU: checked on a few channels against the reference in double, then timed.
//
// Times are medians of graph replays over buffer sets that together exceed the L2 cache. The floor is the larger of three times, by
// ceilings measured in this run: the bytes that must move (7 tensors, B, C and their gradients) over the copy bandwidth; special
// functions (an exponential for each state forward, one more on the way back, and 5 for a step size and a gate, twice); and 13
// multiply-adds a state on the way back beside 6 forward.

#include <cstdio>

#include <blackmamba/cuda.cuh>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

struct Case {
  Index B, L, D;
  double peer_milliseconds;  ///< mamba_ssm 2.3.2 on an H100; 0: not measured
};

constexpr Index N = 16;

template <class T>
struct Buffers {
  DeviceTensor<T, 3> u, delta, z, d_y, d_u, d_delta, d_z;
  DeviceTensor<T, 4> B, C, d_B, d_C;
};

/// The channels [first, first + count) of entry b of a device tensor, on the host, in double.
template <class T>
Tensor<double, 3> part(Cuda const& ctx, View<T, 3> from, Index b, Index first, Index count) {
  auto const whole = to_host(ctx, from.slice(0, b, 1));
  return converted<double>(whole.view().slice(2, first, count));
}

template <class T>
void run(Cuda const& ctx, bench::Ceilings const& ceilings, Case const& c) {
  Shape<3> const shape{c.B, c.L, c.D};
  Shape<4> const bc{c.B, c.L, 1, N};
  double const elements = static_cast<double>(c.B) * c.L * c.D;
  double const bytes = sizeof(T) * (7 * elements + 4.0 * c.B * c.L * N);
  int const sets = bench::sets_of(bytes);
  auto const A = bench::random_on_device<float>(ctx, Shape<2>{c.D, N}, 1, -2, 1.9f);
  auto const D = bench::random_on_device<T>(ctx, Shape<1>{c.D}, 2);
  auto const bias = bench::random_on_device<T>(ctx, Shape<1>{c.D}, 3, -1, 0.5f);
  auto const d_A = bench::random_on_device<float>(ctx, Shape<2>{c.D, N}, 4);
  auto const d_D = bench::random_on_device<float>(ctx, Shape<1>{c.D}, 5),
             d_bias = bench::random_on_device<float>(ctx, Shape<1>{c.D}, 6);
  std::vector<Buffers<T>> buffers;
  for (int i = 0; i < sets; ++i) {
    auto const stream = static_cast<std::uint64_t>(16 * (i + 1));
    buffers.push_back({bench::random_on_device<T>(ctx, shape, stream), bench::random_on_device<T>(ctx, shape, stream + 1, -1, 2),
                       bench::random_on_device<T>(ctx, shape, stream + 2, 0, 2), bench::random_on_device<T>(ctx, shape, stream + 3),
                       DeviceTensor<T, 3>{ctx, shape}, DeviceTensor<T, 3>{ctx, shape}, DeviceTensor<T, 3>{ctx, shape},
                       bench::random_on_device<T>(ctx, bc, stream + 4), bench::random_on_device<T>(ctx, bc, stream + 5),
                       DeviceTensor<T, 4>{ctx, bc}, DeviceTensor<T, 4>{ctx, bc}});
  }
  auto const launch = [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    selective_scan_backward(ctx, SelectiveScanBackwardArgs<T>{.u = b.u.view(),
                                                              .delta = b.delta.view(),
                                                              .A = A.view(),
                                                              .B = b.B.view(),
                                                              .C = b.C.view(),
                                                              .D = D.view(),
                                                              .z = b.z.view(),
                                                              .delta_bias = bias.view(),
                                                              .delta_softplus = true,
                                                              .d_y = b.d_y.view(),
                                                              .d_u = b.d_u,
                                                              .d_delta = b.d_delta,
                                                              .d_A = d_A,
                                                              .d_B = b.d_B,
                                                              .d_C = b.d_C,
                                                              .d_D = d_D,
                                                              .d_z = b.d_z,
                                                              .d_delta_bias = d_bias});
  };

  // 8 channels of the last entry, beside a tile's edge, from poisoned outputs.
  auto const& b0 = buffers[0];
  bench::poison_all(ctx, b0.d_u, b0.d_delta, b0.d_z, b0.d_B, b0.d_C);
  launch(0);
  Index const first = c.D / 2 - 5, count = 8, b = c.B - 1;
  auto const of = [&](auto const& tensor) { return part(ctx, tensor.view(), b, first, count); };
  auto const u = of(b0.u), delta = of(b0.delta), z = of(b0.z), d_y = of(b0.d_y);
  auto const host_A = converted<double>(to_host(ctx, A.view().slice(0, first, count)));
  auto const host_B = converted<double>(to_host(ctx, b0.B.view().slice(0, b, 1)));
  auto const host_C = converted<double>(to_host(ctx, b0.C.view().slice(0, b, 1)));
  auto const host_D = converted<double>(to_host(ctx, D.view().slice(0, first, count)));
  auto const host_bias = converted<double>(to_host(ctx, bias.view().slice(0, first, count)));
  Tensor<double, 3> d_u{u.shape()}, d_delta{u.shape()}, d_z{u.shape()};
  selective_scan_backward(Reference{}, SelectiveScanBackwardArgs<double>{.u = u,
                                                                         .delta = delta,
                                                                         .A = host_A,
                                                                         .B = host_B,
                                                                         .C = host_C,
                                                                         .D = host_D,
                                                                         .z = z,
                                                                         .delta_bias = host_bias,
                                                                         .delta_softplus = true,
                                                                         .d_y = d_y,
                                                                         .d_u = d_u,
                                                                         .d_delta = d_delta,
                                                                         .d_z = d_z});
  verify::Cost const cost{.terms = static_cast<double>(N + 2 * c.L)};
  double worst = 0, share = 0;
  auto const compare = [&](char const* name, Tensor<double, 3> const& got, Tensor<double, 3> const& expected) {
    auto const comparison = bench::expect_close<T>(name, got, expected, cost);
    worst = std::max(worst, comparison.scaled()), share = std::max(share, comparison.share);
  };
  compare("d_u", of(b0.d_u), d_u), compare("d_delta", of(b0.d_delta), d_delta), compare("d_z", of(b0.d_z), d_z);

  double const ms = bench::milliseconds(ctx, std::max(sets, 4), launch);
  double const moved = 1e3 * bytes / ceilings.bytes_per_second, special = 1e3 * elements * (2 * N + 10) / ceilings.exps_per_second,
               multiplied = 1e3 * elements * 19 * N / ceilings.fmas_per_second, floor = std::max({moved, special, multiplied});
  std::printf("%-5s %2lld %5lld %6lld %9.4f | %6.3f %6.3f %6.3f | %5.1f%% %8.3f %6s  %9.2e of scale, %.2f of allowed\n",
              scalar_traits<T>::name, c.B, c.D, c.L, ms, moved, special, multiplied, 100 * floor / ms, c.peer_milliseconds,
              c.peer_milliseconds > 0 ? concat(static_cast<int>(100 * c.peer_milliseconds / ms) / 100.0, "x").c_str() : "-", worst,
              share);
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf(
        "selective_scan_backward, N 16, D, z, delta_bias, softplus, every gradient but of states; floors in ms\n"
        "type   B     D      L        ms |  bytes   exps   fmas | share  peer ms  ratio  worst error\n");
    for (Case const& c : {Case{8, 2048, 2304, 2.764}, Case{8, 2048, 2944, 3.523}, Case{1, 2048, 2304, 0.439},
                          Case{1, 65536, 2304, 11.69}, Case{64, 256, 2304, 3.203}, Case{8, 2049, 2304, 0}})
      run<bf16>(ctx, ceilings, c);
    run<float>(ctx, ceilings, {8, 2048, 2304, 3.060});
    run<blackmamba::half>(ctx, ceilings, {8, 2048, 2304, 0});
  });
}
