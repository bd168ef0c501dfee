// The experts' networks on a GPU, forward and backward: a few rows are checked against the reference in double and the weights'
// gradients against the plain kernels, then all is timed.
//
// Times are medians of graph replays. The rows are spread over the experts at random, as tokens are. With few rows the weights of
// several sets of experts are used in turn, together more than the L2 cache holds, and the share is that of the copy bandwidth of
// this run, of the weights of the experts that have rows; with many it is that of a dense product of 8192³ in this run.

#include <cmath>
#include <cstdio>

#include <blackmamba/ops/expert_mlp/backward_cuda.cuh>
#include <blackmamba/ops/linear/cuda.cuh>

#include "support/product.cuh"

using namespace blackmamba;

namespace {

double dense_flops = 1;  // a second

/// Peers on the same card: cuBLAS for the two dense products of as many rows, 0.337 + 0.168 ms, and PyTorch 2.11's grouped
/// products, 0.340 + 0.188 ms, for 16384 rows of 1152 / 3072; 0.530 + 0.291 ms for 1472 / 3872.
struct Peer {
  Index rows, D;
  double grouped_ms;
};
constexpr Peer peers[]{{16384, 1152, 0.528}, {16384, 1472, 0.821}};

/// Offsets of rows spread at random, over the experts alike, or uneven, the first with most.
Tensor<Index, 1> spread(Index rows, Index E, std::uint64_t seed, bool uneven) {
  Tensor<Index, 1> offsets{Shape{E + 1}};
  for (Index r = 0; r < rows; ++r) {
    auto const u = 0.5 + 0.5 * static_cast<double>(bench::uniform(seed, static_cast<std::uint64_t>(r)));
    ++offsets(1 + std::min(E - 1, static_cast<Index>((uneven ? u * u : u) * static_cast<double>(E))));
  }
  for (Index e = 0; e < E; ++e) offsets(e + 1) += offsets(e);
  return offsets;
}

/// Whatever is compared was rounded to bf16 on the way.
void expect_close(char const* name, verify::Cost const& cost, auto const& got, auto const& expected) {
  bench::expect_close<bf16>(name, got, expected, cost);
}

using T = bf16;

struct Layer {
  DeviceTensor<T, 3> fc1, fc2;
};

void run(Cuda const& ctx, bench::Ceilings const& ceilings, Index rows, Index D, Index F, Index E, bool backward, bool uneven) {
  bool const few = rows <= detail::StreamTuning::rows_an_expert * E;
  auto const fan = [](Index n) { return std::sqrt(3 / static_cast<float>(n)); };
  std::vector<Layer> layers;
  for (std::uint64_t i = 0; i < (few ? 4u : 1u); ++i)
    layers.push_back({bench::random_on_device<T>(ctx, Shape<3>{E, 2 * F, D}, 1 + 2 * i, 0, fan(D)),
                      bench::random_on_device<T>(ctx, Shape<3>{E, D, F}, 2 + 2 * i, 0, fan(F))});
  auto const x = bench::random_on_device<T>(ctx, Shape<2>{rows, D}, 100, 0, 1.7f);
  auto const d_y = bench::random_on_device<T>(ctx, Shape<2>{rows, D}, 101, 0, 1.7f);
  auto const host_offsets = spread(rows, E, 7, uneven);
  auto const offsets = to_device(ctx, host_offsets);
  DeviceTensor<T, 2> const y{ctx, Shape{rows, D}}, d_x{ctx, Shape{rows, D}}, hidden{ctx, Shape{rows, 2 * F}};
  std::vector<DeviceTensor<float, 3>> gradients;
  if (backward) {
    gradients.push_back(bench::random_on_device<float>(ctx, Shape<3>{E, 2 * F, D}, 51));
    gradients.push_back(bench::random_on_device<float>(ctx, Shape<3>{E, D, F}, 52));
  }
  auto const forward_args = [&](int i, bool keep) {
    auto const& layer = layers[static_cast<std::size_t>(i) % layers.size()];
    return ExpertMlpArgs<T>{.x = x.view(),
                            .offsets = offsets.view(),
                            .fc1 = layer.fc1.view(),
                            .fc2 = layer.fc2.view(),
                            .activation = Activation::gelu_erf,
                            .gated = true,
                            .y = y,
                            .hidden = keep ? hidden.view() : View<T, 2>{}};
  };
  auto const backward_args = [&](bool weights, bool inputs) {
    ExpertMlpBackwardArgs<T> a{.x = x.view(),
                               .offsets = offsets.view(),
                               .fc1 = layers[0].fc1.view(),
                               .fc2 = layers[0].fc2.view(),
                               .activation = Activation::gelu_erf,
                               .gated = true,
                               .d_y = d_y.view(),
                               .hidden = hidden.view()};
    if (inputs) a.d_x = d_x;
    if (weights) a.d_fc1 = gradients[0], a.d_fc2 = gradients[1];
    return a;
  };
  bench::poison_all(ctx, y, d_x, hidden);

  // The first and the last rows against the reference in double.
  Index const some = std::min(rows, Index{8});
  if (uneven) std::printf("uneven groups:\n");
  expert_mlp(ctx, forward_args(0, true));
  auto const fc1 = converted<double>(to_host(ctx, layers[0].fc1)), fc2 = converted<double>(to_host(ctx, layers[0].fc2));
  for (Index begin : {Index{0}, rows - some}) {
    auto const part = [&](auto const& of) { return to_host(ctx, of.view().slice(0, begin, some)); };
    Tensor<Index, 1> part_offsets{host_offsets.shape()};
    for (Index e = 0; e <= E; ++e) part_offsets(e) = std::clamp(host_offsets(e) - begin, Index{0}, some);
    auto const part_x = converted<double>(part(x)), part_d_y = converted<double>(part(d_y));
    Tensor<double, 2> part_y{Shape{some, D}}, part_h{Shape{some, 2 * F}}, part_d_x{Shape{some, D}};
    expert_mlp(Reference{}, ExpertMlpArgs<double>{.x = part_x,
                                                  .offsets = part_offsets,
                                                  .fc1 = fc1,
                                                  .fc2 = fc2,
                                                  .activation = Activation::gelu_erf,
                                                  .gated = true,
                                                  .y = part_y,
                                                  .hidden = part_h});
    expect_close("h", {.terms = static_cast<double>(D), .scale = 1}, part(hidden), part_h);
    expect_close("y", {.terms = static_cast<double>(D + F), .roundings = 4, .scale = 1}, part(y), part_y);
    if (!backward) continue;
    expert_mlp_backward(ctx, backward_args(false, true));
    expert_mlp_backward(Reference{}, ExpertMlpBackwardArgs<double>{.x = part_x,
                                                                   .offsets = part_offsets,
                                                                   .fc1 = fc1,
                                                                   .fc2 = fc2,
                                                                   .activation = Activation::gelu_erf,
                                                                   .gated = true,
                                                                   .d_y = part_d_y,
                                                                   .d_x = part_d_x});
    expect_close("d_x", {.terms = static_cast<double>(4 * D), .roundings = 6, .scale = 1}, part(d_x), part_d_x);
  }
  if (backward) {
    auto const scope = ctx.scratch().scope();
    auto const active = ctx.scratch().take<T>(Shape{rows, F}), d_hidden = ctx.scratch().take<T>(Shape{rows, 2 * F});
    detail::Groups const groups{offsets.view(), rows};
    auto const plain1 = bench::random_on_device<float>(ctx, Shape<3>{E, 2 * F, D}, 51);
    auto const plain2 = bench::random_on_device<float>(ctx, Shape<3>{E, D, F}, 52);
    detail::plain_rows(ctx, "plain", groups, View<T const, 2>{d_y}, View<T const, 3>{layers[0].fc2}.transposed(1, 2), {}, active);
    detail::expert_inner(ctx, "plain",
                         detail::ExpertInner<T, true>{groups, Activation::gelu_erf, true, hidden.view(), active,
                                                      View<T const, 2>{active}, d_hidden});
    detail::plain_weights(ctx, "plain", groups, View<T const, 2>{d_y}, View<T const, 2>{active}, plain2.view());
    detail::plain_weights(ctx, "plain", groups, View<T const, 2>{d_hidden}, View<T const, 2>{x}, plain1.view());
    expert_mlp_backward(ctx, backward_args(true, false));
    for (Index e : {Index{0}, E - 1}) {
      verify::Cost const cost{.terms = 2.0 * static_cast<double>(rows), .roundings = 2};
      auto const one = [&](auto const& of) { return to_host(ctx, of.view().slice(0, e, 1)); };
      expect_close("d_fc2", cost, one(gradients[1]), converted<double>(one(plain2)));
      expect_close("d_fc1", cost, one(gradients[0]), converted<double>(one(plain1)));
    }
  }

  double read = 0;
  for (Index e = 0; e < E; ++e)
    if (host_offsets(e) < host_offsets(e + 1)) read += 6.0 * static_cast<double>(D * F);
  double const products = 6.0 * static_cast<double>(rows) * static_cast<double>(D * F);  // of the forward pass
  auto const report = [&](char const* what, double ms, double flops, double bytes) {
    std::printf("%-34s %6lld %5lld %5lld %9.4f %7.1f", what, rows, D, F, ms, flops / ms * 1e-9);
    if (bytes > 0)
      std::printf("  %6.1f%% of copy", 1e5 * bytes / ms / ceilings.bytes_per_second);
    else
      std::printf("  %6.1f%% of dense", 1e5 * flops / ms / dense_flops);
    for (auto const& peer : peers)
      if (peer.rows == rows && peer.D == D && what[0] == 'f' && flops == products)
        std::printf("  grouped peer %.3f: %.2f", peer.grouped_ms, peer.grouped_ms / ms);
    std::printf("\n");
  };
  int const calls = few ? 8 : 4;
  double const bytes = few ? read : 0;
  report("forward", bench::milliseconds(ctx, calls, [&](int i) { expert_mlp(ctx, forward_args(i, false)); }), products, bytes);
  if (few) return;
  report("forward, h kept", bench::milliseconds(ctx, calls, [&](int i) { expert_mlp(ctx, forward_args(i, true)); }), products, 0);
  if (!backward) return;
  detail::Groups const groups{offsets.view(), rows};
  auto const scope = ctx.scratch().scope();
  auto const active = ctx.scratch().take<T>(Shape{rows, F}), d_hidden = ctx.scratch().take<T>(Shape{rows, 2 * F});
  View<T const, 2> const active_in{active}, d_hidden_in{d_hidden};
  auto const a = backward_args(true, true);
  if (detail::has_wgmma(ctx.device())) {
    auto const f = forward_args(0, false);
    auto* const counters = ctx.scratch().take<unsigned>(Shape<1>{detail::cleared_counters}).data();
    detail::TileTurns const turns{counters};
    auto const part = [&](char const* name, double flops, auto&& launch) {
      report(name,
             bench::milliseconds(ctx, calls,
                                 [&](int) {
                                   detail::check_cuda(cudaMemsetAsync(counters, 0, 4, ctx.stream()), "memset");
                                   launch();
                                 }),
             flops, 0);
    };
    part("  up with gate", products / 3 * 2,
         [&] { detail::expert_up<T>(ctx, "up", groups, counters, f.x, f.fc1, {}, f.activation, true, active, {}); });
    part("  down", products / 3, [&] { detail::expert_product<false, T>(ctx, "down", groups, turns, active_in, f.fc2, {}, y); });
    part("  d_h and a", products / 3,
         [&] { detail::expert_d_hidden<T>(ctx, "d_hidden", groups, counters, a, a.hidden, active, d_hidden); });
    part("  d_x", products / 3 * 2,
         [&] { detail::expert_product<true, T>(ctx, "d_x", groups, turns, d_hidden_in, f.fc1, {}, d_x); });
    part("  d_fc2 and d_fc1", products, [&] {
      detail::tensor_weights<T>(ctx, "d_fc", groups, turns,
                                {{a.d_y, active_in, gradients[1].view()}, {d_hidden_in, a.x, gradients[0].view()}});
    });
  }
  report("backward", bench::milliseconds(ctx, calls, [&](int) { expert_mlp_backward(ctx, a); }), 2 * products, 0);
  report("forward and backward",
         bench::milliseconds(ctx, calls,
                             [&](int) {
                               expert_mlp(ctx, forward_args(0, true));
                               expert_mlp_backward(ctx, a);
                             }),
         3 * products, 0);
}

}  // namespace

/// With an argument: the largest case alone, with groups alike and uneven.
int main(int count, char**) {
  return bench::program("every checked output is within its allowed error", [&](Cuda const& ctx, bench::Ceilings const& ceilings) {
    dense_flops = bench::product_flops_per_second(ctx);
    std::printf("8192³ product %.0f TFLOP/s; %s wgmma; top-1 of 8 experts, gelu_erf gate, bf16\n\n", dense_flops * 1e-12,
                detail::has_wgmma(ctx.device()) ? "with" : "without");
    std::printf("what                                 rows     D     F        ms TFLOP/s\n");
    for (bool uneven : {false, true}) run(ctx, ceilings, 16384, 1152, 3072, 8, true, uneven);
    if (count < 2) {
      run(ctx, ceilings, 16384, 1472, 3872, 8, false, false);
      for (Index rows : {2048, 64, 8, 1, 256}) run(ctx, ceilings, rows, 1152, 3072, 8, false, false);
    }
  });
}
