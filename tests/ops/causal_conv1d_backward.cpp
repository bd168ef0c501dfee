#include <blackmamba/ops/causal_conv1d/backward.hpp>

#include <cstring>

#include "support/op_test.hpp"

using namespace blackmamba;
using test::random_tensor;

namespace {

/// What the gradients are held to against dual numbers, as a share of the largest.
constexpr double bound = 1e-12;

struct Sizes {
  Index B, L, D, K;
};

/// Which optional arguments are given.
struct Options {
  bool bias = true, silu = true, initial = true;

  static Options from_bits(int bits) { return {(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0}; }
  std::string describe() const { return concat("bias ", bias, ", silu ", silu, ", initial state ", initial); }
};

/// The inputs of a convolution and what comes back through its outputs.
template <class T>
struct Problem {
  using Acc = accumulator_t<T>;
  Sizes sizes;
  Options options;
  Tensor<T, 3> x;
  Tensor<T, 2> weight;
  Tensor<T, 1> bias;
  Tensor<T, 3> initial, d_y;
  Tensor<Acc, 3> d_last;

  static Problem make(Sizes s, Options options, View<Index const, 1> offsets = {}) {
    Shape<3> const state{offsets ? offsets.extent(0) - 1 : s.B, s.K - 1, s.D};
    return {s,
            options,
            random_tensor<T>(Shape{s.B, s.L, s.D}, 1),
            random_tensor<T>(Shape{s.D, s.K}, 2),
            random_tensor<T>(Shape{s.D}, 3),
            random_tensor<T>(state, 4),
            random_tensor<T>(Shape{s.B, s.L, s.D}, 5),
            random_tensor<Acc>(state, 6)};
  }
  template <class To>
  Problem<To> in() const {
    return {sizes,
            options,
            converted<To>(x),
            converted<To>(weight),
            converted<To>(bias),
            converted<To>(initial),
            converted<To>(d_y),
            converted<accumulator_t<To>>(d_last)};
  }
  /// An element sums up to K outputs, a weight all of them, and each knows its own K inputs.
  verify::Cost cost() const { return {.terms = static_cast<double>(2 * sizes.K + sizes.B * sizes.L), .scale = 1}; }
};

template <class T>
struct Gradients {
  using Acc = accumulator_t<T>;
  Tensor<T, 3> x;
  Tensor<Acc, 2> weight;
  Tensor<Acc, 1> bias;
  Tensor<Acc, 3> initial;

  explicit Gradients(Problem<T> const& p)
      : x{p.x.shape()}, weight{p.weight.shape()}, bias{p.bias.shape()}, initial{p.initial.shape()} {}

