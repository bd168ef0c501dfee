#include <blackmamba/cuda.cuh>

#include "cuda/expert_problem.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::ExpertProblem;
using test::ExpertSize;
using test::random_tensor;
using test::same_bits;

namespace {

/// Where `dispatch` could have put the assignments of a problem's rows, k a token.
struct Places {
  Tensor<Index, 1> order;
  Tensor<Index, 2> places;

  template <class T>
  Places(ExpertProblem<T> const& p, Index k) : order{Shape{p.rows}}, places{Shape{p.rows / k, k}} {
    for (Index& place : places) place = -1;
    for (Index r = 0; r < p.rows; ++r) {
      Index const assignment = (r * 7 + 3) % p.rows;  // 7 must not divide the rows
      order(r) = r < p.offsets(p.E) ? assignment : -1;
      if (order(r) >= 0) places(assignment / k, assignment % k) = r;
    }
  }
};

}  // namespace

GPU_TEST_TEMPLATE("expert_mlp on a GPU: rows put back are what combine and gather_tokens_backward make of them, bit for bit", T,
                  float, Half, bf16) {
  Cuda const ctx;
  struct Layout {
    Index D, gap;  // between the rows put back
  };
  for (Index k : {1, 2})
    for (auto const& counts : {std::vector<Index>{127, 130, 0, 301}, {3, 0, 7}, {0, 0, 0}})
      for (auto const& [D, gap] : {Layout{264, 0}, Layout{264, 8}, Layout{264, 1}, Layout{31, 0}}) {
        bool const weighted = gap != 8;
        INFO(concat(k, " slots, first expert with ", counts[0], ", D ", D, ", gap ", gap));
        ExpertProblem<T> const p{ExpertSize{counts, D, 136, Activation::gelu_erf, true, k == 1, true, counts[0] > 0 ? 6 : 60}};
        Places const to{p, k};
        Index const tokens = p.rows / k;
        auto const weights = random_tensor<accumulator_t<T>>(to.places.shape(), 11);
        auto const x = to_device(ctx, p.x), d_y = to_device(ctx, p.d_y);
        auto const fc1 = to_device(ctx, p.fc1), fc2 = to_device(ctx, p.fc2);
        auto const bias1 = to_device(ctx, p.bias1), bias2 = to_device(ctx, p.bias2);
        auto const offsets = to_device(ctx, p.offsets), order = to_device(ctx, to.order);
        auto const places = to_device(ctx, to.places);
        auto const device_weights = to_device(ctx, weights);
        T const untouched = static_cast<T>(accumulator_t<T>(77));
        Tensor<T, 2> before{Shape{tokens, D + gap}};
        for (T& v : before) v = untouched;
        auto const back = to_device(ctx, before), d_back = to_device(ctx, before);
        DeviceTensor<T, 2> const y{ctx, p.x.shape()}, d_x{ctx, p.x.shape()};
        DeviceTensor<T, 2> const combined{ctx, Shape{tokens, D}}, gathered{ctx, Shape{tokens, D}};
        auto const expect_same = [&](DeviceTensor<T, 2> const& got, DeviceTensor<T, 2> const& expected) {
          Tensor<T, 2> rows{Shape{tokens, D}};
          CHECK(test::take_rows(rows, to_host(ctx, got), gap, untouched) == 0);
          CHECK(same_bits(rows, to_host(ctx, expected)));
        };
        ExpertMlpArgs<T> f{.x = x.view(),
                           .offsets = offsets.view(),
                           .fc1 = fc1.view(),
                           .fc2 = fc2.view(),
                           .activation = p.s.kind,
                           .gated = true,
                           .y = y,
                           .back = {.order = order.view(), .places = places.view(), .y = test::rows_of(back.view(), gap)}};
        if (p.s.biases) f.bias1 = bias1.view(), f.bias2 = bias2.view();
        if (weighted) f.back.weights = device_weights.view();
        expert_mlp(ctx, f);
        if (weighted)
          combine(ctx, CombineArgs<T>{.x = y.view(), .places = places.view(), .weights = device_weights.view(), .y = combined});
        else
          gather_tokens_backward(ctx, GatherBackwardArgs<T>{.places = places.view(), .d_y = y.view(), .d_x = combined});
        expect_same(back, combined);
        auto d_to = f.back;
        d_to.weights = {}, d_to.y = test::rows_of(d_back.view(), gap);
        expert_mlp_backward(ctx, ExpertMlpBackwardArgs<T>{.x = f.x,
                                                          .offsets = f.offsets,
                                                          .fc1 = f.fc1,
                                                          .bias1 = f.bias1,
                                                          .fc2 = f.fc2,
                                                          .activation = p.s.kind,
                                                          .gated = true,
                                                          .d_y = d_y.view(),
                                                          .d_x = d_x,
                                                          .back = d_to});
        gather_tokens_backward(ctx, GatherBackwardArgs<T>{.places = places.view(), .d_y = d_x.view(), .d_x = gathered});
        expect_same(d_back, gathered);
        if (!weighted) continue;
        // The same tokens through the other context, which puts rows back in a second step.
        Tensor<T, 2> const of_y = to_host(ctx, y);
        Tensor<T, 2> there{Shape{tokens, D}};
        combine(Reference{}, CombineArgs<T>{.x = of_y, .places = to.places, .weights = weights, .y = there});
        CHECK_CLOSE(verify::compare_with(to_host(ctx, combined).view(), converted<double>(there).view(),
                                         test::within<T>({.terms = 2, .scale = 1})));
      }
}

