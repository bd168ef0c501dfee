#include <blackmamba/ops/causal_conv1d/causal_conv1d.hpp>
#include <blackmamba/ops/causal_conv1d_step/causal_conv1d_step.hpp>

#include <cstring>

#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

struct Sizes {
  Index B, L, D, K;
};

/// Which optional arguments are given.
struct Options {
  bool bias = true, silu = true, initial = true;
};

template <class T>
struct Problem {
  Sizes sizes;
  Options options;
  Tensor<T, 3> x;
  Tensor<T, 2> weight;
  Tensor<T, 1> bias;
  Tensor<T, 3> initial;

  static Problem make(Sizes s, Options options, Index sequences = -1) {
    return {s,
            options,
            test::random_tensor<T>(Shape{s.B, s.L, s.D}, 1),
            test::random_tensor<T>(Shape{s.D, s.K}, 2),
            test::random_tensor<T>(Shape{s.D}, 3),
            test::random_tensor<T>(Shape{sequences < 0 ? s.B : sequences, s.K - 1, s.D}, 4)};
  }
  template <class To>
  Problem<To> in() const {
    return {sizes, options, converted<To>(x), converted<To>(weight), converted<To>(bias), converted<To>(initial)};
  }
  CausalConv1dArgs<T> args() const {
    CausalConv1dArgs<T> a{.x = x, .weight = weight, .silu = options.silu};
    if (options.bias) a.bias = bias;
    if (options.initial) a.initial_state = initial;
    return a;
  }
  verify::Cost cost() const { return {.terms = static_cast<double>(sizes.K + 1)}; }
};

template <class T>
struct Result {
  Tensor<T, 3> y, last;
};

template <class T, class Ctx>
Result<T> run(Ctx const& ctx, CausalConv1dArgs<T> args) {
  Index const sequences = args.offsets ? args.offsets.extent(0) - 1 : args.x.extent(0);
  Result<T> out{Tensor<T, 3>{args.x.shape()}, Tensor<T, 3>{Shape<3>{sequences, args.weight.extent(1) - 1, args.x.extent(2)}}};
  args.y = out.y;
  args.last_state = out.last;
  causal_conv1d(ctx, args);
  return out;
}

template <class T, class Ctx>
Result<T> run_steps(Ctx const& ctx, Problem<T> const& problem) {
  Result<T> out{Tensor<T, 3>{problem.x.shape()}, problem.initial.clone()};
  if (!problem.options.initial)
    for (T& x : out.last) x = static_cast<T>(accumulator_t<T>(0));
  auto const args = problem.args();
  for (Index t = 0; t < problem.sizes.L; ++t)
    causal_conv1d_step(ctx, CausalConv1dStepArgs<T>{.x = args.x.transposed(0, 1)[t],
                                                    .weight = args.weight,
                                                    .bias = args.bias,
                                                    .state = out.last,
                                                    .silu = args.silu,
                                                    .y = out.y.view().transposed(0, 1)[t]});
  return out;
}

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}

template <class T>
void check(Sizes const& s, Options const& options) {
  INFO(concat("B ", s.B, ", L ", s.L, ", D ", s.D, ", K ", s.K, ", bias ", options.bias, ", silu ", options.silu, ", initial ",
              options.initial));
  auto const problem = Problem<T>::make(s, options);
  auto const exact_problem = problem.template in<double>();
  auto const exact = run(Reference{}, exact_problem.args());
  auto const plain = run(Reference{}, problem.args()), one = run(Cpu{1}, problem.args()), two = run(Cpu{2}, problem.args());
  CHECK_CLOSE(verify::compare(plain.y.view(), exact.y.view(), problem.cost()));
  CHECK_CLOSE(verify::compare(one.y.view(), exact.y.view(), problem.cost()));
  CHECK(same_bits(one.y, two.y));
  // States are copies of inputs: exact.
  CHECK(same_bits(converted<double>(plain.last), exact.last));
  CHECK(same_bits(one.last, plain.last));
  CHECK(same_bits(two.last, plain.last));

  auto const plain_steps = run_steps(Reference{}, problem), one_steps = run_steps(Cpu{1}, problem),
             two_steps = run_steps(Cpu{2}, problem);
  CHECK_CLOSE(verify::compare(plain_steps.y.view(), exact.y.view(), problem.cost()));
  CHECK_CLOSE(verify::compare(one_steps.y.view(), exact.y.view(), problem.cost()));
  CHECK(same_bits(one_steps.y, two_steps.y));
  for (auto const* steps : {&plain_steps, &one_steps, &two_steps}) CHECK(same_bits(steps->last, plain.last));
}

