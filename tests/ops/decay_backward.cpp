#include <blackmamba/ops/decay/backward.hpp>
#include <blackmamba/ops/expand_heads/backward.hpp>

#include <cstring>

#include "support/op_test.hpp"

using namespace blackmamba;
using test::random_tensor;

namespace {

/// What the gradients are held to against dual numbers, as a share of the largest.
constexpr double bound = 1e-12;

template <class T, int Rank>
bool same_bits(Tensor<T, Rank> const& a, Tensor<T, Rank> const& b) {
  return a.shape() == b.shape() &&
         (a.size() == 0 || std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0);
}

template <class Body>
void on_every_context(Body&& body) {
  body(Reference{});
  body(Cpu{1});
  body(Cpu{2});
}

/// The derivative along each element of `input` alone.
template <int Rank, class Derivative>
Tensor<double, Rank> each_coordinate(Tensor<Dual<double>, Rank>& input, Derivative&& derivative) {
  Tensor<double, Rank> out{input.shape()};
  for (Index i = 0; i < input.size(); ++i) {
    input.data()[i].tangent = 1;
    out.data()[i] = derivative();
    input.data()[i].tangent = 0;
  }
  return out;
}

template <int Rank>
double weighted_tangent(Tensor<Dual<double>, Rank> const& y, Tensor<double, Rank> const& weights) {
  double sum = 0;
  for (Index i = 0; i < y.size(); ++i) sum += y.data()[i].tangent * weights.data()[i];
  return sum;
}

/// The options of `expand_heads` beside its shape.
struct HeadOptions {
  bool bias = true, softplus = true;
  double low = 0, high = 0;
};

template <class T>
struct Heads {
  HeadOptions options;
  Tensor<T, 2> x;
  Tensor<T, 1> bias;
  Tensor<T, 2> d_y;

  static Heads make(Index rows, Index H, Index P, HeadOptions options) {
    return {options, random_tensor<T>(Shape{rows, H}, 1), random_tensor<T>(Shape{H}, 2), random_tensor<T>(Shape{rows, H * P}, 3)};
  }
  template <class To>
  Heads<To> in() const {
    return {options, converted<To>(x), converted<To>(bias), converted<To>(d_y)};
  }
};

template <class T>
struct HeadGradients {
  Tensor<T, 2> x;
  Tensor<accumulator_t<T>, 1> bias;

  explicit HeadGradients(Heads<T> const& p) : x{p.x.shape()}, bias{p.bias.shape()} {}
};

template <class T>
ExpandHeadsBackwardArgs<T> args_of(Heads<T> const& p, HeadGradients<T>& out) {
  ExpandHeadsBackwardArgs<T> a{
      .x = p.x, .softplus = p.options.softplus, .low = p.options.low, .high = p.options.high, .d_y = p.d_y, .d_x = out.x};
  if (p.options.bias) a.bias = p.bias, a.d_bias = out.bias;
  return a;
}

template <class T, class Ctx>
HeadGradients<T> run(Ctx const& ctx, Heads<T> const& p) {
  HeadGradients<T> out{p};
  expand_heads_backward(ctx, args_of(p, out));
  return out;
}

}  // namespace

TEST_CASE("decay_backward: equals dual numbers through the forward pass in every coordinate") {
  auto const A_log = random_tensor<double>(Shape<2>{5, 7}, 1), d_A = random_tensor<double>(Shape<2>{5, 7}, 2);
  auto duals = converted<Dual<double>>(A_log);
  auto const expected = each_coordinate(duals, [&] {
    Tensor<Dual<double>, 2> A{duals.shape()};
    decay(Reference{}, DecayArgs<Dual<double>>{.A_log = duals, .A = A});
    return weighted_tangent(A, d_A);
  });
  on_every_context([&](auto const& ctx) {
    Tensor<double, 2> got{A_log.shape()};
    decay_backward(ctx, DecayBackwardArgs<double>{.A_log = A_log, .d_A = d_A, .d_A_log = got});
    CHECK_CLOSE(verify::compare_scaled(got.view(), expected.view(), bound));
  });
}