GPU_TEST("expert_mlp on a GPU: gradients that are not wanted change none of the others, bit for bit") {
  Cuda const ctx;
  ExpertProblem<bf16> const p{ExpertSize{{100, 0, 140}, 72, 136}};
  auto const all = p.run(ctx);
  auto const x = to_device(ctx, p.x), d_y = to_device(ctx, p.d_y);
  auto const fc1 = to_device(ctx, p.fc1), fc2 = to_device(ctx, p.fc2);
  auto const bias1 = to_device(ctx, p.bias1);
  auto const offsets = to_device(ctx, p.offsets);
  for (int wanted = 0; wanted < 8; ++wanted) {
    INFO(concat("d_x, d_fc1, d_fc2: bits of ", wanted));
    auto const start = p.start();
    auto const d_x = to_device(ctx, start.x);
    auto const d_fc1 = to_device(ctx, start.fc1), d_fc2 = to_device(ctx, start.fc2);
    ExpertMlpBackwardArgs<bf16> a{.x = x.view(),
                                  .offsets = offsets.view(),
                                  .fc1 = fc1.view(),
                                  .bias1 = bias1.view(),
                                  .fc2 = fc2.view(),
                                  .activation = p.s.kind,
                                  .gated = true,
                                  .d_y = d_y.view()};
    if (wanted & 1) a.d_x = d_x;
    if (wanted & 2) a.d_fc1 = d_fc1;
    if (wanted & 4) a.d_fc2 = d_fc2;
    expert_mlp_backward(ctx, a);
    CHECK(same_bits(to_host(ctx, d_x), wanted & 1 ? all.d.x : start.x));
    CHECK(same_bits(to_host(ctx, d_fc1), wanted & 2 ? all.d.fc1 : start.fc1));
    CHECK(same_bits(to_host(ctx, d_fc2), wanted & 4 ? all.d.fc2 : start.fc2));
  }
}

GPU_TEST("expert_mlp on a GPU: h kept or computed again gives the same gradients, bit for bit") {
  Cuda const ctx;
  for (Index D : {64, 31}) {
    ExpertSize size{{100, 3, 140}, D, 72};
    auto const kept = ExpertProblem<bf16>{size}.run(ctx);
    size.hidden = false;
    auto const again = ExpertProblem<bf16>{size}.run(ctx);
    CHECK(same_bits(kept.y, again.y));
    kept.d.each(again.d, [](char const* name, auto const& a, auto const& b) {
      INFO(concat("gradient of ", name));
      CHECK(same_bits(a, b));
    });
  }
}

