#include <blackmamba/cuda.cuh>

#include "cuda/expert_problem.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::ExpertProblem;
using test::ExpertSize;
using test::random_tensor;
using test::same_bits;
using test::within;
using verify::ExpertMlpProblem;

namespace {

template <class T>
void expect_right(Cuda const& ctx, ExpertSize const& size) {
  INFO(concat(scalar_traits<T>::name, ", ", describe(size)));
  ExpertProblem<T> const problem{size};
  auto const got = problem.run(ctx);
  auto const exact = problem.template as<double>().run(Reference{});
  Index const there = problem.offsets(problem.E);
  auto const part = [&](auto const& tensor) { return tensor.view().slice(0, 0, there); };
  CHECK_CLOSE(verify::compare_with(part(got.y), part(exact.y), within<T>(problem.forward_cost())));
  if (size.hidden)
    CHECK_CLOSE(verify::compare_with(part(got.hidden), part(exact.hidden),
                                     within<T>({.terms = static_cast<double>(problem.D), .scale = 1})));
  auto const within_backward = within<T>(problem.backward_cost());
  CHECK_CLOSE(verify::compare_with(part(got.d.x), part(exact.d.x), within_backward));
  got.d.each(exact.d, [&](std::string_view name, auto const& mine, auto const& its) {
    INFO(concat("gradient of ", name));
    if (name != "x") CHECK_CLOSE(verify::compare_with(mine.view(), its.view(), within_backward));
  });
  Index written = 0;
  for (Index r = there; r < problem.rows; ++r)
    for (Index d = 0; d < problem.D; ++d) written += widen(got.y(r, d)) != 77 || widen(got.d.x(r, d)) != 77;
  CHECK(written == 0);
}

constexpr Activation kinds[]{Activation::identity, Activation::relu,     Activation::relu_squared,
                             Activation::silu,     Activation::gelu_erf, Activation::gelu_tanh};

}  // namespace

GPU_TEST_TEMPLATE("expert_mlp on a GPU: every size of the public check agrees with the reference", T, float, double, Half, bf16) {
  Cuda const ctx;
  auto report = verify::check<ExpertMlpProblem, T>(ctx);
  INFO(report.table());
  CHECK(static_cast<bool>(report));
}

GPU_TEST_TEMPLATE("expert_mlp and its gradients on a GPU: any scalar and strides of shapes agree with the double reference", T,
                  float, double, Half, bf16) {
  Cuda const ctx;
  // Odd widths take the plain way in every scalar.
  expect_right<T>(ctx, {{0}, 3, 5});
  expect_right<T>(ctx, {{1}, 1, 1});
  expect_right<T>(ctx, {{3, 0, 200}, 33, 65, Activation::silu, true, true, true, 3});
  expect_right<T>(ctx, {{129, 64, 1}, 130, 63, Activation::gelu_tanh, false, true, false, 1});
  expect_right<T>(ctx, {{5, 2}, 3, 0});
  expect_right<T>(ctx, {{5, 2}, 0, 3});
  // Multiples of 8 are for the tensor cores where there are some.
  expect_right<T>(ctx, {{100, 0, 30, 129}, 64, 72, Activation::gelu_erf, true, true, true, 5});
  for (auto kind : kinds) expect_right<T>(ctx, {{7, 90}, 24, 40, kind, kind != Activation::relu, true, kind != Activation::silu});
}

GPU_TEST_TEMPLATE("expert_mlp and its gradients on a GPU: tiles that end anywhere agree with the double reference", T, Half, bf16) {
  Cuda const ctx;
  bool odd = false;
  for (auto const& [D, F] : {std::pair<Index, Index>{8, 8}, {136, 264}, {384, 128}, {400, 136}, {72, 520}})
    for (auto const& counts : {std::vector<Index>{127, 129, 0, 1}, {0, 500, 0}, {64, 63, 65, 2, 190}, {128, 385, 257, 255}}) {
      expect_right<T>(ctx, {counts, D, F, odd ? Activation::silu : Activation::gelu_erf, D != 136, odd, D != 72, odd ? 4 : 0});
      odd = !odd;
    }
  // More than 16 tiles down, and more than 32 experts.
  expect_right<T>(ctx, {{2500, 40}, 64, 72, Activation::silu, true, false, true});
  std::vector<Index> many;
  for (Index e = 0; e < 75; ++e) many.push_back(e * 37 % 11 == 0 ? 0 : e * 53 % 160);
  expect_right<T>(ctx, {many, 16, 24, Activation::relu_squared, true, true, true});
  // Many tiles for each block, some experts without any, and every end of what is done with a tile.
  many.clear();
  for (Index e = 0; e < 700; ++e) many.push_back(e * 53 % 41);
  for (bool gated : {false, true}) expect_right<T>(ctx, {many, 16, 24, Activation::gelu_erf, gated, gated, !gated});
}

