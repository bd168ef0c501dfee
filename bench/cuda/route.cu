// What routers cost on a GPU: the operations that they are made of, then every router of the list, in training with its way back.
// First every operation is checked at its size, from poisoned outputs, against the reference, and every router's choices and
// weights against the CPU's.
//
// Times are medians of graph replays. A layer's logits are small and its router runs right after the product that made them, so
// they are in the cache here too; bytes are those of the logits, each read once, and the share is that of the copy bandwidth of
// this run. What bounds such small work is the number of kernels that follow one another: the floor is that of empty ones.

#include <cmath>
#include <cstdio>

#include <blackmamba/cuda.cuh>

#include <blackmamba/layers/routers/list.hpp>
#include <blackmamba/verify/problems/route.hpp>
#include <blackmamba/verify/problems/route_gates.hpp>

#include "support/cuda.cuh"

using namespace blackmamba;

namespace {

using T = bf16;

struct Size {
  Index tokens, E, k;
};

__global__ void empty_kernel() {}

void report(char const* what, Size const& s, double ms, bench::Ceilings const& ceilings) {
  double const bytes = static_cast<double>(s.tokens * s.E) * sizeof(T);
  std::printf("%-28s %6lld %4lld %2lld %9.2f %9.1f %6.1f%%\n", what, s.tokens, s.E, s.k, 1e3 * ms,
              static_cast<double>(s.tokens) / ms * 1e-3, 1e5 * bytes / ms / ceilings.bytes_per_second);
}

template <class A, int Rank>
void expect_same(char const* what, DeviceTensor<A, Rank> const& got, Tensor<A, Rank> const& expected, Cuda const& ctx) {
  auto const there = to_host(ctx, got);
  Index wrong = 0;
  for (Index i = 0; i < there.size(); ++i) wrong += there.data()[i] != expected.data()[i];
  bench::expect(wrong == 0, concat(what, ": ", wrong, " of ", there.size()));
}

/// Choices of two contexts, whose scores differ by rounding: one in a thousand may fall between two that are equal up to that.
void expect_alike(char const* what, Tensor<int, 2> const& experts, Tensor<float, 2> const& weights, Tensor<int, 2> const& expected,
                  Tensor<float, 2> const& expected_weights) {
  Index others = 0;
  float worst = 0;
  for (Index i = 0; i < experts.size(); ++i) {
    if (experts.data()[i] != expected.data()[i])
      ++others;
    else if (expected.data()[i] >= 0)
      worst = std::max(worst, std::fabs(weights.data()[i] - expected_weights.data()[i]));
  }
  bench::expect(1000 * others <= experts.size() && worst <= 1e-4f,
                concat(what, ": ", others, " of ", experts.size(), " choices, weights by up to ", worst));
}

void operations(Cuda const& ctx, bench::Ceilings const& ceilings, Size const& s) {
  Shape<2> const all{s.tokens, s.E}, few{s.tokens, s.k};
  auto const logits = bench::random_on_device<T>(ctx, all, 1, 0, 3);
  auto const d_weights = bench::random_on_device<float>(ctx, few, 2),
             bias = bench::random_on_device<float>(ctx, Shape<2>{1, s.E}, 3);
  DeviceTensor<float, 2> const scores{ctx, all}, weights{ctx, few};
  DeviceTensor<float, 1> const thresholds{ctx, Shape<1>{s.E}}, loss{ctx, Shape<1>{1}};
  DeviceTensor<int, 2> const experts{ctx, few}, columns{ctx, all};
  DeviceTensor<T, 2> const d_logits{ctx, all};
  auto const time = [&](char const* what, auto const& run) {
    report(what, s, bench::milliseconds(ctx, 20, [&](int) { run(); }), ceilings);
  };
  Index const share = even_share(s.tokens, s.k, s.E);
  auto const top_k = [&] {
    route_top_k_softmax(ctx, RouteArgs<T>{.logits = logits.view(), .experts = experts, .weights = weights});
  };
  auto const score = [&] {
    route_scores(ctx, RouteScoresArgs<T>{.logits = logits.view(), .gate = Gate::sigmoid, .scores = scores});
  };
  auto const choose = [&] {
    route_choose(ctx, RouteChooseArgs<float>{.scores = scores.view(), .bias = bias.view()[0], .experts = experts});
  };
  auto const take = [&] {
    route_expert_choice(
        ctx, ExpertChoiceArgs<float>{.scores = scores.view(), .capacity = share, .experts = columns, .thresholds = thresholds});
  };

  Tensor<int, 2> expected{few}, expected_columns{all};
  Tensor<float, 2> unread{few};
  bench::poison_all(ctx, experts, columns, weights, scores, thresholds);
  top_k();
  route_top_k_softmax(Cpu{}, RouteArgs<T>{.logits = to_host(ctx, logits), .experts = expected, .weights = unread});
  expect_same("route_top_k_softmax", experts, expected, ctx);
  bench::poison(ctx, experts);
  score(), choose(), take();
  auto const there = to_host(ctx, scores);
  auto const of = to_host(ctx, bias);
  route_choose(Cpu{}, RouteChooseArgs<float>{.scores = there, .bias = of.view()[0], .experts = expected});
  expect_same("route_choose", experts, expected, ctx);
  route_expert_choice(Cpu{}, ExpertChoiceArgs<float>{.scores = there, .capacity = share, .experts = expected_columns});
  expect_same("route_expert_choice", columns, expected_columns, ctx);

  // The same sizes with the numbers of `verify`, which poisons too and computes the expected in double.
  int const softmax = static_cast<int>(Gate::softmax), sigmoid = static_cast<int>(Gate::sigmoid);
  bench::expect_problem<verify::RouteTopKSoftmaxProblem, T>(ctx, {{s.tokens, s.E, s.k}});
  bench::expect_problem<verify::RouteTopKSoftmaxBackwardProblem, T>(ctx, {{s.tokens, s.E, s.k}});
  bench::expect_problem<verify::RouteScoresProblem, T>(ctx, {{s.tokens, s.E, s.k, sigmoid}});
  bench::expect_problem<verify::RouteGateProblem, T>(ctx, {{s.tokens, s.E, s.k, softmax}});
  bench::expect_problem<verify::RouteGateBackwardProblem, T>(ctx, {{s.tokens, s.E, s.k, softmax}});
  bench::expect_problem<verify::BalanceThresholdsProblem, T>(ctx, {{s.tokens, s.E, s.k}});
  bench::expect_problem<verify::BalanceLossProblem, T>(ctx, {{s.tokens, s.E, s.k}});
  bench::expect_problem<verify::RouterZLossProblem, T>(ctx, {{s.tokens, s.E, s.k}});
  bench::expect_problem<verify::SparsityLossProblem, T>(ctx, {{s.tokens, s.E, s.k}});
  time("route_top_k_softmax", top_k);
  time("route_top_k_softmax_backward", [&] {
    route_top_k_softmax_backward(
        ctx, RouteBackwardArgs<T>{
                 .logits = logits.view(), .experts = experts.view(), .d_weights = d_weights.view(), .d_logits = d_logits});
  });
  time("route_scores", score);
  time("route_choose", choose);
  time("route_gate", [&] {
    route_gate(ctx,
               RouteGateArgs<T>{.logits = logits.view(), .experts = experts.view(), .gate = Gate::softmax, .weights = weights});
  });
  time("route_gate_backward", [&] {
    route_gate_backward(ctx, RouteGateBackwardArgs<T>{.logits = logits.view(),
                                                      .experts = experts.view(),
                                                      .gate = Gate::softmax,
                                                      .d_weights = d_weights.view(),
                                                      .d_logits = d_logits});
  });
  time("route_expert_choice", take);
  time("balance_thresholds",
       [&] { balance_thresholds(ctx, BalanceThresholdsArgs<float>{.scores = scores.view(), .k = s.k, .thresholds = thresholds}); });
  time("balance_loss", [&] {
    balance_loss(ctx, BalanceLossArgs<T>{.logits = logits.view(), .experts = experts.view(), .loss = loss, .d_logits = d_logits});
  });
  time("router_z_loss",
       [&] { router_z_loss(ctx, RouterZLossArgs<T>{.logits = logits.view(), .loss = loss, .d_logits = d_logits}); });
  time("sparsity_loss",
       [&] { sparsity_loss(ctx, SparsityLossArgs<T>{.logits = logits.view(), .loss = loss, .d_logits = d_logits}); });
}

template <class R>
void router(Cuda const& ctx, Size const& s) {
  Dims const d{.n_experts = s.E, .top_k = std::is_same_v<R, Top1Sigmoid> ? 1 : s.k};
  Shape<2> const all{s.tokens, s.E}, slots{s.tokens, router_slots<R>(d)};
  auto const logits = bench::random_on_device<T>(ctx, all, 1, 0, 3);
  auto const d_weights = bench::random_on_device<float>(ctx, slots, 2);
  auto const memory = bench::random_on_device<T>(ctx, Shape<1>{router_memory<R>(d)}, 3, 0.3f, 0.1f);
  Tensor<Token, 1> host_tokens{Shape<1>{s.tokens}};
  for (Index i = 0; i < s.tokens; ++i) host_tokens(i) = static_cast<Token>(i * i % 50021);
  auto const tokens = to_device(ctx, host_tokens);
  DeviceTensor<int, 2> const experts{ctx, slots};
  DeviceTensor<float, 2> const weights{ctx, slots};
  DeviceTensor<float, 1> const observed{ctx, Shape<1>{s.E}}, loss{ctx, Shape<1>{1}};
  DeviceTensor<T, 2> const d_logits{ctx, all};
  auto const pass = [&](Mode mode) { return Pass<Cuda, T>{.ctx = ctx, .mode = mode, .tokens = tokens.view()}; };
  auto const route = [&](Mode mode) {
    R::route(pass(mode), d,
             RouterArgs<T>{.logits = logits.view(),
                           .memory = memory.view(),
                           .experts = experts,
                           .weights = weights,
                           .observed = mode == Mode::training ? View<float, 1>{observed} : View<float, 1>{}});
  };
  auto const backward = [&] {
    R::backward(pass(Mode::training), d,
                RouterBackwardArgs<T>{.logits = logits.view(),
                                      .memory = memory.view(),
                                      .experts = experts.view(),
                                      .weights = weights.view(),
                                      .d_weights = d_weights.view(),
                                      .d_logits = d_logits});
    if constexpr (detail::HasRouterLoss<R>)
      R::loss(pass(Mode::training), d,
              RouterLossArgs<T>{.logits = logits.view(),
                                .memory = memory.view(),
                                .experts = experts.view(),
                                .observed = observed.view(),
                                .loss = loss,
                                .d_logits = d_logits});
  };
  bench::poison_all(ctx, experts, weights);
  route(Mode::inference);
  Cpu const cpu;
  auto const host_logits = to_host(ctx, logits);
  auto const host_memory = to_host(ctx, memory);
  Tensor<int, 2> host_experts{slots};
  Tensor<float, 2> host_weights{slots};
  R::route(Pass<Cpu, T>{.ctx = cpu, .tokens = host_tokens}, d,
           RouterArgs<T>{.logits = host_logits, .memory = host_memory, .experts = host_experts, .weights = host_weights});
  expect_alike(R::name, to_host(ctx, experts), to_host(ctx, weights), host_experts, host_weights);
  double const inference = bench::milliseconds(ctx, 10, [&](int) { route(Mode::inference); });
  // Each call begins where the last one ended, as the passes of a step do.
  double const training = bench::milliseconds(ctx, 10, [&](int) { route(Mode::training); });
  double const back = bench::milliseconds(ctx, 10, [&](int) { backward(); });
  std::printf("%-18s %6lld %4lld %2lld %9.2f %9.2f %9.2f\n", R::name, s.tokens, s.E, d.top_k, 1e3 * training, 1e3 * inference,
              1e3 * back);
}

}  // namespace

int main() {
  return bench::program("every operation is within its allowed error, every router chooses as on the CPU",
                        [](Cuda const& ctx, bench::Ceilings const& ceilings) {
                          double const floor =
                              bench::milliseconds(ctx, 100, [&](int) { empty_kernel<<<132, 64, 0, ctx.stream()>>>(); });
                          std::printf("an empty kernel %.2f us\n\n", 1e3 * floor);
                          Size const sizes[]{{16384, 8, 1}, {16384, 8, 2}, {16384, 64, 8}, {131072, 8, 2}};
                          std::printf("operation                    tokens    E  k        us  tokens/us  share\n");
                          for (auto const& size : sizes) operations(ctx, ceilings, size);
                          std::printf("\nrouter             tokens    E  k  training inference  backward, us\n");
                          for (auto const& size : {sizes[0], sizes[2]})
                            for (Index kind = 0; kind < Routers::size; ++kind)
                              Routers::visit(kind, [&]<class R>(std::type_identity<R>) { router<R>(ctx, size); });
                        });
}
