#include <blackmamba/cuda.cuh>
#include <blackmamba/verify/problems/expert_mlp.hpp>

#include <cmath>
#include <limits>

#include "cuda/support.cuh"

using namespace blackmamba;
using Half = blackmamba::half;
using test::random_tensor;
using test::same_bits;
using verify::ExpertMlpProblem;
using verify::ExpertMlpSize;

namespace {

/// Experts with so many rows each, and some rows that belong to none, whose values are NaN.
struct Size {
  std::vector<Index> counts;
  Index D, F;
  Activation kind = Activation::gelu_erf;
  bool gated = true, biases = true, hidden = true;
  Index dropped = 0;
};
std::string describe(Size const& s) {
  std::string counts;
  for (Index c : s.counts) counts += concat(" ", c);
  return concat("rows", counts, " and ", s.dropped, ", D ", s.D, ", F ", s.F, ", ", to_string(s.kind), s.gated ? ", gated" : "",
                s.biases ? ", biases" : "", s.hidden ? ", hidden" : "");
}

template <class T>
struct Gradients {
  using A = accumulator_t<T>;
  Tensor<T, 2> x;
  Tensor<A, 3> fc1, fc2;
  Tensor<A, 2> bias1, bias2;
  template <class U>
  void each(Gradients<U> const& other, auto&& body) const {
    body("x", x, other.x), body("fc1", fc1, other.fc1), body("bias1", bias1, other.bias1);
    body("fc2", fc2, other.fc2), body("bias2", bias2, other.bias2);
  }
};

template <class T>
struct Problem {
  using A = accumulator_t<T>;
  Size s;
  Index E, rows, D, F, F1;
  Tensor<Index, 1> offsets;
  Tensor<T, 2> x, d_y;
  Tensor<T, 3> fc1, fc2;
  Tensor<T, 2> bias1, bias2;

  explicit Problem(Size const& size)
      : s{size}, E{static_cast<Index>(s.counts.size())}, D{s.D}, F{s.F}, F1{s.gated ? 2 * s.F : s.F}, offsets{Shape{E + 1}} {
    for (Index e = 0; e < E; ++e) offsets(e + 1) = offsets(e) + s.counts[static_cast<std::size_t>(e)];
    rows = offsets(E) + s.dropped;
    auto const fan = [](Index n) { return 1 / std::sqrt(static_cast<double>(std::max(n, Index{1}))); };
    x = random_tensor<T>(Shape{rows, D}, 1), d_y = random_tensor<T>(Shape{rows, D}, 6);
    fc1 = random_tensor<T>(Shape{E, F1, D}, 2, fan(D)), fc2 = random_tensor<T>(Shape{E, D, F}, 3, fan(F));
    bias1 = random_tensor<T>(Shape{E, F1}, 4, 0.5), bias2 = random_tensor<T>(Shape{E, D}, 5, 0.5);
    for (Index r = offsets(E); r < rows; ++r)
      for (Index d = 0; d < D; ++d) x(r, d) = d_y(r, d) = static_cast<T>(std::numeric_limits<A>::quiet_NaN());
  }

  template <class To>
  Problem<To> as() const {
    Problem<To> out{Size{{}, D, F}};
    out.s = s, out.E = E, out.rows = rows, out.F1 = F1, out.offsets = offsets.clone();
    out.x = converted<To>(x), out.d_y = converted<To>(d_y), out.fc1 = converted<To>(fc1), out.fc2 = converted<To>(fc2);
    out.bias1 = converted<To>(bias1), out.bias2 = converted<To>(bias2);
    return out;
  }

  Gradients<T> start() const {
    Gradients<T> out{Tensor<T, 2>{x.shape()}, random_tensor<A>(fc1.shape(), 7), random_tensor<A>(fc2.shape(), 8),
                     random_tensor<A>(bias1.shape(), 9), random_tensor<A>(bias2.shape(), 10)};
    for (T& v : out.x) v = static_cast<T>(A(77));
    return out;
  }