GPU_TEST_TEMPLATE("expert_mlp and its gradients on a GPU: several long tiles for each block give what the plain kernels give", T,
                  bf16) {
  Cuda const ctx;
  for (bool gated : {true, false}) {
    INFO(concat("gated ", gated));
    ExpertProblem<T> const p{ExpertSize{{1800, 0, 64, 129, 2100, 1, 900}, 328, 1032, Activation::gelu_erf, gated, gated, true, 5}};
    auto const got = p.run(ctx), apart = p.run(ctx, 8, 1), plain = p.run(ctx, 1, 1);
    CHECK(got.spilled + apart.spilled + plain.spilled == 0);
    CHECK(same_bits(got.y, apart.y));
    CHECK(same_bits(got.hidden, apart.hidden));
    got.d.each(apart.d, [](std::string_view name, auto const& a, auto const& b) {
      INFO(concat("gradient of ", name));
      CHECK(same_bits(a, b));
    });
    auto const twice = [](verify::Cost cost) {  // both are this far from what is exact
      cost.roundings *= 2, cost.terms *= 4;
      return within<T>(cost);
    };
    CHECK_CLOSE(verify::compare_with(got.y.view(), plain.y.view(), twice(p.forward_cost())));
    CHECK_CLOSE(verify::compare_with(got.hidden.view(), plain.hidden.view(), twice(p.forward_cost())));
    got.d.each(plain.d, [&](std::string_view name, auto const& a, auto const& b) {
      INFO(concat("gradient of ", name));
      CHECK_CLOSE(verify::compare_with(a.view(), b.view(), twice(p.backward_cost())));
    });
  }
}

GPU_TEST_TEMPLATE("expert_mlp on a GPU: few rows, however they are spread, agree with the double reference", T, Half, bf16) {
  Cuda const ctx;
  for (auto const& counts : {std::vector<Index>{1}, {0, 1, 0, 0}, {0, 33, 2, 8}, {9, 7, 16, 1, 0, 24, 3, 4}, {0, 100, 0, 1}})
    for (auto const& [D, F] : {std::pair<Index, Index>{8, 8}, {72, 200}, {520, 48}})
      expect_right<T>(ctx, {counts, D, F, D == 72 ? Activation::silu : Activation::gelu_erf, D != 8, D != 520, F != 48, 2});
}

GPU_TEST_TEMPLATE("expert_mlp on a GPU: any strides give what contiguous memory gives, and the output may be the input", T, float,
                  Half, bf16) {
  Cuda const ctx;
  for (Index F : {40, 31}) {
    ExpertProblem<T> const p{ExpertSize{{100, 0, 45}, 48, F, Activation::silu}};
    auto const exact = p.template as<double>().run(Reference{});
    auto const turned = [&](auto const& tensor, int a, int b) {
      constexpr int rank = std::remove_cvref_t<decltype(tensor)>::rank;
      return to_device(ctx, converted<T>(View<T const, rank>{tensor}.transposed(a, b)));
    };
    auto const x = turned(p.x.view(), 0, 1), d_y = turned(p.d_y.view(), 0, 1);
    auto const fc1 = turned(p.fc1.view(), 1, 2), fc2 = turned(p.fc2.view(), 0, 2);
    auto const offsets = to_device(ctx, p.offsets);
    auto const bias1 = to_device(ctx, p.bias1), bias2 = to_device(ctx, p.bias2);
    auto const start = p.start();
    auto const d_fc1 = to_device(ctx, converted<accumulator_t<T>>(start.fc1.view().transposed(0, 1)));
    auto const d_fc2 = to_device(ctx, converted<accumulator_t<T>>(start.fc2.view().transposed(1, 2)));
    DeviceTensor<T, 2> const y{ctx, Shape{p.D, p.rows}}, d_x{ctx, Shape{p.D, p.rows}};
    ExpertMlpArgs<T> f{.x = x.view().transposed(0, 1),
                       .offsets = offsets.view(),
                       .fc1 = fc1.view().transposed(1, 2),
                       .bias1 = bias1.view(),
                       .fc2 = fc2.view().transposed(0, 2),
                       .bias2 = bias2.view(),
                       .activation = p.s.kind,
                       .gated = true,
                       .y = y.view().transposed(0, 1)};
    expert_mlp(ctx, f);
    expert_mlp_backward(ctx, ExpertMlpBackwardArgs<T>{.x = f.x,
                                                      .offsets = f.offsets,
                                                      .fc1 = f.fc1,
                                                      .bias1 = f.bias1,
                                                      .fc2 = f.fc2,
                                                      .activation = p.s.kind,
                                                      .gated = true,
                                                      .d_y = d_y.view().transposed(0, 1),
                                                      .d_x = d_x.view().transposed(0, 1),
                                                      .d_fc1 = d_fc1.view().transposed(0, 1),
                                                      .d_fc2 = d_fc2.view().transposed(1, 2)});
    auto const expect = [&](auto const& got, auto const& expected, verify::Cost const& cost) {
      CHECK_CLOSE(verify::compare_with(got, expected.view(), within<T>(cost)));
    };
    expect(to_host(ctx, y).view().transposed(0, 1), exact.y, p.forward_cost());
    expect(to_host(ctx, d_x).view().transposed(0, 1), exact.d.x, p.backward_cost());
    expect(to_host(ctx, d_fc1).view().transposed(0, 1), exact.d.fc1, p.backward_cost());
    expect(to_host(ctx, d_fc2).view().transposed(1, 2), exact.d.fc2, p.backward_cost());

    // In place, and weights' gradients with columns apart.
    auto const both = to_device(ctx, p.x), d_both = to_device(ctx, p.d_y);
    auto const fc1_rows = to_device(ctx, p.fc1), fc2_rows = to_device(ctx, p.fc2);
    auto const x_rows = to_device(ctx, p.x);
    auto const d_turned = to_device(ctx, converted<accumulator_t<T>>(start.fc1.view().transposed(1, 2)));
    f.x = both.view(), f.y = both.view(), f.fc1 = fc1_rows.view(), f.fc2 = fc2_rows.view();
    expert_mlp(ctx, f);
    expert_mlp_backward(ctx, ExpertMlpBackwardArgs<T>{.x = x_rows.view(),
                                                      .offsets = f.offsets,
                                                      .fc1 = f.fc1,
                                                      .bias1 = f.bias1,
                                                      .fc2 = f.fc2,
                                                      .activation = p.s.kind,
                                                      .gated = true,
                                                      .d_y = d_both.view(),
                                                      .d_x = d_both.view(),
                                                      .d_fc1 = d_turned.view().transposed(1, 2)});
    expect(to_host(ctx, both).view(), exact.y, p.forward_cost());
    expect(to_host(ctx, d_both).view(), exact.d.x, p.backward_cost());
    expect(to_host(ctx, d_turned).view().transposed(1, 2), exact.d.fc1, p.backward_cost());
  }
}

