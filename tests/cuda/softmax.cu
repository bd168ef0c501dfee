#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/softmax.hpp>

#include <limits>

#include "cuda/layouts.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::expect_right;
using test::Laid;
using test::Layout;
using test::random_tensor;
using verify::LogSoftmaxProblem;
using verify::SoftmaxProblem;

GPU_TEST_TEMPLATE("softmax and log_softmax on a GPU: every shape agrees with the double reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  std::vector<verify::SoftmaxSize> const large{{700, 8}, {40, 512}, {3, 2047}, {3, 2048}, {3, 2049}, {300, 4100}, {2, 50304}};
  expect_right(verify::check<SoftmaxProblem, T>(ctx));
  expect_right(verify::check<SoftmaxProblem, T>(ctx, {}, large));
  expect_right(verify::check<LogSoftmaxProblem, T>(ctx));
  expect_right(verify::check<LogSoftmaxProblem, T>(ctx, {}, large));
}

GPU_TEST("softmax on a GPU: any strides agree with the double reference and touch nothing else, in place too") {
  Cuda const ctx;
  for (Shape<2> const& shape : {Shape<2>{5, 48}, Shape<2>{9, 35}, Shape<2>{3, 4099}, Shape<2>{4, 1}}) {
    auto const x = random_tensor<bf16>(shape, 1, 3);
    auto const wide = converted<double>(x);
    Tensor<double, 2> y{shape}, logarithms{shape};
    softmax(Reference{}, SoftmaxArgs<double>{.x = wide, .y = y});
    log_softmax(Reference{}, SoftmaxArgs<double>{.x = wide, .y = logarithms});
    auto const D = static_cast<double>(shape[1]);
    test::for_layouts([&](Layout in, Layout out) {
      Laid<bf16> from{ctx, x, in}, to{ctx, verify::unwritten<bf16>(shape), out};
      softmax(ctx, SoftmaxArgs<bf16>{.x = from.view(), .y = to.view()});
      CHECK_CLOSE(verify::compare(to.result().view(), y.view(), {.terms = D}));
      log_softmax(ctx, SoftmaxArgs<bf16>{.x = from.view(), .y = to.view()});
      CHECK_CLOSE(verify::compare(to.result().view(), logarithms.view(), {.terms = D, .scale = 3}));
      softmax(ctx, SoftmaxArgs<bf16>{.x = from.view(), .y = from.view()});
      CHECK_CLOSE(verify::compare(from.result().view(), y.view(), {.terms = D}));
    });
  }
}

GPU_TEST_TEMPLATE("softmax on a GPU: -inf gets nothing; NaN, +inf and rows of -inf become NaN, and only they", T, float, bf16) {
  Cuda const ctx;
  constexpr float infinite = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (Index D : {5, 300, 9000}) {
    auto x = random_tensor<T>(Shape<2>{8, D}, 1);
    for (Index i = 0; i < D; ++i) {
      x(0, i) = static_cast<T>(-infinite), x(6, i) = static_cast<T>(i == D - 1 ? 2.0f : -infinite);
      x(7, i) = static_cast<T>(2.0f);
      if (i % 3) x(1, i) = static_cast<T>(-infinite);
    }
    x(2, D / 2) = static_cast<T>(nan), x(3, D - 1) = static_cast<T>(infinite), x(4, 0) = static_cast<T>(nan);
    for (Index i = 1; i < D; ++i) x(4, i) = static_cast<T>(-infinite);
    auto const there = to_device(ctx, x);
    auto const wide = converted<double>(x);
    DeviceTensor<T, 2> const y{ctx, x.shape()};
    Tensor<double, 2> expected{x.shape()};
    softmax(Reference{}, SoftmaxArgs<double>{.x = wide, .y = expected});
    softmax(ctx, SoftmaxArgs<T>{.x = there.view(), .y = y});
    CHECK_CLOSE(verify::compare(to_host(ctx, y).view(), expected.view(), {.terms = static_cast<double>(D)}));
    log_softmax(Reference{}, SoftmaxArgs<double>{.x = wide, .y = expected});
    log_softmax(ctx, SoftmaxArgs<T>{.x = there.view(), .y = y});
    CHECK_CLOSE(verify::compare(to_host(ctx, y).view(), expected.view(), {.terms = static_cast<double>(D), .scale = 3}));
  }
}

GPU_TEST("log_softmax on a GPU: a logarithm near 0 keeps its digits") {
  Cuda const ctx;
  for (Index D : {2, 100, 50000}) {
    Tensor<float, 2> x{Shape<2>{1, D}};
    for (float& one : x) one = -30;
    x(0, D / 2) = 0;
    auto const there = to_device(ctx, x);
    DeviceTensor<float, 2> const y{ctx, x.shape()};
    log_softmax(ctx, SoftmaxArgs<float>{.x = there.view(), .y = y});
    double const expected = -std::log1p(static_cast<double>(D - 1) * std::exp(-30.0));
    // Relative to itself: e^-30 is within 30 roundings of its argument.
    Tensor<double, 2> const exact = [&] {
      Tensor<double, 2> t{Shape<2>{1, 1}};
      t(0, 0) = expected;
      return t;
    }();
    CHECK_CLOSE(
        verify::compare(to_host(ctx, y).view().slice(1, D / 2, 1), exact.view(), {.terms = static_cast<double>(D), .gain = 4}));
  }
}

GPU_TEST("softmax on a GPU: the same bits twice, and in a graph that allocates nothing") {
  Cuda const ctx;
  auto const x = to_device(ctx, random_tensor<bf16>(Shape<2>{70, 5000}, 1, 3));
  DeviceTensor<bf16, 2> const y{ctx, x.shape()};
  auto const run = [&] { softmax(ctx, SoftmaxArgs<bf16>{.x = x.view(), .y = y}); };
  test::expect_repeatable(
      ctx, [&] { test::poison(ctx, y); }, run, y);
}