  /// Calls `body` with the name of each gradient, it, and that of `other`.
  template <class Other, class Body>
  void with(Other& other, Body&& body) {
    body("d_x", x, other.x), body("d_weight", weight, other.weight), body("d_bias", bias, other.bias);
    body("d_initial_state", initial, other.initial);
  }
};

template <class T>
CausalConv1dBackwardArgs<T> args_of(Problem<T> const& p, Gradients<T>& out) {
  CausalConv1dBackwardArgs<T> a{.x = p.x,
                                .weight = p.weight,
                                .silu = p.options.silu,
                                .d_y = p.d_y,
                                .d_last_state = p.d_last,
                                .d_x = out.x,
                                .d_weight = out.weight,
                                .d_initial_state = out.initial};
  if (p.options.bias) a.bias = p.bias, a.d_bias = out.bias;
  if (p.options.initial) a.initial_state = p.initial;
  return a;
}

template <class T, class Ctx>
Gradients<T> run(Ctx const& ctx, Problem<T> const& p, View<Index const, 1> offsets = {}) {
  Gradients<T> out{p};
  auto args = args_of(p, out);
  args.offsets = offsets;
  causal_conv1d_backward(ctx, args);
  return out;
}

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}
constexpr auto check_same_bits = [](char const* name, auto const& a, auto const& b) {
  INFO(name);
  CHECK(same_bits(a, b));
};

template <class Body>
void on_every_context(Body&& body) {
  body(Reference{});
  body(Cpu{1});
  body(Cpu{2});
}

template <class T>
void check(Sizes const& s, Options const& options, View<Index const, 1> offsets = {}) {
  INFO(concat("B ", s.B, ", L ", s.L, ", D ", s.D, ", K ", s.K, ", "), options.describe());
  auto const problem = Problem<T>::make(s, options, offsets);
  auto exact = run(Reference{}, problem.template in<double>(), offsets);
  auto plain = run(Reference{}, problem, offsets), one = run(Cpu{1}, problem, offsets), two = run(Cpu{2}, problem, offsets);
  for (auto* got : {&plain, &one})
    got->with(exact, [&](char const* name, auto const& mine, auto const& theirs) {
      INFO(name);
      CHECK_CLOSE(verify::compare(mine.view(), theirs.view(), problem.cost()));
    });
  one.with(two, check_same_bits);
}

/// The derivative of y · d_y + last_state · d_last_state along the tangents of `p`.
double derivative(Problem<Dual<double>> const& p, Problem<double> const& incoming, View<Index const, 1> offsets) {
  Tensor<Dual<double>, 3> y{p.x.shape()}, last{p.initial.shape()};
  CausalConv1dArgs<Dual<double>> args{
      .x = p.x, .weight = p.weight, .offsets = offsets, .last_state = last, .silu = p.options.silu, .y = y};
  if (p.options.bias) args.bias = p.bias;
  if (p.options.initial) args.initial_state = p.initial;
  causal_conv1d(Reference{}, args);
  double sum = 0;
  for (Index i = 0; i < y.size(); ++i) sum += y.data()[i].tangent * incoming.d_y.data()[i];
  for (Index i = 0; i < last.size(); ++i) sum += last.data()[i].tangent * incoming.d_last.data()[i];
  return sum;
}

void check_against_duals(Sizes const& s, Options const& options, View<Index const, 1> offsets = {}) {
  INFO(concat("K ", s.K, ", "), options.describe());
  auto const problem = Problem<double>::make(s, options, offsets);
  auto duals = problem.in<Dual<double>>();
  Gradients<double> single{problem};
  single.with(duals, [&](char const*, auto& gradient, auto& input) {
    for (Index i = 0; i < input.size(); ++i) {
      input.data()[i].tangent = 1;
      gradient.data()[i] = derivative(duals, problem, offsets);
      input.data()[i].tangent = 0;
    }
  });
  auto random = problem.in<Dual<double>>();
  std::uint64_t seed = 20;
  single.with(random, [&](char const*, auto const&, auto& input) {
    Random const normal{seed++};
    for (Index i = 0; i < input.size(); ++i) input.data()[i].tangent = normal.normal(static_cast<std::uint64_t>(i));
  });
  Tensor<double, 1> along{Shape{Index{1}}}, expected{Shape{Index{1}}};
  expected(0) = derivative(random, problem, offsets);
  on_every_context([&](auto const& ctx) {
    auto got = run(ctx, problem, offsets);
    if (!options.initial)  // the duals see no initial state to vary
      for (double& x : got.initial) x = 0;
    got.with(single, [](char const* name, auto const& mine, auto const& theirs) {
      INFO(name);
      CHECK_CLOSE(verify::compare_scaled(mine.view(), theirs.view(), bound));
    });
    along(0) = 0;
    got.with(random, [&](char const*, auto const& gradient, auto const& input) {
      for (Index i = 0; i < input.size(); ++i) along(0) += gradient.data()[i] * input.data()[i].tangent;
    });
    CHECK_CLOSE(verify::compare_scaled(along.view(), expected.view(), bound));
  });
}

Tensor<Index, 1> offsets_of(std::initializer_list<Index> values) {
  Tensor<Index, 1> out{Shape{static_cast<Index>(values.size())}};
  std::copy(values.begin(), values.end(), out.data());
  return out;
}

}  // namespace

