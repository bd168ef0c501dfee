#include <blackmamba/ops/adamw/adamw.hpp>

#include <cstring>
#include <limits>
#include <vector>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// The arrays of one parameter vector; the second moment is a square's mean, so not negative.
template <class T>
struct Arrays {
  using A = accumulator_t<T>;
  Tensor<A, 1> master, gradient, first, second;
  Tensor<T, 1> weights;

  static Arrays make(Index n) {
    Arrays out{test::random_tensor<A>(Shape{n}, 1), test::random_tensor<A>(Shape{n}, 2), test::random_tensor<A>(Shape{n}, 3),
               test::random_tensor<A>(Shape{n}, 4), Tensor<T, 1>{Shape{n}}};
    for (A& v : out.second) v = v * v + A(0.25);
    return out;
  }
  Arrays clone() const { return {master.clone(), gradient.clone(), first.clone(), second.clone(), weights.clone()}; }
  template <class To>
  Arrays<To> in() const {
    return {converted<accumulator_t<To>>(master), converted<accumulator_t<To>>(gradient), converted<accumulator_t<To>>(first),
            converted<accumulator_t<To>>(second), Tensor<To, 1>{weights.shape()}};
  }

  AdamWArgs<T> args(std::vector<AdamWSegment> const& segments) {
    return {.master = master,
            .gradient = gradient,
            .first = first,
            .second = second,
            .weights = weights,
            .segments = {segments.data(), Shape<1>{static_cast<Index>(segments.size())}},
            .step = 3,
            .learning_rate = 0.05,
            .weight_decay = 0.1,
            .gradient_scale = 0.5};
  }
};

template <class T>
bool same_bits(Tensor<T, 1> const& a, Tensor<T, 1> const& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}
template <class T>
bool same_bits(Arrays<T> const& a, Arrays<T> const& b) {
  return same_bits(a.master, b.master) && same_bits(a.first, b.first) && same_bits(a.second, b.second) &&
         same_bits(a.weights, b.weights);
}

