#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/selective_scan.hpp>

#include "cuda/support.cuh"

using namespace blackmamba;
using verify::ProjectedScanStepProblem;

namespace {

/// The published sizes of a Mamba block's step.
struct Block {
  Index batch, D = 2304, N = 16, R = 72;
  Tensor<bf16, 2> u = test::random_tensor<bf16>(Shape{batch, D}, 1), dbc = test::random_tensor<bf16>(Shape{batch, R + 2 * N}, 2),
                  weight = test::random_tensor<bf16>(Shape{D, R}, 3, 0.1), A_log = test::random_tensor<bf16>(Shape{D, N}, 4),
                  xz = test::random_tensor<bf16>(Shape{batch, 2 * D}, 5);
  Tensor<bf16, 1> skip = test::random_tensor<bf16>(Shape{D}, 6), bias = test::random_tensor<bf16>(Shape{D}, 7, 0.1);
  Tensor<float, 3> state = test::random_tensor<float>(Shape{batch, D, N}, 8);
};

/// Outputs and states after `steps`.
struct Result {
  Tensor<bf16, 2> y;
  Tensor<float, 3> state;
};

Result run(Cuda const& ctx, Block const& p, Index steps, bool graph, bool at_rest) {
  auto const u = to_device(ctx, p.u), dbc = to_device(ctx, p.dbc), weight = to_device(ctx, p.weight),
             A_log = to_device(ctx, p.A_log), xz = to_device(ctx, p.xz);
  auto const skip = to_device(ctx, p.skip), bias = to_device(ctx, p.bias);
  auto const state = to_device(ctx, p.state);
  DeviceTensor<bf16, 2> const y{ctx, p.u.shape()};
  ctx.synchronize();
  auto const groups = [&](View<bf16 const, 2> rows) {
    return View<bf16 const, 3>{rows.data(), Shape<3>{p.batch, 1, p.N}, Shape<3>{rows.stride(0), p.N, 1}};
  };
  View<bf16 const, 2> const all{dbc.view()};
  auto const step = [&] {
    projected_scan_step(ctx, ProjectedScanStepArgs<bf16>{.u = u.view(),
                                                         .dt = all.slice(1, 0, p.R),
                                                         .dt_weight = weight.view(),
                                                         .A_log = A_log.view(),
                                                         .B = groups(all.slice(1, p.R, p.N)),
                                                         .C = groups(all.slice(1, p.R + p.N, p.N)),
                                                         .D = skip.view(),
                                                         .z = View<bf16 const, 2>{xz.view()}.slice(1, p.D, p.D),
                                                         .delta_bias = bias.view(),
                                                         .delta_softplus = true,
                                                         .state = state.view(),
                                                         .y = y.view()});
  };
  auto const queue = [&] {
    if (at_rest) {
      AtRest<Cuda> const weights_are{ctx};
      step();
    } else {
      step();
    }
  };
  if (graph) {
    test::Graph const recorded{ctx, queue};
    for (Index i = 0; i < steps; ++i) recorded.replay();
  } else {
    for (Index i = 0; i < steps; ++i) queue();
  }
  return {to_host(ctx, y), to_host(ctx, state)};
}

}  // namespace

GPU_TEST_TEMPLATE("projected_scan_step on a GPU holds to the double reference for every scalar and shape", T, float, double,
                  blackmamba::half, bf16) {
  auto const report = verify::check<ProjectedScanStepProblem, T>(Cuda{});
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

GPU_TEST("projected_scan_step on a GPU: the same bits again, from a graph, and with weights at rest") {
  Cuda const ctx;
  for (Index const batch : {1, 3, 64}) {
    Block const p{batch};
    auto const first = run(ctx, p, 3, false, false);
    for (int bits = 0; bits < 4; ++bits) {
      auto const again = run(ctx, p, 3, (bits & 1) != 0, (bits & 2) != 0);
      CHECK(test::same_bits(again.y, first.y));
      CHECK(test::same_bits(again.state, first.state));
    }
  }
}

GPU_TEST("projected_scan_step on a GPU: an entry of the batch has the bits that it has alone") {
  Cuda const ctx;
  Block const many{64};
  auto const together = run(ctx, many, 1, false, false);
  for (Index const b : {0, 4, 5, 63}) {
    Block one{1};
    for (Index i = 0; i < one.D; ++i) one.u(0, i) = many.u(b, i);
    for (Index i = 0; i < 2 * one.D; ++i) one.xz(0, i) = many.xz(b, i);
    for (Index i = 0; i < one.R + 2 * one.N; ++i) one.dbc(0, i) = many.dbc(b, i);
    for (Index i = 0; i < one.D * one.N; ++i) one.state.data()[i] = many.state.data()[b * one.D * one.N + i];
    auto const alone = run(ctx, one, 1, false, false);
    bool same = true;
    for (Index i = 0; i < one.D; ++i) same = same && alone.y(0, i).bits == together.y(b, i).bits;
    CHECK(same);
  }
}
