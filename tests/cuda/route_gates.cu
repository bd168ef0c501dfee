#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/route_gates.hpp>

#include "cuda/layouts.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::expect_right;
using test::Laid;
using test::Layout;
using test::random_tensor;
using test::same_bits;

GPU_TEST_TEMPLATE("gates and gradients of routing on a GPU: every shape and option agrees with the double reference", T, float,
                  double, Half, bf16) {
  Cuda const ctx;
  expect_right(verify::check<verify::RouteGateProblem, T>(ctx));
  expect_right(verify::check<verify::RouteGateBackwardProblem, T>(ctx));
  expect_right(verify::check<verify::RouteTopKSoftmaxBackwardProblem, T>(ctx));
  expect_right(verify::check<verify::RouteTop1SigmoidBackwardProblem, T>(ctx));
  expect_right(verify::check<verify::RoutePlanSigmoidBackwardProblem, T>(ctx));
}

GPU_TEST_TEMPLATE("losses of routers on a GPU: every shape and option agrees with the double reference", T, float, double, Half,
                  bf16) {
  Cuda const ctx;
  expect_right(verify::check<verify::BalanceLossProblem, T>(ctx));
  expect_right(verify::check<verify::RouterZLossProblem, T>(ctx));
  expect_right(verify::check<verify::SparsityLossProblem, T>(ctx));
  std::vector<verify::RoutingSize> const large{{20000, 8, 2, 0}, {20000, 8, 2, 1}, {3000, 300, 2, 1}};
  expect_right(verify::check<verify::BalanceLossProblem, T>(ctx, {}, large));
  expect_right(verify::check<verify::SparsityLossProblem, T>(ctx, {}, large));
  expect_right(verify::check<verify::RouterZLossProblem, T>(ctx, {}, large));
}

GPU_TEST("balance_loss on a GPU: more sequences than blocks, most of them empty, are a mean over those that are not") {
  Cuda const ctx;
  Index const tokens = 100, E = 4, sequences = 100000;
  auto const logits = random_tensor<float>(Shape<2>{tokens, E}, 1);
  Tensor<int, 2> experts{Shape<2>{tokens, 1}};
  for (Index i = 0; i < tokens; ++i) experts(i, 0) = static_cast<int>(i % 3);
  auto const offsets = verify::Inputs<float>{2}.offsets(sequences, tokens);
  Tensor<float, 2> expected{logits.shape()};
  float const loss = balance_loss(
      Reference{}, BalanceLossArgs<float>{.logits = logits, .experts = experts, .offsets = offsets, .d_logits = expected});
  auto const x = to_device(ctx, logits);
  auto const e = to_device(ctx, experts);
  auto const o = to_device(ctx, offsets);
  DeviceTensor<float, 2> const d_logits{ctx, logits.shape()};
  DeviceTensor<float, 1> const total{ctx, Shape<1>{1}};
  balance_loss(ctx, BalanceLossArgs<float>{
                        .logits = x.view(), .experts = e.view(), .offsets = o.view(), .loss = total, .d_logits = d_logits});
  CHECK(to_host(ctx, total)(0) == doctest::Approx(loss).epsilon(100 * 0x1p-24));
  CHECK_CLOSE(verify::compare(to_host(ctx, d_logits).view(), expected.view(), {.terms = 100, .gain = 2}));
}