/// Segments of every awkward length, with gaps between them, until the array is full.
std::vector<AdamWSegment> awkward(Index n) {
  std::vector<AdamWSegment> out;
  Index at = 0;
  for (Index i = 0; at < n; ++i) {
    Index const length = std::min<Index>(i * i % 37, n - at);
    out.push_back({at, length, i % 3 != 0});
    at += length + i % 2;
  }
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("adamw: every scalar and length agrees with the double reference on every context", T, float, double, half,
                   bf16) {
  for (Index n : {0, 1, 3, 4, 5, 7, 8, 9, 64, 127, 1009})
    for (bool whole : {true, false}) {
      INFO(concat("n ", n, ", whole ", whole));
      auto const segments = whole ? std::vector<AdamWSegment>{{0, n, true}} : awkward(n);
      auto const start = Arrays<T>::make(n);
      auto exact = start.template in<double>();
      adamw(Reference{}, exact.args(segments));
      auto const check = [&](auto const& ctx) {
        auto got = start.clone();
        adamw(ctx, got.args(segments));
        verify::Cost const cost{.terms = 4, .scale = 1};
        CHECK_CLOSE(verify::compare(got.master.view(), exact.master.view(), cost));
        CHECK_CLOSE(verify::compare(got.first.view(), exact.first.view(), cost));
        CHECK_CLOSE(verify::compare(got.second.view(), exact.second.view(), cost));
        CHECK_CLOSE(verify::compare(got.weights.view(), exact.weights.view(), cost));
      };
      check(Reference{});
      check(Cpu{1});
      check(Cpu{2});
    }
}

TEST_CASE_TEMPLATE("adamw: segments that cross the pieces of the work give the same bits on 1, 2 and 3 threads", T, float, bf16) {
  auto const start = Arrays<T>::make(50021);
  auto const segments = awkward(50021);
  auto const run = [&](int threads) {
    auto out = start.clone();
    adamw(Cpu{threads}, out.args(segments));
    return out;
  };
  auto const one = run(1);
  CHECK(same_bits(one, run(2)));
  CHECK(same_bits(one, run(3)));
}

TEST_CASE("adamw: elements outside every segment keep their bits, and what a segment holds does not depend on its neighbours") {
  auto const start = Arrays<float>::make(40);
  for (auto const& ctx : {Cpu{1}, Cpu{2}}) {
    auto some = start.clone(), all = start.clone(), none = start.clone();
    adamw(ctx, some.args({{3, 11, true}, {20, 17, false}}));
    adamw(ctx, all.args({{0, 16, true}, {16, 24, false}}));
    adamw(ctx, none.args({}));
    CHECK(same_bits(none, start));
    for (Index i = 0; i < 40; ++i) {
      bool const inside = (i >= 3 && i < 14) || (i >= 20 && i < 37);
      CHECK(some.master(i) == (inside ? all : start).master(i));
      CHECK(some.second(i) == (inside ? all : start).second(i));
      CHECK(some.weights(i) == (inside ? all : start).weights(i));
    }
  }
}

TEST_CASE_TEMPLATE("adamw: no gradient, no moments and no decay leave every weight bit for bit", Ctx, Reference, Cpu) {
  constexpr float extremes[]{0.0f,
                             -0.0f,
                             1.0f,
                             -3.25f,
                             std::numeric_limits<float>::denorm_min(),
                             -std::numeric_limits<float>::max(),
                             std::numeric_limits<float>::infinity()};
  for (bool by_segment : {true, false})
    for (Index n : {7, 8, 23}) {
      Arrays<float> a{Tensor<float, 1>{Shape{n}}, Tensor<float, 1>{Shape{n}}, Tensor<float, 1>{Shape{n}},
                      Tensor<float, 1>{Shape{n}}, Tensor<float, 1>{Shape{n}}};
      for (Index i = 0; i < n; ++i) a.master(i) = extremes[i % 7];
      auto const before = a.master.clone();
      std::vector<AdamWSegment> const segments{{0, n, !by_segment}};
      auto args = a.args(segments);
      if (!by_segment) args.weight_decay = 0;
      for (args.step = 1; args.step <= 1000; ++args.step) adamw(Ctx{}, args);
      CHECK(same_bits(a.master, before));
      CHECK(same_bits(a.weights, before));
    }
}

TEST_CASE_TEMPLATE("adamw: a constant gradient moves every weight by the learning rate a step, whatever the gradient's size", Ctx,
                   Reference, Cpu) {
  // The moments are unbiased, so m̂ = g and v̂ = g² at every step, and with ε far below |g| the step is η sign(g).
  constexpr Index n = 13, steps = 200;
  Arrays<double> a{Tensor<double, 1>{Shape{n}}, Tensor<double, 1>{Shape{n}}, Tensor<double, 1>{Shape{n}},
                   Tensor<double, 1>{Shape{n}}, Tensor<double, 1>{Shape{n}}};
  Tensor<double, 1> expected{Shape{n}};
  for (Index i = 0; i < n; ++i) {
    a.gradient(i) = std::pow(10.0, static_cast<double>(i - 6)) * (i % 2 ? -1 : 1);
    expected(i) = (i % 2 ? 1 : -1) * 0.05 * steps;
  }
  std::vector<AdamWSegment> const segments{{0, n, true}};
  auto args = a.args(segments);
  args.weight_decay = 0;
  args.epsilon = 1e-30;
  for (args.step = 1; args.step <= steps; ++args.step) adamw(Ctx{}, args);
  CHECK_CLOSE(verify::compare(a.master.view(), expected.view(), {.terms = steps}));
}

TEST_CASE_TEMPLATE("adamw: without a gradient, decay is the closed form (1 - η λ)^t and nothing else", Ctx, Reference, Cpu) {
  constexpr Index n = 9, steps = 300;
  auto a = Arrays<double>::make(n);
  auto const start = a.master.clone();
  Tensor<double, 1> expected{Shape{n}};
  for (Index i = 0; i < n; ++i) {
    a.gradient(i) = a.first(i) = a.second(i) = 0;
    expected(i) = start(i) * (i < 5 ? std::pow(1 - 0.05 * 0.1, steps) : 1);
  }
  std::vector<AdamWSegment> const segments{{0, 5, true}, {5, 4, false}};
  auto args = a.args(segments);
  for (args.step = 1; args.step <= steps; ++args.step) adamw(Ctx{}, args);
  CHECK_CLOSE(verify::compare(a.master.view(), expected.view(), {.terms = steps}));
}

TEST_CASE_TEMPLATE("adamw: a thousand steps of changing gradients follow the sums written out, in long double", Ctx, Reference,
                   Cpu) {
  // The moments are sums over all earlier gradients: m_t = (1 - β₁) Σ_s β₁^(t-s) g_s. No recurrence shared with the code.
  constexpr Index n = 5, steps = 1000;
  auto a = Arrays<double>::make(n);
  Tensor<double, 2> gradients{Shape<2>{steps, n}};
  for (Index i = 0; i < n; ++i) a.first(i) = a.second(i) = 0;
  std::vector<long double> w(n);
  for (Index i = 0; i < n; ++i) w[static_cast<std::size_t>(i)] = a.master(i);
  std::vector<AdamWSegment> const segments{{0, n, true}};
  Tensor<double, 1> expected{Shape{n}};
  auto args = a.args(segments);
  for (Index t = 1; t <= steps; ++t) {
    for (Index i = 0; i < n; ++i)
      gradients(t - 1, i) = a.gradient(i) = std::sin(0.1 * static_cast<double>(t * (i + 1))) + 0.2 * static_cast<double>(i);
    args.step = t;
    adamw(Ctx{}, args);
    for (Index i = 0; i < n; ++i) {
      long double m = 0, v = 0, p1 = 1, p2 = 1, sum1 = 0, sum2 = 0;
      for (Index s = t; s >= 1; --s, p1 *= 0.9L, p2 *= 0.95L) {
        long double const g = 0.5L * static_cast<long double>(gradients(s - 1, i));
        m += p1 * g, v += p2 * g * g, sum1 += p1, sum2 += p2;
      }
      auto& x = w[static_cast<std::size_t>(i)];
      x -= 0.05L * ((m / sum1) / (std::sqrt(v / sum2) + 1e-8L) + 0.1L * x);
      expected(i) = static_cast<double>(x);
    }
  }
  CHECK_CLOSE(verify::compare(a.master.view(), expected.view(), {.terms = steps, .scale = 1}));
}

TEST_CASE_TEMPLATE("adamw: steps far below half a unit in the last place of a narrow weight add up in the masters", T, bf16, half) {
  // At 1 the neighbours of a bf16 are 2^-7 and 2^-8 away and a step is 2^-14: written back each time it would be lost for ever.
  constexpr Index n = 11;
  constexpr double rate = 0x1p-14;
  auto const ones = [](auto like) {
    Tensor<decltype(like), 1> out{Shape{n}};
    for (auto& x : out) x = static_cast<decltype(like)>(1.0f);
    return out;
  };
  std::vector<AdamWSegment> const segments{{0, n, false}};
  Arrays<T> kept{ones(1.0f), ones(1.0f), Tensor<float, 1>{Shape{n}}, Tensor<float, 1>{Shape{n}}, ones(T{})};
  Arrays<T> stalled = kept.clone();
  for (Index step = 1; step <= 4096; ++step)
    for (Arrays<T>* arrays : {&kept, &stalled}) {
      auto args = arrays->args(segments);
      args.step = step, args.learning_rate = rate, args.gradient_scale = 1;
      adamw(Cpu{2}, args);
      if (arrays == &stalled)
        for (Index i = 0; i < n; ++i) stalled.master(i) = widen(stalled.weights(i));
    }
  for (Index i = 0; i < n; ++i) {
    CHECK(widen(kept.weights(i)) == 0.75f);
    CHECK(widen(stalled.weights(i)) == 1.0f);
  }
}

TEST_CASE("adamw: strided arrays take the reference path and give the same bits") {
  Index const n = 19;
  auto const start = Arrays<bf16>::make(n);
  std::vector<AdamWSegment> const segments{{1, 7, true}, {9, 10, false}};
  auto expected = start.clone(), got = start.clone();
  adamw(Reference{}, expected.args(segments));
  Tensor<float, 2> memory{Shape<2>{n, 3}};
  auto const column = memory.view().transposed(0, 1)[1];
  for (Index i = 0; i < n; ++i) column(i) = start.master(i);
  auto args = got.args(segments);
  args.master = column;
  adamw(Cpu{2}, args);
  for (Index i = 0; i < n; ++i) got.master(i) = column(i);
  CHECK(same_bits(got, expected));
}

TEST_CASE("adamw: the reference takes dual numbers, and the step's derivative by the gradient is the closed form's") {
  // At the first step with β₁ = β₂ = 0 the change is η g / (|g| + ε): its derivative by g is η ε / (|g| + ε)².
  Tensor<Dual<double>, 1> master{Shape<1>{1}}, gradient{Shape<1>{1}}, first{Shape<1>{1}}, second{Shape<1>{1}};
  gradient(0) = {0.5, 1.0};
  AdamWSegment const segment{0, 1, true};
  adamw(Reference{}, AdamWArgs<Dual<double>>{.master = master,
                                             .gradient = gradient,
                                             .first = first,
                                             .second = second,
                                             .segments = {&segment, Shape<1>{1}},
                                             .learning_rate = 0.1,
                                             .beta1 = 0,
                                             .beta2 = 0,
                                             .epsilon = 0.25});
  Tensor<double, 1> got{Shape<1>{2}}, expected{Shape<1>{2}};
  got(0) = master(0).value, got(1) = master(0).tangent;
  expected(0) = -0.1 * 0.5 / 0.75, expected(1) = -0.1 * 0.25 / (0.75 * 0.75);
  CHECK_CLOSE(verify::compare(got.view(), expected.view(), {}));
}

TEST_CASE_TEMPLATE("adamw: the numbers of a step may come from memory, and the step is that of the same numbers given", Ctx,
                   Reference, Cpu) {
  auto const start = Arrays<bf16>::make(301);
  std::vector<AdamWSegment> const segments{{0, 200, true}, {203, 98, false}};
  Tensor<AdamWScalars, 1> scalars{Shape<1>{1}};
  Tensor<double, 1> sum{Shape<1>{1}};
  for (double clip : {0.0, 2.0, 1e6}) {
    scalars(0) = {.steps = 4};
    sum(0) = 144;
    adamw_request(Ctx{}, AdamWRequestArgs{.learning_rate = 0.125, .gradient_scale = 0.5, .scalars = scalars});
    adamw_clip(Ctx{}, AdamWClipArgs<double>{.sum = sum, .clip = clip, .scalars = scalars});
    CHECK(scalars(0).applied);
    CHECK(scalars(0).gradient_norm == 6);
    CHECK(scalars(0).clip_factor == (clip == 2 ? 2.0 / 6 : 1.0));
    CHECK(scalars(0).steps == 5);
    auto given = start.clone(), got = start.clone();
    auto args = given.args(segments);
    args.step = 5, args.learning_rate = 0.125, args.gradient_scale = 0.5 * scalars(0).clip_factor;
    adamw(Ctx{}, args);
    args = got.args(segments);
    args.scalars = scalars;
    adamw(Ctx{}, args);
    CHECK(same_bits(got, given));
  }
}

TEST_CASE_TEMPLATE("adamw: a norm that is not finite, or too long, is no step and changes nothing", Ctx, Reference, Cpu) {
  auto const start = Arrays<float>::make(40);
  auto got = start.clone();
  Tensor<AdamWScalars, 1> scalars{Shape<1>{1}};
  Tensor<double, 1> sum{Shape<1>{1}};
  scalars(0) = {.learning_rate = 1, .steps = 4};
  for (double bad : {HUGE_VAL, std::numeric_limits<double>::quiet_NaN(), 101.0 * 101.0}) {
    sum(0) = bad;
    adamw_clip(Ctx{}, AdamWClipArgs<double>{.sum = sum, .longest = 100, .scalars = scalars});
    CHECK_FALSE(scalars(0).applied);
    CHECK(scalars(0).steps == 4);
    std::vector<AdamWSegment> const segments{{0, 40, true}};
    auto args = got.args(segments);
    args.scalars = scalars;
    adamw(Ctx{}, args);
    CHECK(same_bits(got, start));
  }
  // Clipping comes first.
  adamw_clip(Ctx{}, AdamWClipArgs<double>{.sum = sum, .clip = 99, .longest = 100, .scalars = scalars});
  CHECK(scalars(0).applied);
}

TEST_CASE("adamw: what is asked of a step is checked") {
  Tensor<AdamWScalars, 1> scalars{Shape<1>{1}};
  CHECK_THROWS_WITH_AS(adamw_request(Reference{}, AdamWRequestArgs{.learning_rate = -1, .scalars = scalars}),
                       "adamw_request: learning_rate is -1", value_error);
  CHECK_THROWS_WITH_AS(adamw_request(Cpu{1}, AdamWRequestArgs{.gradient_scale = 0, .scalars = scalars}),
                       "adamw_request: gradient_scale is 0, not above 0", value_error);
  CHECK_THROWS_AS(adamw_request(Cpu{1}, AdamWRequestArgs{}), shape_error);
  CHECK_THROWS_AS(adamw_clip(Cpu{1}, AdamWClipArgs<double>{.scalars = scalars}), shape_error);
}

TEST_CASE("adamw: what makes no sense is refused with its value") {
  auto a = Arrays<float>::make(8);
  Tensor<float, 1> wrong{Shape<1>{7}};
  std::vector<AdamWSegment> const segments{{0, 8, true}};
  auto const shape = [&](auto member, char const* message) {
    auto args = a.args(segments);
    args.*member = wrong;
    CHECK_THROWS_WITH_AS(adamw(Cpu{1}, args), message, shape_error);
  };
  shape(&AdamWArgs<float>::gradient, "adamw: gradient has shape (7,), master asks for (8,): extent 0 is 7, not 8");
  shape(&AdamWArgs<float>::first, "adamw: first has shape (7,), master asks for (8,): extent 0 is 7, not 8");
  shape(&AdamWArgs<float>::second, "adamw: second has shape (7,), master asks for (8,): extent 0 is 7, not 8");
  shape(&AdamWArgs<float>::weights, "adamw: weights has shape (7,), master asks for (8,): extent 0 is 7, not 8");
  auto const value = [&](auto member, auto number, char const* message) {
    auto args = a.args(segments);
    args.*member = number;
    CHECK_THROWS_WITH_AS(adamw(Cpu{1}, args), message, value_error);
  };
  value(&AdamWArgs<float>::step, 0, "adamw: step is 0, not at least 1");
  value(&AdamWArgs<float>::beta1, 1.0, "adamw: beta1 is 1, not in [0, 1)");
  value(&AdamWArgs<float>::beta2, -0.5, "adamw: beta2 is -0.5, not in [0, 1)");
  value(&AdamWArgs<float>::epsilon, 1e-60, "adamw: epsilon is 1e-60, not above 0");
  value(&AdamWArgs<float>::learning_rate, -1.0, "adamw: learning_rate is -1");
  value(&AdamWArgs<float>::learning_rate, HUGE_VAL, "adamw: learning_rate is inf");
  value(&AdamWArgs<float>::weight_decay, -0.1, "adamw: weight_decay is -0.1");
  auto const refused = [&](std::vector<AdamWSegment> const& bad, char const* message) {
    CHECK_THROWS_WITH_AS(adamw(Cpu{1}, a.args(bad)), message, value_error);
  };
  refused({{0, 9, true}}, "adamw: segment 0 is 9 elements from 0; the one before ends at 0, the array at 8");
  refused({{0, 4, true}, {3, 2, true}}, "adamw: segment 1 is 2 elements from 3; the one before ends at 4, the array at 8");
  refused({{5, -1, true}}, "adamw: segment 0 is -1 elements from 5; the one before ends at 0, the array at 8");
}