TEST_CASE(
    "causal_conv1d_backward: equals dual numbers through the forward pass, in every coordinate and along a random direction") {
  for (Index K : {1, 2, 4})
    for (int bits = 0; bits < 8; ++bits) check_against_duals({2, 5, 3, K}, Options::from_bits(bits));
  check_against_duals({2, 2, 3, 5}, Options{});
  auto const offsets = offsets_of({0, 0, 4, 5, 5, 7, 12, 12});
  check_against_duals({1, 12, 3, 4}, Options{}, offsets);
}

TEST_CASE_TEMPLATE("causal_conv1d_backward: every scalar, width and option agrees with the double reference", T, float, double,
                   half, bf16) {
  for (Index K : {1, 2, 3, 4, 7})
    for (int bits = 0; bits < 8; ++bits) check<T>({2, 9, 11, K}, Options::from_bits(bits));
}

TEST_CASE_TEMPLATE("causal_conv1d_backward: every shape agrees with the double reference, and one thread with two", T, float,
                   double, half, bf16) {
  for (Index K : {1, 4, 7})
    for (Index L : {0, 1, 2, 5})
      for (Index D : {0, 1, 7, 8, 17}) check<T>({2, L, D, K}, Options{});
  check<T>({0, 3, 4, 4}, Options{});
  check<T>({1, 40, 515, 4}, Options{});
  check<T>({1, 300, 3, 4}, Options{});
  auto const offsets = offsets_of({0, 0, 4, 5, 5, 23, 40, 40});
  check<T>({1, 40, 19, 4}, Options{}, offsets);
  auto const empty = offsets_of({0, 0, 0});
  check<T>({1, 0, 9, 3}, Options{}, empty);
}

TEST_CASE("causal_conv1d_backward: parameters' gradients are added to, the others overwritten") {
  auto const problem = Problem<double>::make({2, 6, 9, 4}, Options{});
  on_every_context([&](auto const& ctx) {
    auto from_zero = run(ctx, problem);
    Gradients<double> from_one{problem};
    from_one.with(from_one, [](char const*, auto& x, auto&) {
      for (auto& element : x) element = 1;
    });
    causal_conv1d_backward(ctx, args_of(problem, from_one));
    for (double& x : from_zero.weight) x += 1;
    for (double& x : from_zero.bias) x += 1;
    CHECK_CLOSE(verify::compare(from_one.weight.view(), from_zero.weight.view(), problem.cost()));
    CHECK_CLOSE(verify::compare(from_one.bias.view(), from_zero.bias.view(), problem.cost()));
    CHECK(same_bits(from_one.x, from_zero.x));
    CHECK(same_bits(from_one.initial, from_zero.initial));
  });
}

TEST_CASE("causal_conv1d_backward: any gradient may be left out, an absent one of the last state is a zero one") {
  auto problem = Problem<float>::make({2, 9, 10, 4}, Options{});
  for (float& x : problem.d_last) x = 0;
  on_every_context([&](auto const& ctx) {
    auto all = run(ctx, problem);
    for (int left_out = 0; left_out < 4; ++left_out) {
      Gradients<float> some{problem};
      auto args = args_of(problem, some);
      args.d_last_state = {};
      int at = 0;
      auto const drop = [&](auto& view) {
        if (at++ == left_out) view = {};
      };
      drop(args.d_x), drop(args.d_weight), drop(args.d_bias), drop(args.d_initial_state);
      causal_conv1d_backward(ctx, args);
      at = 0;
      some.with(all, [&](char const* name, auto const& mine, auto const& theirs) {
        INFO(name);
        if (at++ == left_out)
          for (float x : mine) CHECK(x == 0);
        else
          CHECK(same_bits(mine, theirs));
      });
    }
  });
}