GPU_TEST("gates and losses on a GPU: what is wrong in the data is told, and the context goes on") {
  Cuda const ctx;
  Index const tokens = 3000, E = 6, k = 2;
  auto logits = random_tensor<float>(Shape<2>{tokens, E}, 1);
  Tensor<int, 2> experts{Shape<2>{tokens, k}};
  for (Index i = 0; i < tokens; ++i) experts(i, 0) = -1, experts(i, 1) = static_cast<int>(i % E);
  auto const x = to_device(ctx, logits);
  auto const e = to_device(ctx, experts);
  experts(1700, 1) = 6, experts(2500, 0) = -2;
  auto const outside = to_device(ctx, experts);
  logits(1700, 4) = logits(2500, 0) = std::nanf("");
  auto const nan = to_device(ctx, logits);
  logits(1700, 4) = HUGE_VALF, logits(2500, 0) = 0;
  auto const infinite = to_device(ctx, logits);
  DeviceTensor<float, 2> const weights{ctx, experts.shape()}, d_logits{ctx, logits.shape()};
  DeviceTensor<float, 1> const loss{ctx, Shape<1>{1}};
  using In = View<float const, 2>;
  using Experts = View<int const, 2>;
  auto const told = [&](std::string const& sentence, auto const& run) {
    run();
    CHECK_THROWS_WITH_AS(ctx.synchronize(), sentence.c_str(), value_error);
  };
  auto const expect = [&](std::string const& op, bool reads_experts, auto const& run) {
    told(op + ": the logit of token 1700 for expert 4 is NaN", [&] { run(In{nan.view()}, Experts{e.view()}); });
    if (op != "sparsity_loss" && op != "route_top_k_softmax_backward")
      told(op + ": the largest logit of token 1700 is inf, not finite", [&] { run(In{infinite.view()}, Experts{e.view()}); });
    if (reads_experts)
      told(op + ": the expert of token 1700, slot 1 is outside -1 to E - 1", [&] { run(In{x.view()}, Experts{outside.view()}); });
    run(In{x.view()}, Experts{e.view()});
    CHECK_NOTHROW(ctx.synchronize());
  };
  expect("route_gate", true, [&](In l, Experts of) {
    route_gate(ctx, RouteGateArgs<float>{.logits = l, .experts = of, .gate = Gate::softmax, .weights = weights});
  });
  expect("route_gate_backward", true, [&](In l, Experts of) {
    route_gate_backward(ctx,
                        RouteGateBackwardArgs<float>{
                            .logits = l, .experts = of, .gate = Gate::softmax, .d_weights = weights.view(), .d_logits = d_logits});
  });
  expect("route_top_k_softmax_backward", true, [&](In l, Experts of) {
    route_top_k_softmax_backward(
        ctx, RouteBackwardArgs<float>{.logits = l, .experts = of, .d_weights = weights.view(), .d_logits = d_logits});
  });
  expect("balance_loss", true, [&](In l, Experts of) {
    balance_loss(ctx, BalanceLossArgs<float>{.logits = l, .experts = of, .loss = loss, .d_logits = d_logits});
  });
  expect("router_z_loss", false,
         [&](In l, Experts) { router_z_loss(ctx, RouterZLossArgs<float>{.logits = l, .loss = loss, .d_logits = d_logits}); });
  expect("sparsity_loss", false,
         [&](In l, Experts) { sparsity_loss(ctx, SparsityLossArgs<float>{.logits = l, .loss = loss, .d_logits = d_logits}); });
  auto const one = outside.view().slice(1, 1, 1);
  told("route_top1_sigmoid_backward: the expert of token 1700, slot 0 is outside -1 to E - 1", [&] {
    route_top1_sigmoid_backward(
        ctx, RouteBackwardArgs<float>{
                 .logits = x.view(), .experts = one, .d_weights = weights.view().slice(1, 0, 1), .d_logits = d_logits});
  });
}

GPU_TEST_TEMPLATE("gates on a GPU: any strides give the bits of contiguous matrices, and touch nothing else", T, float, bf16) {
  using A = accumulator_t<T>;
  Cuda const ctx;
  Index const tokens = 150, k = 4;
  for (Index E : {9, 21}) {
    auto const logits = random_tensor<T>(Shape<2>{tokens, E}, 1);
    auto const d_weights = random_tensor<A>(Shape<2>{tokens, k}, 2);
    auto const experts = verify::experts_in_turn({tokens, E, k});
    Tensor<T, 2> expected, moved;
    test::for_layouts([&](Layout in, Layout out) {
      Laid<T> const x{ctx, logits, in};
      Laid<int> const e{ctx, experts, out};
      Laid<A> const g{ctx, d_weights, in};
      Laid<T> to{ctx, logits.clone(), out}, added{ctx, logits.clone(), out};
      route_gate_backward(
          ctx, RouteGateBackwardArgs<T>{
                   .logits = x.view(), .experts = e.view(), .gate = Gate::softmax, .d_weights = g.view(), .d_logits = to.view()});
      balance_loss(ctx, BalanceLossArgs<T>{.logits = x.view(), .experts = e.view(), .d_logits = added.view()});
      auto got = to.result(), sum = added.result();
      if (expected.size() > 0) {
        CHECK(same_bits(got, expected));
        CHECK(same_bits(sum, moved));
      }
      expected = std::move(got), moved = std::move(sum);
    });
  }
}

GPU_TEST("losses of routers on a GPU: the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  auto const logits = to_device(ctx, random_tensor<bf16>(Shape<2>{5000, 8}, 1));
  auto const experts = to_device(ctx, verify::experts_in_turn({5000, 8, 2}));
  auto const offsets = to_device(ctx, verify::Inputs<float>{2}.offsets(7, 5000));
  DeviceTensor<bf16, 2> const d_logits{ctx, logits.shape()};
  DeviceTensor<float, 1> const loss{ctx, Shape<1>{1}};
  auto const reset = [&] { set_zero(ctx, d_logits.view()), set_zero(ctx, loss.view()); };
  auto const run = [&] {
    for (auto const& packing : {View<Index const, 1>{}, View<Index const, 1>{offsets.view()}})
      balance_loss(ctx,
                   BalanceLossArgs<bf16>{
                       .logits = logits.view(), .experts = experts.view(), .offsets = packing, .loss = loss, .d_logits = d_logits});
    router_z_loss(ctx, RouterZLossArgs<bf16>{.logits = logits.view(), .loss = loss, .d_logits = d_logits});
    sparsity_loss(ctx, SparsityLossArgs<bf16>{.logits = logits.view(), .loss = loss, .d_logits = d_logits});
  };
  test::expect_repeatable(ctx, reset, run, d_logits, loss);
}
