#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/route.hpp>
#include <blackmamba/verify/problems/routing_rules.hpp>

#include "cuda/layouts.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::expect_right;
using test::Laid;
using test::Layout;
using test::random_tensor;
using test::same_bits;

namespace {

std::vector<verify::RouteSize> rule_sizes() {
  std::vector<verify::RouteSize> out{{0, 3, 2}, {1, 1, 1}, {7, 2, 1, false}, {63, 4, 4}, {65, 8, 2}, {333, 16, 4, false}};
  out.push_back({5000, 64, 8});
  return out;
}

}  // namespace

GPU_TEST_TEMPLATE("routing rules on a GPU: every shape chooses the experts of the double reference, with its weights", T, float,
                  double, Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<verify::RouteTop1SigmoidProblem, T>(ctx));
  expect_right(verify::check<verify::RouteTopKSoftmaxProblem, T>(ctx, {}, rule_sizes()));
  expect_right(verify::check<verify::RoutePlanSigmoidProblem, T>(ctx));
  expect_right(verify::check<verify::RoutePositiveProblem, T>(ctx));
  expect_right(verify::check<verify::RouteScoresProblem, T>(ctx));
  expect_right(verify::check<verify::RouteMemoryProblem, T>(ctx));
}

GPU_TEST_TEMPLATE("routing rules on a GPU: choices, columns and what is carried agree with the reference, ties included", T, float,
                  double) {
  Cuda const ctx;
  expect_right(verify::check<verify::RouteChooseProblem, T>(ctx));
  expect_right(verify::check<verify::RouteExpertChoiceProblem, T>(ctx));
  expect_right(
      verify::check<verify::RouteExpertChoiceProblem, T>(ctx, {}, {{20000, 8, 2, 0}, {20000, 3, 1, 2}, {16384, 64, 8, 3}}));
  expect_right(verify::check<verify::RouteThresholdProblem, T>(ctx));
  expect_right(verify::check<verify::BalanceThresholdsProblem, T>(ctx));
  expect_right(verify::check<verify::BalanceThresholdsProblem, T>(ctx, {}, {{20000, 8, 2, 0}, {16384, 64, 8, 1}}));
  expect_right(verify::check<verify::RouteBlendProblem, T>(ctx));
  expect_right(verify::check<verify::RouteDrawProblem, T>(ctx));
  expect_right(verify::check<verify::RouteAllProblem, T>(ctx));
}

GPU_TEST_TEMPLATE("route_scores on a GPU: all but few are the bits of the CPU's, and the others are next to them", T, float, bf16) {
  Cuda const ctx;
  auto const logits = random_tensor<T>(Shape<2>{20000, 16}, 1, 2);
  auto const there = to_device(ctx, logits);
  for (Gate gate : {Gate::sigmoid, Gate::softmax}) {
    Tensor<float, 2> expected{logits.shape()};
    DeviceTensor<float, 2> const scores{ctx, logits.shape()};
    route_scores(Cpu{2}, RouteScoresArgs<T>{.logits = logits, .gate = gate, .scores = expected});
    route_scores(ctx, RouteScoresArgs<T>{.logits = there.view(), .gate = gate, .scores = scores});
    auto const got = to_host(ctx, scores);
    Index different = 0, far = 0;
    for (Index i = 0; i < got.size(); ++i) {
      float const a = got.data()[i], b = expected.data()[i];
      different += a != b, far += std::fabs(a - b) > 8 * 0x1p-24f * b;
    }
    INFO(different);
    CHECK(different <= got.size() / 50);
    CHECK(far == 0);
  }
}

GPU_TEST_TEMPLATE("routing rules on a GPU: any strides give the bits of contiguous matrices, and touch nothing else", T, float,
                  bf16) {
  using A = accumulator_t<T>;
  Cuda const ctx;
  Index const tokens = 150;
  for (auto const& [E, k] : {std::pair<Index, Index>{9, 1}, {9, 4}, {21, 4}}) {
    auto const logits = random_tensor<T>(Shape<2>{tokens, E}, 1);
    auto const scores = random_tensor<A>(Shape<2>{tokens, E}, 2);
    Tensor<int, 2> expected{Shape<2>{tokens, k}}, chosen{expected.shape()}, columns{scores.shape()};
    Tensor<A, 2> weights{expected.shape()};
    auto const there = to_device(ctx, logits);
    DeviceTensor<int, 2> const experts{ctx, expected.shape()};
    DeviceTensor<A, 2> const gates{ctx, expected.shape()};
    route_top_k_softmax(ctx, RouteArgs<T>{.logits = there.view(), .experts = experts, .weights = gates});
    expected = to_host(ctx, experts), weights = to_host(ctx, gates);
    route_choose(Reference{}, RouteChooseArgs<A>{.scores = scores, .experts = chosen});
    route_expert_choice(Reference{}, ExpertChoiceArgs<A>{.scores = scores, .capacity = 31, .experts = columns});
    test::for_layouts([&](Layout in, Layout out) {
      Laid<T> const x{ctx, logits, in};
      Laid<A> const s{ctx, scores, in};
      Laid<int> to{ctx, expected.clone(), out}, picks{ctx, Tensor<int, 2>{chosen.shape()}, out};
      Laid<int> takes{ctx, Tensor<int, 2>{columns.shape()}, out};
      Laid<A> w{ctx, Tensor<A, 2>{weights.shape()}, in};
      route_top_k_softmax(ctx, RouteArgs<T>{.logits = x.view(), .experts = to.view(), .weights = w.view()});
      CHECK(same_bits(to.result(), expected));
      CHECK(same_bits(w.result(), weights));
      route_choose(ctx, RouteChooseArgs<A>{.scores = s.view(), .experts = picks.view()});
      CHECK(same_bits(picks.result(), chosen));
      route_expert_choice(ctx, ExpertChoiceArgs<A>{.scores = s.view(), .capacity = 31, .experts = takes.view()});
      CHECK(same_bits(takes.result(), columns));
    });
  }
}