GPU_TEST("expert_mlp on a GPU: two runs give the same bits, and so does a graph that allocates nothing") {
  Cuda const ctx;
  for (auto const& counts : {std::vector<Index>{300, 17, 140}, {3, 0, 9}}) {
    ExpertProblem<bf16> const p{ExpertSize{counts, 136, 264}};
    auto const x = to_device(ctx, p.x), d_y = to_device(ctx, p.d_y);
    auto const fc1 = to_device(ctx, p.fc1), fc2 = to_device(ctx, p.fc2);
    auto const offsets = to_device(ctx, p.offsets);
    auto const start = p.start();
    auto const d_fc1 = to_device(ctx, start.fc1), d_fc2 = to_device(ctx, start.fc2);
    auto const d_bias = to_device(ctx, start.bias1);
    DeviceTensor<bf16, 2> const y{ctx, p.x.shape()}, d_x{ctx, p.x.shape()}, hidden{ctx, Shape{p.rows, p.F1}};
    auto const run = [&] {
      expert_mlp(ctx, ExpertMlpArgs<bf16>{.x = x.view(),
                                          .offsets = offsets.view(),
                                          .fc1 = fc1.view(),
                                          .fc2 = fc2.view(),
                                          .activation = Activation::gelu_erf,
                                          .gated = true,
                                          .y = y,
                                          .hidden = hidden});
      expert_mlp_backward(ctx, ExpertMlpBackwardArgs<bf16>{.x = x.view(),
                                                           .offsets = offsets.view(),
                                                           .fc1 = fc1.view(),
                                                           .fc2 = fc2.view(),
                                                           .activation = Activation::gelu_erf,
                                                           .gated = true,
                                                           .d_y = d_y.view(),
                                                           .d_x = d_x,
                                                           .d_fc1 = d_fc1,
                                                           .d_bias1 = d_bias,
                                                           .d_fc2 = d_fc2,
                                                           .hidden = hidden.view()});
    };
    auto const results = [&] {
      std::tuple out{to_host(ctx, y), to_host(ctx, d_x), to_host(ctx, d_fc1), to_host(ctx, d_fc2), to_host(ctx, d_bias)};
      upload(ctx, start.fc1.view(), d_fc1.view()), upload(ctx, start.fc2.view(), d_fc2.view());
      upload(ctx, start.bias1.view(), d_bias.view());
      return out;
    };
    run();
    auto const expected = results();
    auto const expect_same = [&] {
      auto const got = results();
      CHECK(same_bits(std::get<0>(got), std::get<0>(expected)));
      CHECK(same_bits(std::get<1>(got), std::get<1>(expected)));
      CHECK(same_bits(std::get<2>(got), std::get<2>(expected)));
      CHECK(same_bits(std::get<3>(got), std::get<3>(expected)));
      CHECK(same_bits(std::get<4>(got), std::get<4>(expected)));
    };
    run();
    expect_same();
    test::Graph const graph{ctx, run};
    for (int i = 0; i < 2; ++i) {
      graph.replay();
      expect_same();
    }
  }
}

GPU_TEST("expert_mlp on a GPU: launches that follow each other at once give the bits of launches that wait, in a graph, too") {
  Cuda const ctx;
  // More tiles than multiprocessors, by experts of which one has no rows; each pass reads what the one before wrote, and writes
  // where that one read.
  ExpertProblem<bf16> const p{ExpertSize{{2000, 0, 70, 900}, 136, 1032, Activation::gelu_erf, true, false, true, 30}};
  Places const to{p, 1};
  auto const x = random_tensor<bf16>(p.x.shape(), 12);
  auto const weights = random_tensor<float>(to.places.shape(), 11);
  auto const start = p.start();
  auto const fc1 = to_device(ctx, p.fc1), fc2 = to_device(ctx, p.fc2);
  auto const offsets = to_device(ctx, p.offsets), order = to_device(ctx, to.order);
  auto const places = to_device(ctx, to.places);
  auto const device_weights = to_device(ctx, weights);
  auto const tokens = to_device(ctx, x), d_tokens = to_device(ctx, x), sorted = to_device(ctx, x);
  auto const d_fc1 = to_device(ctx, start.fc1), d_fc2 = to_device(ctx, start.fc2);
  DeviceTensor<bf16, 2> const y{ctx, x.shape()}, hidden{ctx, Shape{p.rows, p.F1}};
  auto const passes = [&](bool waits) {
    auto const next = [&] {
      if (waits) ctx.synchronize();
    };
    for (int i = 0; i < 3; ++i) {
      gather_tokens(ctx, GatherArgs<bf16>{.x = tokens.view(), .order = order.view(), .y = sorted});
      next();
      expert_mlp(ctx, ExpertMlpArgs<bf16>{
                          .x = sorted.view(),
                          .offsets = offsets.view(),
                          .fc1 = fc1.view(),
                          .fc2 = fc2.view(),
                          .activation = p.s.kind,
                          .gated = true,
                          .y = y,
                          .hidden = hidden,
                          .back = {.order = order.view(), .places = places.view(), .weights = device_weights.view(), .y = tokens}});
      next();
      expert_mlp_backward(ctx,
                          ExpertMlpBackwardArgs<bf16>{.x = sorted.view(),
                                                      .offsets = offsets.view(),
                                                      .fc1 = fc1.view(),
                                                      .fc2 = fc2.view(),
                                                      .activation = p.s.kind,
                                                      .gated = true,
                                                      .d_y = y.view(),
                                                      .d_x = y,
                                                      .d_fc1 = d_fc1,
                                                      .d_fc2 = d_fc2,
                                                      .hidden = hidden.view(),
                                                      .back = {.order = order.view(), .places = places.view(), .y = d_tokens}});
      next();
    }
  };
  auto const results = [&] {
    std::tuple out{to_host(ctx, tokens), to_host(ctx, d_tokens), to_host(ctx, d_fc1), to_host(ctx, d_fc2)};
    upload(ctx, x.view(), tokens.view());
    upload(ctx, start.fc1.view(), d_fc1.view()), upload(ctx, start.fc2.view(), d_fc2.view());
    return out;
  };
  passes(true);
  auto const expected = results();
  auto const expect_same = [&] {
    auto const got = results();
    CHECK(same_bits(std::get<0>(got), std::get<0>(expected)));
    CHECK(same_bits(std::get<1>(got), std::get<1>(expected)));
    CHECK(same_bits(std::get<2>(got), std::get<2>(expected)));
    CHECK(same_bits(std::get<3>(got), std::get<3>(expected)));
  };
  passes(false);
  expect_same();
  test::Graph const graph{ctx, [&] { passes(false); }};
  for (int i = 0; i < 2; ++i) {
    graph.replay();
    expect_same();
  }
}

