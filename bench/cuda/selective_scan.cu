// The selective scan and its step on a GPU: checked on a few channels against the reference in double, then timed.
//
// Times are medians of graph replays over buffer sets that together exceed the L2 cache. The floor is the larger of the bytes that
// must move over the copy bandwidth, and the special functions (N + 3 an element) over their rate, both measured in this run.

#include <cstdio>

#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/selective_scan.hpp>

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
  DeviceTensor<T, 3> u, delta, z, y;
  DeviceTensor<T, 4> B, C;
};

/// The channels [first, first + count) of entry b of a device tensor, on the host, in double.
template <class T>
Tensor<double, 3> part(Cuda const& ctx, View<T, 3> from, Index b, Index first, Index count) {
  auto const whole = to_host(ctx, from.slice(0, b, 1));
  return converted<double>(whole.view().slice(2, first, count));
}

template <class T>
void run_scan(Cuda const& ctx, bench::Ceilings const& ceilings, Case const& c) {
  Shape<3> const shape{c.B, c.L, c.D};
  Shape<4> const bc{c.B, c.L, 1, N};
  double const elements = static_cast<double>(c.B) * c.L * c.D;
  double const bytes = sizeof(T) * (4 * elements + 2.0 * c.B * c.L * N);
  int const sets = bench::sets_of(bytes);
  auto const A = bench::random_on_device<float>(ctx, Shape<2>{c.D, N}, 1, -2, 1.9f);
  auto const D = bench::random_on_device<T>(ctx, Shape<1>{c.D}, 2);
  auto const bias = bench::random_on_device<T>(ctx, Shape<1>{c.D}, 3, -1, 0.5f);
  std::vector<Buffers<T>> buffers;
  for (int i = 0; i < sets; ++i) {
    auto const stream = static_cast<std::uint64_t>(16 * (i + 1));
    buffers.push_back({bench::random_on_device<T>(ctx, shape, stream), bench::random_on_device<T>(ctx, shape, stream + 1, -1, 2),
                       bench::random_on_device<T>(ctx, shape, stream + 2, 0, 2), DeviceTensor<T, 3>{ctx, shape},
                       bench::random_on_device<T>(ctx, bc, stream + 3), bench::random_on_device<T>(ctx, bc, stream + 4)});
  }
  auto const launch = [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    selective_scan(ctx, SelectiveScanArgs<T>{.u = b.u.view(),
                                             .delta = b.delta.view(),
                                             .A = A.view(),
                                             .B = b.B.view(),
                                             .C = b.C.view(),
                                             .D = D.view(),
                                             .z = b.z.view(),
                                             .delta_bias = bias.view(),
                                             .delta_softplus = true,
                                             .y = b.y});
  };

  // 8 channels of the last entry, beside a tile's edge, from poisoned outputs.
  auto const& b0 = buffers[0];
  bench::poison(ctx, b0.y);
  launch(0);
  Index const first = c.D / 2 - 5, count = 8;
  auto const u = part(ctx, b0.u.view(), c.B - 1, first, count), delta = part(ctx, b0.delta.view(), c.B - 1, first, count),
             z = part(ctx, b0.z.view(), c.B - 1, first, count), got = part(ctx, b0.y.view(), c.B - 1, first, count);
  auto const host_A = converted<double>(to_host(ctx, A.view().slice(0, first, count)));
  auto const host_B = converted<double>(to_host(ctx, b0.B.view().slice(0, c.B - 1, 1)));
  auto const host_C = converted<double>(to_host(ctx, b0.C.view().slice(0, c.B - 1, 1)));
  auto const host_D = converted<double>(to_host(ctx, D.view().slice(0, first, count)));
  auto const host_bias = converted<double>(to_host(ctx, bias.view().slice(0, first, count)));
  Tensor<double, 3> expected{u.shape()};
  selective_scan(Reference{}, SelectiveScanArgs<double>{.u = u,
                                                        .delta = delta,
                                                        .A = host_A,
                                                        .B = host_B,
                                                        .C = host_C,
                                                        .D = host_D,
                                                        .z = z,
                                                        .delta_bias = host_bias,
                                                        .delta_softplus = true,
                                                        .y = expected});
  verify::Cost const cost{.terms = static_cast<double>(N + c.L)};
  auto const comparison = bench::expect_close<T>("y", got, expected, cost);

  double const ms = bench::milliseconds(ctx, std::max(sets, 4), launch);
  double const exps = elements * (N + 3);
  double const floor = 1e3 * std::max(bytes / ceilings.bytes_per_second, exps / ceilings.exps_per_second);
  std::printf("%-5s %2lld %5lld %6lld %9.4f %7.0f %6.1f%% %7.0f %6.1f%% %9.4f %6.1f%% %8.3f %6s  %9.2e of scale, %.2f of allowed\n",
              scalar_traits<T>::name, c.B, c.D, c.L, ms, bytes / ms * 1e-6, 1e5 * bytes / ms / ceilings.bytes_per_second,
              exps / ms * 1e-6, 1e5 * exps / ms / ceilings.exps_per_second, floor, 100 * floor / ms, c.peer_milliseconds,
              c.peer_milliseconds > 0 ? concat(static_cast<int>(100 * c.peer_milliseconds / ms) / 100.0, "x").c_str() : "-",
              comparison.scaled(), comparison.share);
}

