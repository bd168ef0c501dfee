#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/cross_entropy_backward.hpp>

#include <limits>

#include "cuda/layouts.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::expect_right;
using test::Laid;
using test::Layout;
using test::random_tensor;
using test::same_bits;
using verify::CrossEntropyBackwardProblem;
using verify::CrossEntropyProblem;

GPU_TEST_TEMPLATE("cross_entropy on a GPU: every shape agrees with the double reference, forward and backward", T, float, double,
                  Half, bf16) {
  Cuda const ctx;
  std::vector<verify::SoftmaxSize> const large{{700, 8}, {40, 512}, {3, 2047}, {3, 2048}, {3, 2049}, {300, 4100}, {4, 50280}};
  expect_right(verify::check<CrossEntropyProblem, T>(ctx));
  expect_right(verify::check<CrossEntropyProblem, T>(ctx, {}, large));
  expect_right(verify::check<CrossEntropyBackwardProblem, T>(ctx));
  expect_right(verify::check<CrossEntropyBackwardProblem, T>(ctx, {}, large));
}

GPU_TEST("cross_entropy on a GPU: any strides agree with the double reference and touch nothing else, in place too") {
  Cuda const ctx;
  for (Shape<2> const& shape : {Shape<2>{5, 48}, Shape<2>{9, 35}, Shape<2>{3, 4099}, Shape<2>{4, 1}}) {
    auto const logits = random_tensor<bf16>(shape, 1, 3);
    auto const wide = converted<double>(logits);
    auto const targets = verify::Inputs<bf16>{2}.integers<Token>(Shape<1>{shape[0]}, shape[1]);
    auto const there = to_device(ctx, targets);
    Tensor<double, 1> losses{targets.shape()};
    Tensor<double, 2> d_logits{shape};
    cross_entropy(Reference{},
                  CrossEntropyArgs<double>{.logits = wide, .targets = targets, .z_coefficient = 0.01, .losses = losses});
    cross_entropy_backward(Reference{}, CrossEntropyBackwardArgs<double>{
                                            .logits = wide, .targets = targets, .z_coefficient = 0.01, .d_logits = d_logits});
    auto const D = static_cast<double>(shape[1]);
    test::for_layouts([&](Layout in, Layout out) {
      Laid<bf16> from{ctx, logits, in}, to{ctx, verify::unwritten<bf16>(shape), out};
      DeviceTensor<float, 1> const got{ctx, targets.shape()};
      cross_entropy(ctx,
                    CrossEntropyArgs<bf16>{.logits = from.view(), .targets = there.view(), .z_coefficient = 0.01, .losses = got});
      CHECK_CLOSE(verify::compare(to_host(ctx, got).view(), losses.view(), {.terms = D, .scale = 3}));
      for (auto* result : {&to, &from}) {
        cross_entropy_backward(
            ctx, CrossEntropyBackwardArgs<bf16>{
                     .logits = from.view(), .targets = there.view(), .z_coefficient = 0.01, .d_logits = result->view()});
        CHECK_CLOSE(verify::compare(result->result().view(), d_logits.view(), {.terms = D, .scale = 1}));
      }
    });
  }
}

GPU_TEST_TEMPLATE("cross_entropy on a GPU: infinities and NaN among the logits give what the reference gives", T, float, bf16) {
  Cuda const ctx;
  constexpr float infinite = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (Index V : {5, 300, 9000}) {
    auto logits = random_tensor<T>(Shape<2>{6, V}, 1);
    Tensor<Token, 1> targets{Shape<1>{6}};
    for (Token& t : targets) t = 1;
    for (Index i = 0; i < V; ++i) logits(0, i) = static_cast<T>(-infinite);
    logits(1, 1) = static_cast<T>(-infinite);
    logits(2, V - 1) = static_cast<T>(nan), logits(3, V - 1) = static_cast<T>(infinite), logits(4, 0) = static_cast<T>(-infinite);
    logits(5, 0) = static_cast<T>(nan), targets(5) = -100;
    auto const there = to_device(ctx, logits);
    auto const on_device = to_device(ctx, targets);
    auto const wide = converted<double>(logits);
    DeviceTensor<float, 1> const losses{ctx, targets.shape()};
    DeviceTensor<T, 2> const d_logits{ctx, logits.shape()};
    Tensor<double, 1> expected{targets.shape()};
    Tensor<double, 2> d_expected{logits.shape()};
    cross_entropy(Reference{}, CrossEntropyArgs<double>{.logits = wide, .targets = targets, .losses = expected});
    cross_entropy_backward(Reference{},
                           CrossEntropyBackwardArgs<double>{.logits = wide, .targets = targets, .d_logits = d_expected});
    cross_entropy(ctx, CrossEntropyArgs<T>{.logits = there.view(), .targets = on_device.view(), .losses = losses});
    cross_entropy_backward(ctx,
                           CrossEntropyBackwardArgs<T>{.logits = there.view(), .targets = on_device.view(), .d_logits = d_logits});
    auto const D = static_cast<double>(V);
    CHECK_CLOSE(verify::compare(to_host(ctx, losses).view(), expected.view(), {.terms = D, .scale = 3}));
    CHECK_CLOSE(verify::compare(to_host(ctx, d_logits).view(), d_expected.view(), {.terms = D, .scale = 1}));
  }
}