TEST_CASE_TEMPLATE("decay_backward: every scalar and shape agrees with the double reference, added to what was there", T, float,
                   double, half, bf16) {
  using A = accumulator_t<T>;
  for (auto const& shape : {Shape<2>{0, 4}, Shape<2>{3, 0}, Shape<2>{1, 1}, Shape<2>{3, 5}, Shape<2>{131, 16}}) {
    auto const A_log = random_tensor<T>(shape, 1);
    auto const d_A = random_tensor<A>(shape, 2), before = random_tensor<A>(shape, 3);
    auto const exact_A_log = converted<double>(A_log), exact_d_A = converted<double>(d_A);
    auto exact = converted<double>(before);
    decay_backward(Reference{}, DecayBackwardArgs<double>{.A_log = exact_A_log, .d_A = exact_d_A, .d_A_log = exact});
    on_every_context([&](auto const& ctx) {
      auto got = before.clone();
      decay_backward(ctx, DecayBackwardArgs<T>{.A_log = A_log, .d_A = d_A, .d_A_log = got});
      CHECK_CLOSE(verify::compare(got.view(), exact.view(), {.terms = 2, .scale = 1}));
      Tensor<A, 2> turned{Shape<2>{shape[1], shape[0]}};
      for (Index d = 0; d < shape[0]; ++d)
        for (Index n = 0; n < shape[1]; ++n) turned(n, d) = before(d, n);
      decay_backward(ctx, DecayBackwardArgs<T>{.A_log = A_log, .d_A = d_A, .d_A_log = turned.view().transposed(0, 1)});
      CHECK_CLOSE(verify::compare(turned.view().transposed(0, 1), exact.view(), {.terms = 2, .scale = 1}));
    });
  }
}

TEST_CASE("decay_backward: shapes that disagree are refused with their numbers") {
  Tensor<float, 2> A_log{Shape<2>{3, 4}}, d_A{Shape<2>{3, 4}}, d_A_log{Shape<2>{3, 4}};
  DecayBackwardArgs<float> args{.A_log = A_log, .d_A = d_A.view().slice(0, 0, 2), .d_A_log = d_A_log};
  CHECK_THROWS_WITH_AS(decay_backward(Cpu{1}, args),
                       "decay_backward: d_A has shape (2, 4), A_log asks for (3, 4): extent 0 is 2, not 3", shape_error);
  args.d_A = d_A;
  args.d_A_log = d_A_log.view().slice(1, 0, 3);
  CHECK_THROWS_WITH_AS(decay_backward(Cpu{1}, args),
                       "decay_backward: d_A_log has shape (3, 3), A_log asks for (3, 4): extent 1 is 3, not 4", shape_error);
}

TEST_CASE("expand_heads_backward: equals dual numbers through the forward pass in every coordinate") {
  for (HeadOptions const& options :
       {HeadOptions{}, HeadOptions{.bias = false}, HeadOptions{.softplus = false}, HeadOptions{.low = 0.5, .high = 1.2},
        HeadOptions{.softplus = false, .low = -0.6, .high = 0.4}}) {
    auto const problem = Heads<double>::make(7, 5, 3, options);
    auto duals = problem.in<Dual<double>>();
    auto const derivative = [&] {
      Tensor<Dual<double>, 2> y{duals.d_y.shape()};
      ExpandHeadsArgs<Dual<double>> args{
          .x = duals.x, .softplus = options.softplus, .low = options.low, .high = options.high, .y = y};
      if (options.bias) args.bias = duals.bias;
      expand_heads(Reference{}, args);
      return weighted_tangent(y, problem.d_y);
    };
    auto const x = each_coordinate(duals.x, derivative);
    auto const bias = each_coordinate(duals.bias, derivative);
    on_every_context([&](auto const& ctx) {
      auto const got = run(ctx, problem);
      CHECK_CLOSE(verify::compare_scaled(got.x.view(), x.view(), bound));
      CHECK_CLOSE(verify::compare_scaled(got.bias.view(), bias.view(), bound));
    });
  }
}