template <class T>
void run_step(Cuda const& ctx, bench::Ceilings const& ceilings, Index batch, Index channels) {
  bench::expect_problem<verify::SelectiveScanStepProblem, T>(
      ctx, {{.batch = std::min(batch, Index{64}), .D = channels, .N = N, .with_D = false, .with_bias = false}});
  Shape<2> const shape{batch, channels};
  double const bytes = 8.0 * batch * channels * N + 4.0 * channels * N + sizeof(T) * (4.0 * batch * channels + 2.0 * batch * N);
  int const sets = bench::sets_of(bytes);
  struct Set {
    DeviceTensor<float, 2> A;
    DeviceTensor<float, 3> state;
    DeviceTensor<T, 2> u, delta, z, y;
    DeviceTensor<T, 3> B, C;
  };
  std::vector<Set> buffers;
  for (int i = 0; i < sets; ++i) {
    auto const stream = static_cast<std::uint64_t>(16 * (i + 1));
    Shape<3> const bc{batch, 1, N};
    buffers.push_back({bench::random_on_device<float>(ctx, Shape<2>{channels, N}, stream, -2, 1.9f),
                       bench::random_on_device<float>(ctx, Shape<3>{batch, channels, N}, stream + 1),
                       bench::random_on_device<T>(ctx, shape, stream + 2),
                       bench::random_on_device<T>(ctx, shape, stream + 3, -1, 2),
                       bench::random_on_device<T>(ctx, shape, stream + 4), DeviceTensor<T, 2>{ctx, shape},
                       bench::random_on_device<T>(ctx, bc, stream + 5), bench::random_on_device<T>(ctx, bc, stream + 6)});
  }
  double const ms = bench::milliseconds(ctx, std::max(sets, 16), [&](int i) {
    auto const& b = buffers[static_cast<std::size_t>(i % sets)];
    selective_scan_step(ctx, SelectiveScanStepArgs<T>{.u = b.u.view(),
                                                      .delta = b.delta.view(),
                                                      .A = b.A.view(),
                                                      .B = b.B.view(),
                                                      .C = b.C.view(),
                                                      .z = b.z.view(),
                                                      .delta_softplus = true,
                                                      .state = b.state,
                                                      .y = b.y});
  });
  std::printf("%-5s %3lld %5lld %9.2f us, %7.0f GB/s, bytes' time %6.2f us, excess %6.2f us\n", scalar_traits<T>::name, batch,
              channels, 1e3 * ms, bytes / ms * 1e-6, 1e6 * bytes / ceilings.bytes_per_second,
              1e3 * ms - 1e6 * bytes / ceilings.bytes_per_second);
}

}  // namespace

int main() {
  return bench::program("every checked output is within its allowed error", [](Cuda const& ctx, bench::Ceilings const& ceilings) {
    std::printf(
        "selective_scan, N 16, D, z, delta_bias, softplus\n"
        "type   B     D      L        ms    GB/s  share  Gexp/s  share  floor ms  share  peer ms  ratio  worst error\n");
    for (Case const& c :
         {Case{8, 2048, 2304, 0.670}, Case{8, 2048, 2944, 0.847}, Case{1, 2048, 2304, 0.107}, Case{1, 65536, 2304, 3.674},
          Case{64, 256, 2304, 0.648}, Case{8, 1024, 2304, 0}, Case{8, 1025, 2304, 0}, Case{8, 2049, 2304, 0}})
      run_scan<bf16>(ctx, ceilings, c);
    run_scan<float>(ctx, ceilings, {8, 2048, 2304, 1.308});
    run_scan<blackmamba::half>(ctx, ceilings, {8, 2048, 2304, 0});
    std::printf("\nselective_scan_step, N 16, z, softplus\n");
    for (Index batch : {1, 8, 64, 512}) run_step<bf16>(ctx, ceilings, batch, 2304);
  });
}
