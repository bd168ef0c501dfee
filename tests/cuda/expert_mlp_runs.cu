#include <blackmamba/cuda.cuh>

#include "cuda/expert_problem.cuh"

using namespace blackmamba;
using test::ExpertProblem;
using test::ExpertSize;
using test::same_bits;

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
  // The last has more tiles than there are multiprocessors, and an expert without rows.
  for (auto const& size : {ExpertSize{{300, 17, 140}, 136, 264}, {{3, 0, 9}, 136, 264}, {{2000, 0, 70, 900}, 136, 1032}}) {
    ExpertProblem<bf16> const p{size};
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
    auto const reset = [&] {
      test::poison(ctx, y), test::poison(ctx, d_x), test::poison(ctx, hidden);
      upload(ctx, start.fc1.view(), d_fc1.view()), upload(ctx, start.fc2.view(), d_fc2.view());
      upload(ctx, start.bias1.view(), d_bias.view());
    };
    test::expect_repeatable(ctx, reset, run, y, d_x, d_fc1, d_fc2, d_bias);
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