  /// y, h and the gradients. `place` brings tensors to where the context's operations read them.
  struct Outputs {
    Tensor<T, 2> y, hidden;
    Gradients<T> d;
  };
  template <class Ctx>
  Outputs run(Ctx const& ctx, bool backward = true) const {
    Outputs out{Tensor<T, 2>{x.shape()}, Tensor<T, 2>{Shape{rows, F1}}, start()};
    for (T& v : out.y) v = static_cast<T>(A(77));
    for (T& v : out.hidden) v = static_cast<T>(A(77));
    verify::Placement<Ctx> place{ctx};
    ExpertMlpArgs<T> const f{.x = place.in(x),
                             .offsets = place.in(offsets),
                             .fc1 = place.in(fc1),
                             .bias1 = place.in(bias1, s.biases),
                             .fc2 = place.in(fc2),
                             .bias2 = place.in(bias2, s.biases),
                             .activation = s.kind,
                             .gated = s.gated,
                             .y = place.out(out.y),
                             .hidden = place.out(out.hidden, s.hidden)};
    expert_mlp(ctx, f);
    if (backward)
      expert_mlp_backward(ctx, ExpertMlpBackwardArgs<T>{.x = f.x,
                                                        .offsets = f.offsets,
                                                        .fc1 = f.fc1,
                                                        .bias1 = f.bias1,
                                                        .fc2 = f.fc2,
                                                        .bias2 = f.bias2,
                                                        .activation = s.kind,
                                                        .gated = s.gated,
                                                        .d_y = place.in(d_y),
                                                        .d_x = place.out(out.d.x),
                                                        .d_fc1 = place.out(out.d.fc1),
                                                        .d_bias1 = place.out(out.d.bias1),
                                                        .d_fc2 = place.out(out.d.fc2),
                                                        .d_bias2 = place.out(out.d.bias2),
                                                        .hidden = f.hidden});
    place.finish();
    return out;
  }

  verify::Cost forward_cost() const { return {.terms = static_cast<double>(D + F), .roundings = s.gated ? 4.0 : 3.0, .scale = 1}; }
  /// As for the CPU: h, d_a, both halves of d_h and d_x are stored, and through the curvature of the activation an error of h
  /// reaches the result as often as one of d_h.
  verify::Cost backward_cost() const {
    return {.terms = static_cast<double>(2 * D + F1 + rows), .roundings = s.gated ? 6.0 : 4.0, .scale = 1};
  }
};

template <class T>
auto within(verify::Cost const& cost) {
  return [cost](double value, double scale) { return verify::allowed_error<T>(cost, value, scale); };
}

template <class T>
void expect_right(Cuda const& ctx, Size const& size) {
  INFO(concat(scalar_traits<T>::name, ", ", describe(size)));
  Problem<T> const problem{size};
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
    for (auto const& counts : {std::vector<Index>{127, 129, 0, 1}, {500}, {64, 63, 65, 2, 190}}) {
      expect_right<T>(ctx, {counts, D, F, odd ? Activation::silu : Activation::gelu_erf, D != 136, odd, D != 72, odd ? 4 : 0});
      odd = !odd;
    }
  // More than 16 tiles down, and more than 32 experts.
  expect_right<T>(ctx, {{2500, 40}, 64, 72, Activation::silu, true, false, true});
  std::vector<Index> many;
  for (Index e = 0; e < 75; ++e) many.push_back(e * 37 % 11 == 0 ? 0 : e * 53 % 160);
  expect_right<T>(ctx, {many, 16, 24, Activation::relu_squared, true, true, true});
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
    Problem<T> const p{Size{{100, 0, 45}, 48, F, Activation::silu}};
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

GPU_TEST("expert_mlp on a GPU: h kept or computed again gives the same gradients, bit for bit") {
  Cuda const ctx;
  for (Index D : {64, 31}) {
    Size size{{100, 3, 140}, D, 72};
    auto const kept = Problem<bf16>{size}.run(ctx);
    size.hidden = false;
    auto const again = Problem<bf16>{size}.run(ctx);
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
    Problem<bf16> const p{Size{counts, 136, 264}};
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
      Problem<bf16> p{Size{counts, D, 24}};
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