GPU_TEST("expert_mlp on a GPU: offsets that do not rise from 0 to the rows write nothing and are told by the next wait") {
  Cuda const ctx;
  for (Index D : {64, 33})
    for (auto const& counts : {std::vector<Index>{100, 150}, {2, 3}}) {
      ExpertProblem<bf16> p{ExpertSize{counts, D, 24}};
      auto const x = to_device(ctx, p.x);
      auto const fc1 = to_device(ctx, p.fc1), fc2 = to_device(ctx, p.fc2);
      auto const offsets = to_device(ctx, p.offsets);
      DeviceTensor<bf16, 2> const y{ctx, p.x.shape()}, d_x{ctx, p.x.shape()};
      auto const d_fc1 = to_device(ctx, p.start().fc1);
      Tensor<bf16, 2> before{p.x.shape()};
      for (bf16& v : before) v = bf16{77.0f};
      auto const forward = [&] {
        expert_mlp(ctx, ExpertMlpArgs<bf16>{.x = x.view(),
                                            .offsets = offsets.view(),
                                            .fc1 = fc1.view(),
                                            .fc2 = fc2.view(),
                                            .activation = Activation::silu,
                                            .gated = true,
                                            .y = y});
      };
      auto const backward = [&] {
        expert_mlp_backward(ctx, ExpertMlpBackwardArgs<bf16>{.x = x.view(),
                                                             .offsets = offsets.view(),
                                                             .fc1 = fc1.view(),
                                                             .fc2 = fc2.view(),
                                                             .activation = Activation::silu,
                                                             .gated = true,
                                                             .d_y = x.view(),
                                                             .d_x = d_x,
                                                             .d_fc1 = d_fc1});
      };
      auto const refused = [&](Index at, Index value, Index told, Index is) {
        auto wrong = p.offsets.clone();
        wrong(at) = value;
        upload(ctx, before.view(), y.view()), upload(ctx, before.view(), d_x.view()), upload(ctx, wrong.view(), offsets.view());
        auto const text = concat("offsets[", told, "] is ", is, ", where offsets must rise from 0 to at most the rows of x");
        forward();
        CHECK_THROWS_WITH_AS(ctx.synchronize(), concat("expert_mlp: ", text).c_str(), value_error);
        backward();
        CHECK_THROWS_WITH_AS(ctx.synchronize(), concat("expert_mlp_backward: ", text).c_str(), value_error);
        CHECK(same_bits(to_host(ctx, y), before));
        CHECK(same_bits(to_host(ctx, d_x), before));
        CHECK(same_bits(to_host(ctx, d_fc1), p.start().fc1));
      };
      Index const rows = p.rows;
      refused(0, 1, 0, 1);
      refused(0, -3, 0, -3);
      refused(1, rows + 4, 1, rows + 4);
      refused(1, -2, 1, -2);
      refused(2, 1, 2, 1);
      refused(2, rows + 1, 2, rows + 1);
      upload(ctx, p.offsets.view(), offsets.view());
      forward();
      CHECK_NOTHROW(ctx.synchronize());
      CHECK_FALSE(same_bits(to_host(ctx, y), before));
    }
}