template <class Body>
void on_every_context(Body&& body) {
  body(Reference{});
  body(Cpu{1});
  body(Cpu{2});
}

}  // namespace

TEST_CASE_TEMPLATE("causal_conv1d: every scalar, width and option agrees with the double reference, and so do single steps", T,
                   float, double, half, bf16) {
  for (Index K : {1, 2, 3, 4, 7})
    for (int bits = 0; bits < 8; ++bits) check<T>({2, 9, 11, K}, {(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0});
}

TEST_CASE_TEMPLATE("causal_conv1d: every shape agrees with the double reference, and one thread with two", T, float, double, half,
                   bf16) {
  for (Index K : {1, 4, 7})
    for (Index L : {0, 1, 2, 5})
      for (Index D : {0, 1, 7, 8, 17}) check<T>({2, L, D, K}, Options{});
  check<T>({0, 3, 4, 4}, Options{});
  check<T>({1, 40, 2050, 4}, Options{});
}

TEST_CASE("causal_conv1d: a sequence cut anywhere and continued from its last state equals the whole, bit for bit") {
  Sizes const s{2, 6, 9, 4};
  auto const problem = Problem<bf16>::make(s, Options{});
  on_every_context([&](auto const& ctx) {
    auto const whole = run(ctx, problem.args());
    for (Index cut = 0; cut <= s.L; ++cut) {
      Tensor<bf16, 3> y{Shape{s.B, s.L, s.D}};
      auto state = problem.initial.clone();
      for (auto const& [begin, count] : {std::pair{Index{0}, cut}, std::pair{cut, s.L - cut}}) {
        auto args = problem.args();
        args.x = args.x.slice(1, begin, count);
        args.y = y.view().slice(1, begin, count);
        args.initial_state = state;
        args.last_state = state;
        causal_conv1d(ctx, args);
      }
      CHECK(same_bits(y, whole.y));
      CHECK(same_bits(state, whole.last));
    }
  });
}

TEST_CASE("causal_conv1d: packed sequences of unequal length equal separate ones, bit for bit, with and without states") {
  Index const ends[]{0, 0, 1, 3, 3, 50, 50, 60};
  constexpr Index count = 7;
  Tensor<Index, 1> offsets{Shape{count + 1}};
  std::copy_n(ends, count + 1, offsets.data());
  Sizes const s{1, 60, 1030, 4};
  for (bool initial : {true, false}) {
    auto const problem = Problem<float>::make(s, {.initial = initial}, count);
    on_every_context([&](auto const& ctx) {
      auto packed_args = problem.args();
      packed_args.offsets = offsets;
      auto const packed = run(ctx, packed_args);
      for (Index q = 0; q < count; ++q) {
        auto args = problem.args();
        args.x = args.x.slice(1, ends[q], ends[q + 1] - ends[q]);
        if (initial) args.initial_state = args.initial_state.slice(0, q, 1);
        auto const alone = run(ctx, args);
        bool same = true;
        for (Index t = 0; t < alone.y.extent(1); ++t)
          for (Index d = 0; d < s.D; ++d) same &= packed.y(0, ends[q] + t, d) == alone.y(0, t, d);
        for (Index i = 0; i < s.K - 1; ++i)
          for (Index d = 0; d < s.D; ++d) same &= packed.last(q, i, d) == alone.last(0, i, d);
        CHECK(same);
      }
    });
  }
}

TEST_CASE_TEMPLATE("causal_conv1d: half of a wider row, and time innermost, give the same values", T, float, half) {
  Sizes const s{2, 5, 12, 4};
  auto const problem = Problem<T>::make(s, Options{});
  Tensor<T, 3> wide{Shape{s.B, s.L, 2 * s.D}}, turned{Shape{s.B, s.D, s.L}};
  for (Index b = 0; b < s.B; ++b)
    for (Index t = 0; t < s.L; ++t)
      for (Index d = 0; d < s.D; ++d) wide(b, t, d) = turned(b, d, t) = problem.x(b, t, d);
  on_every_context([&](auto const& ctx) {
    auto const expected = run(ctx, problem.args());
    auto args = problem.args();
    args.x = wide.view().slice(2, 0, s.D);
    CHECK(same_bits(run(ctx, args).y, expected.y));
  });
  auto args = problem.args();
  args.x = turned.view().transposed(1, 2);
  auto const expected = run(Reference{}, problem.args()), got = run(Cpu{2}, args);
  CHECK(same_bits(got.y, expected.y));
  CHECK(same_bits(got.last, expected.last));
}

TEST_CASE_TEMPLATE("causal_conv1d_step: y may be x", T, float, bf16) {
  Sizes const s{3, 1, 21, 4};
  auto const problem = Problem<T>::make(s, Options{});
  on_every_context([&](auto const& ctx) {
    auto const expected = run_steps(ctx, problem);
    auto x = problem.x.clone();
    auto state = problem.initial.clone();
    auto const rows = x.view().transposed(0, 1)[0];
    causal_conv1d_step(
        ctx, CausalConv1dStepArgs<T>{.x = rows, .weight = problem.weight, .bias = problem.bias, .state = state, .y = rows});
    CHECK(same_bits(x, expected.y));
    CHECK(same_bits(state, expected.last));
  });
}

TEST_CASE("causal_conv1d: on dual numbers the tangent is the response to the input, in which it is linear") {
  auto const problem = Problem<double>::make({1, 6, 5, 3}, {.bias = false, .silu = false});
  auto const direction = test::random_tensor<double>(problem.x.shape(), 30);
  auto duals = problem.in<Dual<double>>();
  for (Index i = 0; i < direction.size(); ++i) duals.x.data()[i].tangent = direction.data()[i];
  auto const got = run(Reference{}, duals.args());
  auto args = problem.args();
  args.x = direction;
  args.initial_state = {};
  auto const response = run(Reference{}, args);
  Tensor<double, 3> tangent{problem.x.shape()};
  for (Index i = 0; i < tangent.size(); ++i) tangent.data()[i] = got.y.data()[i].tangent;
  CHECK_CLOSE(verify::compare(tangent.view(), response.y.view(), problem.cost()));
}

TEST_CASE("causal_conv1d: arguments that disagree are refused with their numbers") {
  auto const problem = Problem<float>::make({2, 3, 6, 4}, Options{});
  auto args = problem.args();
  args.initial_state = args.initial_state.slice(1, 0, 2);
  CHECK_THROWS_WITH_AS(run(Reference{}, args),
                       "causal_conv1d: initial_state has shape (2, 2, 6), x and weight asks for (2, 3, 6): extent 1 is 2, not 3",
                       shape_error);
  args = problem.args();
  args.weight = args.weight.slice(1, 0, 0);
  Tensor<float, 3> y{problem.x.shape()};
  args.y = y;
  CHECK_THROWS_WITH_AS(causal_conv1d(Reference{}, args), "causal_conv1d: weight has shape (6, 0), a width of at least 1 is needed",
                       shape_error);
  Tensor<float, 3> state{Shape{Index{2}, Index{4}, Index{6}}};
  Tensor<float, 2> row{Shape{Index{2}, Index{6}}};
  CHECK_THROWS_WITH_AS(
      causal_conv1d_step(Reference{}, CausalConv1dStepArgs<float>{.x = row, .weight = problem.weight, .state = state, .y = row}),
      "causal_conv1d_step: state has shape (2, 4, 6), x and weight asks for (2, 3, 6): extent 1 is 4, not 3", shape_error);
}