GPU_TEST("cross_entropy on a GPU: a loss near 0 and its gradient keep their digits") {
  Cuda const ctx;
  for (Index V : {2, 100, 50000}) {
    Tensor<float, 2> logits{Shape<2>{1, V}};
    for (float& x : logits) x = -30;
    logits(0, V / 2) = 0;
    Tensor<Token, 1> target{Shape<1>{1}};
    target(0) = static_cast<Token>(V / 2);
    auto const there = to_device(ctx, logits);
    auto const on_device = to_device(ctx, target);
    DeviceTensor<float, 1> const losses{ctx, Shape<1>{1}};
    DeviceTensor<float, 2> const d_logits{ctx, logits.shape()};
    cross_entropy(ctx, CrossEntropyArgs<float>{.logits = there.view(), .targets = on_device.view(), .losses = losses});
    cross_entropy_backward(
        ctx, CrossEntropyBackwardArgs<float>{.logits = there.view(), .targets = on_device.view(), .d_logits = d_logits});
    double const rest = static_cast<double>(V - 1) * std::exp(-30.0);
    Tensor<double, 1> expected{Shape<1>{2}};
    expected(0) = std::log1p(rest), expected(1) = -rest / (1 + rest);
    Tensor<float, 1> got{Shape<1>{2}};
    got(0) = to_host(ctx, losses)(0), got(1) = to_host(ctx, d_logits)(0, V / 2);
    // Relative to themselves: e^-30 is within 30 roundings of its argument.
    CHECK_CLOSE(verify::compare(got.view(), expected.view(), {.terms = static_cast<double>(V), .gain = 4}));
  }
}

GPU_TEST("cross_entropy on a GPU: the first target outside the vocabulary is told, other rows are right, and the context goes on") {
  Cuda const ctx;
  for (Index V : {40, 6000}) {
    auto const logits = to_device(ctx, random_tensor<bf16>(Shape<2>{50, V}, 1));
    auto targets = verify::Inputs<bf16>{2}.integers<Token>(Shape<1>{50}, V);
    targets(3) = -100, targets(4) = 7;
    auto const valid = to_device(ctx, targets);
    auto wrong = targets.clone();
    wrong(33) = -1, wrong(20) = static_cast<Token>(V);
    auto const invalid = to_device(ctx, wrong);
    DeviceTensor<float, 1> const losses{ctx, targets.shape()};
    DeviceTensor<bf16, 2> const d_logits{ctx, logits.shape()};
    auto const run = [&](View<Token const, 1> from) {
      cross_entropy(ctx, CrossEntropyArgs<bf16>{.logits = logits.view(), .targets = from, .losses = losses});
      cross_entropy_backward(ctx, CrossEntropyBackwardArgs<bf16>{.logits = logits.view(), .targets = from, .d_logits = d_logits});
    };
    run(valid.view());
    auto const expected = to_host(ctx, losses);
    auto const d_expected = to_host(ctx, d_logits);
    cross_entropy(ctx, CrossEntropyArgs<bf16>{.logits = logits.view(), .targets = invalid.view(), .losses = losses});
    auto const text = concat("cross_entropy: targets(20) is ", V, ", which is neither a token nor ignored");
    CHECK_THROWS_WITH_AS(ctx.synchronize(), text.c_str(), value_error);
    auto const got = to_host(ctx, losses);
    cross_entropy_backward(
        ctx, CrossEntropyBackwardArgs<bf16>{.logits = logits.view(), .targets = invalid.view(), .d_logits = d_logits});
    auto const d_text = concat("cross_entropy_backward: targets(20) is ", V, ", which is neither a token nor ignored");
    CHECK_THROWS_WITH_AS(ctx.synchronize(), d_text.c_str(), value_error);
    auto const d_got = to_host(ctx, d_logits);
    for (Index r = 0; r < 50; ++r) {
      bool const bad = r == 20 || r == 33;
      CHECK((bad ? std::isnan(got(r)) : got(r) == expected(r)));
      for (Index v = 0; v < V; ++v)
        if (bad ? !std::isnan(widen(d_got(r, v))) : d_got(r, v).bits != d_expected(r, v).bits) FAIL_CHECK(r);
    }
    CHECK(got(3) == 0);
    run(valid.view());
    CHECK(same_bits(to_host(ctx, d_logits), d_expected));
  }
}

GPU_TEST("cross_entropy on a GPU: the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  Index const rows = 70, V = 5000;
  auto const logits = to_device(ctx, random_tensor<bf16>(Shape<2>{rows, V}, 1, 3));
  auto const targets = to_device(ctx, verify::Inputs<bf16>{2}.integers<Token>(Shape<1>{rows}, V));
  DeviceTensor<float, 1> const losses{ctx, Shape<1>{rows}};
  DeviceTensor<bf16, 2> const d_logits{ctx, logits.shape()};
  auto const run = [&] {
    cross_entropy(ctx, CrossEntropyArgs<bf16>{.logits = logits.view(), .targets = targets.view(), .losses = losses});
    cross_entropy_backward(
        ctx, CrossEntropyBackwardArgs<bf16>{.logits = logits.view(), .targets = targets.view(), .d_logits = d_logits});
  };
  auto const reset = [&] { test::poison(ctx, losses), test::poison(ctx, d_logits); };
  test::expect_repeatable(ctx, reset, run, losses, d_logits);
}