TEST_CASE_TEMPLATE("expand_heads_backward: every scalar and shape agrees with the double reference, and one thread with two", T,
                   float, double, half, bf16) {
  struct Sizes {
    Index rows, H, P;
  };
  for (auto const& s : {Sizes{0, 3, 2}, Sizes{2, 1, 0}, Sizes{1, 1, 1}, Sizes{5, 3, 7}, Sizes{65, 2, 8}, Sizes{131, 3, 17}}) {
    INFO(concat(s.rows, " rows, ", s.H, " heads of ", s.P));
    auto const problem = Heads<T>::make(s.rows, s.H, s.P, HeadOptions{.low = 0.01, .high = 1});
    auto const exact = run(Reference{}, problem.template in<double>());
    auto const plain = run(Reference{}, problem), one = run(Cpu{1}, problem), two = run(Cpu{2}, problem);
    for (auto const* got : {&plain, &one}) {
      CHECK_CLOSE(verify::compare(got->x.view(), exact.x.view(), {.terms = static_cast<double>(s.P), .scale = 1}));
      CHECK_CLOSE(verify::compare(got->bias.view(), exact.bias.view(), {.terms = static_cast<double>(s.rows * s.P), .scale = 1}));
    }
    CHECK(same_bits(one.x, two.x));
    CHECK(same_bits(one.bias, two.bias));
  }
}

TEST_CASE("expand_heads_backward: the bias' gradient is added to, strides change nothing, and either gradient may be left out") {
  auto const problem = Heads<float>::make(9, 4, 3, HeadOptions{});
  on_every_context([&](auto const& ctx) {
    auto const expected = run(ctx, problem);
    HeadGradients<float> got{problem};
    for (float& x : got.bias) x = 1;
    Tensor<float, 2> turned{Shape<2>{4, 9}}, d_y{Shape<2>{12, 9}};
    for (Index r = 0; r < 9; ++r)
      for (Index c = 0; c < 12; ++c) d_y(c, r) = problem.d_y(r, c);
    auto args = args_of(problem, got);
    args.d_x = turned.view().transposed(0, 1);
    args.d_y = d_y.view().transposed(0, 1);
    expand_heads_backward(ctx, args);
    for (Index h = 0; h < 4; ++h) {
      CHECK(got.bias(h) == 1 + expected.bias(h));
      for (Index r = 0; r < 9; ++r) CHECK(turned(h, r) == expected.x(r, h));
    }
    HeadGradients<float> only_x{problem}, only_bias{problem};
    args = args_of(problem, only_x);
    args.d_bias = {};
    expand_heads_backward(ctx, args);
    CHECK(same_bits(only_x.x, expected.x));
    args = args_of(problem, only_bias);
    args.d_x = {};
    expand_heads_backward(ctx, args);
    CHECK(same_bits(only_bias.bias, expected.bias));
  });
}

TEST_CASE("expand_heads_backward: arguments that disagree are refused with their numbers") {
  auto const problem = Heads<float>::make(2, 3, 2, HeadOptions{});
  HeadGradients<float> out{problem};
  auto args = args_of(problem, out);
  args.d_y = args.d_y.slice(1, 0, 5);
  CHECK_THROWS_WITH_AS(expand_heads_backward(Cpu{1}, args),
                       "expand_heads_backward: d_y has 5 channels, not a multiple of the 3 heads of x", value_error);
  args = args_of(problem, out);
  args.bias = {};
  CHECK_THROWS_WITH_AS(expand_heads_backward(Cpu{1}, args), "expand_heads_backward: d_bias is asked for, and bias is absent",
                       value_error);
  args = args_of(problem, out);
  args.d_x = args.d_x.slice(0, 0, 1);
  CHECK_THROWS_WITH_AS(expand_heads_backward(Cpu{1}, args),
                       "expand_heads_backward: d_x has shape (1, 3), x asks for (2, 3): extent 0 is 1, not 2", shape_error);
}