GPU_TEST("routing rules on a GPU: the first NaN is told, experts stay within those there are, and the context goes on") {
  Cuda const ctx;
  Index const tokens = 3000, E = 6, k = 3;
  auto logits = random_tensor<float>(Shape<2>{tokens, E}, 1);
  auto const right = to_device(ctx, logits);
  logits(1700, 4) = logits(1700, 5) = logits(2500, 0) = std::nanf("");
  auto const wrong = to_device(ctx, logits);
  DeviceTensor<int, 2> const few{ctx, Shape<2>{tokens, k}}, all{ctx, logits.shape()}, one{ctx, Shape<2>{tokens, 1}};
  DeviceTensor<float, 2> const weights{ctx, few.shape()}, weight{ctx, one.shape()}, scores{ctx, logits.shape()};
  DeviceTensor<float, 1> const thresholds{ctx, Shape<1>{E}};
  auto const expect = [&](char const* op, View<int, 2> experts, auto const& run) {
    INFO(op);
    if (experts.data())
      detail::check_cuda(cudaMemset(experts.data(), 0x7f, static_cast<std::size_t>(experts.size()) * 4), "memset");
    run(wrong.view());
    CHECK_THROWS_WITH_AS(ctx.synchronize(), concat(op, ": the logit of token 1700 for expert 4 is NaN").c_str(), value_error);
    if (experts.data()) {
      bool within = true;
      for (int const e : to_host(ctx, experts)) within = within && e >= -1 && e < E;
      CHECK(within);
    }
    run(right.view());
    CHECK_NOTHROW(ctx.synchronize());
  };
  using In = View<float const, 2>;
  expect("route_top1_sigmoid", one,
         [&](In x) { route_top1_sigmoid(ctx, RouteArgs<float>{.logits = x, .experts = one, .weights = weight}); });
  expect("route_top_k_softmax", few,
         [&](In x) { route_top_k_softmax(ctx, RouteArgs<float>{.logits = x, .experts = few, .weights = weights}); });
  expect("route_plan_sigmoid", one, [&](In x) {
    route_plan_sigmoid(ctx, RoutePlanArgs<float>{.plan = right.view(), .logits = x, .experts = one, .weights = weight});
  });
  expect("route_positive", all, [&](In x) { route_positive(ctx, RoutePositiveArgs<float>{.logits = x, .experts = all}); });
  expect("route_choose", few,
         [&](In x) { route_choose(ctx, RouteChooseArgs<float>{.scores = x, .groups = 3, .groups_kept = 2, .experts = few}); });
  expect("route_scores", {}, [&](In x) { route_scores(ctx, RouteScoresArgs<float>{.logits = x, .scores = scores}); });
  expect("route_expert_choice", all, [&](In x) {
    route_expert_choice(ctx, ExpertChoiceArgs<float>{.scores = x, .capacity = 999, .experts = all, .thresholds = thresholds});
  });
  expect("route_threshold", all,
         [&](In x) { route_threshold(ctx, RouteThresholdArgs<float>{.scores = x, .thresholds = thresholds, .experts = all}); });
  expect("balance_thresholds", {},
         [&](In x) { balance_thresholds(ctx, BalanceThresholdsArgs<float>{.scores = x, .k = 2, .thresholds = thresholds}); });

  for (Index e = 0; e < E; ++e) logits(1700, e) = logits(2500, e) = -HUGE_VALF;
  auto const masked = to_device(ctx, logits);
  route_top_k_softmax(ctx, RouteArgs<float>{.logits = masked.view(), .experts = few, .weights = weights});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "route_top_k_softmax: the largest logit of token 1700 is -inf, not finite", value_error);
  Tensor<float, 1> bias{Shape<1>{E}};
  bias(2) = HUGE_VALF, bias(4) = std::nanf("");
  auto const there = to_device(ctx, bias);
  route_choose(ctx, RouteChooseArgs<float>{.scores = right.view(), .bias = there.view(), .experts = few});
  CHECK_THROWS_WITH_AS(ctx.synchronize(), "route_choose: the bias of expert 2 is not finite", value_error);
}

GPU_TEST("columns on a GPU: the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  auto const scores = to_device(ctx, random_tensor<float>(Shape<2>{5000, 8}, 1));
  DeviceTensor<int, 2> const experts{ctx, scores.shape()};
  DeviceTensor<float, 1> const least{ctx, Shape<1>{8}}, thresholds{ctx, Shape<1>{8}};
  auto const reset = [&] { test::poison(ctx, experts), test::poison(ctx, least), set_zero(ctx, thresholds.view()); };
  auto const run = [&] {
    for (int round = 0; round < 3; ++round)
      balance_thresholds(ctx, BalanceThresholdsArgs<float>{.scores = scores.view(), .k = 2, .thresholds = thresholds});
    route_expert_choice(
        ctx, ExpertChoiceArgs<float>{.scores = scores.view(), .capacity = 1250, .experts = experts, .thresholds = least});
  };
  test::expect_repeatable(ctx, reset, run, experts, least, thresholds);
}