GPU_TEST_TEMPLATE("expert_mlp_backward on a GPU: weights' gradients with rows any distance apart are added to, and nothing between",
                  T, Half, bf16) {
  Cuda const ctx;
  ExpertProblem<T> const p{ExpertSize{{300, 0, 45, 200}, 136, 200, Activation::gelu_erf}};
  auto const exact = p.template as<double>().run(Reference{});
  auto const start = p.start();
  auto const x = to_device(ctx, p.x), d_y = to_device(ctx, p.d_y);
  auto const fc1 = to_device(ctx, p.fc1), fc2 = to_device(ctx, p.fc2);
  auto const bias1 = to_device(ctx, p.bias1);
  auto const offsets = to_device(ctx, p.offsets);
  for (Index gap : {0, 1, 2, 4, 6}) {
    CAPTURE(gap);
    constexpr float between = 7;
    auto const apart = [&](Tensor<float, 3> const& rows) {
      Tensor<float, 3> out{Shape<3>{rows.extent(0), rows.extent(1), rows.extent(2) + gap}};
      for (Index e = 0; e < out.extent(0); ++e)
        for (Index r = 0; r < out.extent(1); ++r)
          for (Index c = 0; c < out.extent(2); ++c) out(e, r, c) = c < rows.extent(2) ? rows(e, r, c) : between;
      return to_device(ctx, out);
    };
    auto const d_fc1 = apart(start.fc1), d_fc2 = apart(start.fc2);
    auto const rows_of = [&](auto const& all) { return all.view().slice(2, 0, all.view().extent(2) - gap); };
    expert_mlp_backward(ctx, ExpertMlpBackwardArgs<T>{.x = x.view(),
                                                      .offsets = offsets.view(),
                                                      .fc1 = fc1.view(),
                                                      .bias1 = bias1.view(),
                                                      .fc2 = fc2.view(),
                                                      .activation = p.s.kind,
                                                      .gated = true,
                                                      .d_y = d_y.view(),
                                                      .d_x = {},
                                                      .d_fc1 = rows_of(d_fc1),
                                                      .d_bias1 = {},
                                                      .d_fc2 = rows_of(d_fc2)});
    auto const got1 = to_host(ctx, d_fc1), got2 = to_host(ctx, d_fc2);
    CHECK_CLOSE(verify::compare_with(rows_of(got1), exact.d.fc1.view(), within<T>(p.backward_cost())));
    CHECK_CLOSE(verify::compare_with(rows_of(got2), exact.d.fc2.view(), within<T>(p.backward_cost())));
    Index changed = 0;
    for (auto const* all : {&got1, &got2})
      for (Index e = 0; e < all->extent(0); ++e)
        for (Index r = 0; r < all->extent(1); ++r)
          for (Index c = all->extent(2) - gap; c < all->extent(2); ++c) changed += (*all)(e, r, c) != between;
    CHECK(changed == 0);
  }
}