TEST_CASE_TEMPLATE("causal_conv1d_backward: strides change nothing: halves of wider rows, time innermost, a transposed weight", T,
                   float, bf16) {
  Sizes const s{2, 6, 11, 4};
  auto const problem = Problem<T>::make(s, Options{});
  Tensor<T, 3> wide{Shape{s.B, s.L, 2 * s.D}}, x{Shape{s.B, s.D, s.L}};
  Tensor<T, 2> weight{Shape{s.K, s.D}};
  for (Index b = 0; b < s.B; ++b)
    for (Index t = 0; t < s.L; ++t)
      for (Index d = 0; d < s.D; ++d) wide(b, t, s.D + d) = x(b, d, t) = problem.x(b, t, d);
  for (Index k = 0; k < s.K; ++k)
    for (Index d = 0; d < s.D; ++d) weight(k, d) = problem.weight(d, k);
  on_every_context([&](auto const& ctx) {
    auto expected = run(ctx, problem);
    Gradients<T> got{problem};
    Tensor<T, 3> d_wide{wide.shape()};
    auto args = args_of(problem, got);
    args.x = wide.view().slice(2, s.D, s.D);
    args.d_x = d_wide.view().slice(2, s.D, s.D);
    args.weight = weight.view().transposed(0, 1);
    causal_conv1d_backward(ctx, args);
    for (Index b = 0; b < s.B; ++b)
      for (Index t = 0; t < s.L; ++t)
        for (Index d = 0; d < s.D; ++d) CHECK(d_wide(b, t, s.D + d) == expected.x(b, t, d));
    CHECK(same_bits(got.weight, expected.weight));

    Gradients<T> turned{problem};
    Tensor<T, 3> d_x{x.shape()};
    args = args_of(problem, turned);
    args.x = x.view().transposed(1, 2);
    args.d_x = d_x.view().transposed(1, 2);
    causal_conv1d_backward(ctx, args);
    auto plain = run(Reference{}, problem);
    for (Index b = 0; b < s.B; ++b)
      for (Index t = 0; t < s.L; ++t)
        for (Index d = 0; d < s.D; ++d) CHECK(d_x(b, d, t) == plain.x(b, t, d));
    CHECK(same_bits(turned.initial, plain.initial));
  });
}

TEST_CASE("causal_conv1d_backward: arguments that disagree are refused with their numbers") {
  auto const problem = Problem<float>::make({2, 3, 6, 4}, Options{});
  Gradients<float> out{problem};
  auto const with = [&](auto&& change) {
    auto args = args_of(problem, out);
    change(args);
    on_every_context([&](auto const& ctx) { causal_conv1d_backward(ctx, args); });
  };
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.d_y = a.d_y.slice(1, 0, 2); }),
                       "causal_conv1d_backward: d_y has shape (2, 2, 6), x asks for (2, 3, 6): extent 1 is 2, not 3", shape_error);
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.d_weight = a.d_weight.slice(1, 0, 3); }),
                       "causal_conv1d_backward: d_weight has shape (6, 3), weight asks for (6, 4): extent 1 is 3, not 4",
                       shape_error);
  CHECK_THROWS_WITH_AS(
      with([](auto& a) { a.d_initial_state = a.d_initial_state.slice(1, 0, 2); }),
      "causal_conv1d_backward: d_initial_state has shape (2, 2, 6), x and weight asks for (2, 3, 6): extent 1 is 2, not 3",
      shape_error);
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.weight = a.weight.slice(1, 0, 0); }),
                       "causal_conv1d_backward: weight has shape (6, 0), a width of at least 1 is needed", shape_error);
  CHECK_THROWS_WITH_AS(with([](auto& a) { a.bias = {}; }), "causal_conv1d_backward: d_bias is asked for, and bias is absent",
                       value_error);
  auto const offsets = offsets_of({0, 2});
  auto const single = Problem<float>::make({1, 3, 6, 4}, Options{});
  CHECK_THROWS_WITH_AS(run(Cpu{1}, single, offsets), "causal_conv1d_backward: offsets[1] is 2, not the length 3", value_error);
}
